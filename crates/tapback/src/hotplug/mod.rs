//! The script of disks: what a toolstack runs when a device has come, and when it goes.
//!
//! ```text
//!   add:     a disk of this device, or one that it may share, else a tapdisk is started, attached and opened
//!            --> pid, minor, physical-device-path, hotplug-status=connected, in a transaction
//!   remove:  the same nodes go, in a transaction --> the disk is closed, detached and freed, unless another device names it
//! ```
//!
//! Toolstacks run it for many devices at the same time, and kill one that takes too long; so there is no lock, and what is
//! left of one that was killed is taken up by the next. Whose a disk is stands in the marker of its minor from the moment
//! on that the minor is reserved. That two devices share a disk is settled in XenStore: who joins reads, in the transaction
//! that names the disk, that another device still names it, and who leaves takes its own name away before it looks whether
//! there are others.
//!
//! What it writes goes into a directory that is still the one which was meant, or nowhere.

mod add;
mod arguments;
mod claim;
mod remove;

use std::{env, io::Write, path::Path, pin::pin, process::ExitCode, rc::Rc, time::Duration};

use block_core::{Error, ErrorKind, Result, ResultExt};
use clap::Parser;
use control_api::{Marker, Owner, RunDir};
use futures_util::future::{Either, select};
use rustix::io::Errno;
use storage_io::{EngineChoice, Executor};
use xen::{DomainId, store::Store};

use crate::{
    DeviceName, Disk, Tapdisks,
    daemon::{own_domain, store_address},
    finder::Search,
    owners::{Ended, device_of, end_marked},
};

use arguments::Action;
pub use arguments::ScriptArguments;

/// A toolstack kills scripts after 40 seconds; what went wrong is to be told before.
const WORK_MAX: Duration = Duration::from_secs(28);
/// How long what was started in vain may take to end.
const TIDY_MAX: Duration = Duration::from_secs(7);
/// Called by this name, it leaves the disk to the backend.
const LEAVING_NAME: &str = "block-oxtap";

/// Runs the program.
pub fn main() -> ExitCode {
    let arguments = ScriptArguments::parse();
    let called = env::args_os().next().unwrap_or_default();
    let leaves = Path::new(&called).file_name().is_some_and(|name| name == LEAVING_NAME);
    match run(&arguments, leaves) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "{}: {error}", if leaves { LEAVING_NAME } else { "block-tapdisk" });
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &ScriptArguments, leaves: bool) -> Result<()> {
    if leaves && arguments.action == Action::Remove {
        // The backend sees by itself that the device ends.
        return Ok(());
    }
    let owner = Owner::from_environment();
    let address = store_address()?;
    let executor = Executor::new(EngineChoice::Threads)?;
    let store = Store::connect(&executor, address).context("XenStore")?;
    executor.block_on(async {
        let script = within(&executor, WORK_MAX, Script::new(&executor, &store, &owner)).await?;
        match arguments.action {
            Action::Add if leaves => script.leave().await,
            Action::Add => script.add().await,
            Action::Remove => within(&executor, WORK_MAX, script.remove()).await,
        }
    })
}

/// One run, for one device.
struct Script {
    executor: Executor,
    store: Store,
    run: RunDir,
    domain: DomainId,
    device: DeviceName,
    tapdisks: Tapdisks,
    search: Rc<Search>,
}

impl Script {
    async fn new(executor: &Executor, store: &Store, owner: &Owner) -> Result<Script> {
        let domain = own_domain(store).await?;
        let unknown = || {
            let words = format!("{} names no device of domain {domain}", control_api::HOTPLUG_VARIABLE);
            Error::new(ErrorKind::Invalid, words)
        };
        let device = device_of(owner, domain).ok_or_else(unknown)?;
        let (executor, store, run) = (executor.clone(), store.clone(), RunDir::from_environment());
        let tapdisks = Tapdisks::new(&executor, run.clone());
        let search = Rc::new(Search::new(&executor, &run));
        Ok(Script { executor, store, run, domain, device, tapdisks, search })
    }

    /// The disks that belong to devices, with their markers as they are now.
    async fn owned(&self) -> Result<Vec<(Marker, DeviceName)>> {
        let run = self.run.clone();
        let owned = self.executor.blocking("whose disks are", move || -> Result<Vec<(Marker, Owner)>> {
            let mut owned = Vec::new();
            for minor in run.minors()? {
                let Some(marker) = run.open_marker(minor)? else { continue };
                let owner = run.minor_record(minor).owner;
                if run.is_marker(&marker) {
                    owned.push((marker, owner));
                }
            }
            Ok(owned)
        });
        let owned = owned.await??.into_iter();
        Ok(owned.filter_map(|(marker, owner)| Some((marker, device_of(&owner, self.domain)?))).collect())
    }

    /// Ends a disk, whatever of that was done before.
    async fn end(&self, marker: Marker) -> Result<()> {
        let minor = marker.minor();
        match end_marked(&self.executor, &self.run, marker, &|_| {}).await? {
            Ended::Freed => Ok(()),
            Ended::InUse => Err(Error::from_os(format!("minor {minor} serves a guest, and stays"), Errno::BUSY.into())),
        }
    }
}

/// What has not ended in time has failed.
async fn within<T>(executor: &Executor, time: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
    let (work, late) = (pin!(work), pin!(executor.sleep(time)));
    let first = select(work, late).await;
    match first {
        Either::Left((result, _)) => result,
        Either::Right(_) => {
            let words = format!("it has taken longer than {} s", time.as_secs());
            Err(Error::from_os(words, Errno::TIMEDOUT.into()))
        }
    }
}

/// A disk of a tapdisk that the nodes of a device name.
fn named(pid: Option<String>, minor: Option<String>) -> Option<Disk> {
    let number = |text: Option<String>| crate::nodes::number(text?.as_bytes());
    Some(Disk { pid: number(pid)?, minor: u16::try_from(number(minor)?).ok()? })
}
