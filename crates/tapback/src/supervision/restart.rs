//! Help by another tapdisk with the same image.

use std::{cell::RefCell, collections::BTreeMap, ffi::OsString, rc::Rc, time::Duration};

use block_core::{Error, ErrorKind, Result, ResultExt};
use control_api::{
    Minor, Opened, RunDir,
    native::{Command, OpenImages},
};
use futures_util::future::LocalBoxFuture;
use rustix::io::Errno;
use storage_io::{Executor, Moment};

use super::{Casualty, Rescue, Rescued, failing::spawn};
use crate::{Disk, connection::Connection};

/// So often a disk usually gets another tapdisk within [`DEATHS_TIME`]: what kills each of them is no accident.
const DEATHS_MAX: usize = 3;
const DEATHS_TIME: Duration = Duration::from_secs(60);

/// Starts another tapdisk for the same disk: its number, its image, and how that was opened were kept by the one that
/// has gone. The new one waits until what the old one had under way has reached its storage. Limits that were set since are
/// forgotten.
#[derive(Clone)]
pub struct SameImage {
    executor: Executor,
    run: RunDir,
    /// Of the environment of tapdisks.
    variables: Rc<[(&'static str, OsString)]>,
    /// When tapdisks of each disk have gone.
    deaths: Rc<RefCell<BTreeMap<u16, Vec<Moment>>>>,
    deaths_max: usize,
}

impl SameImage {
    /// Tapdisks of this host, started with these variables.
    pub fn new(executor: &Executor, run: RunDir, variables: &[(&'static str, OsString)]) -> SameImage {
        let (variables, deaths) = (variables.into(), Rc::default());
        SameImage { executor: executor.clone(), run, variables, deaths, deaths_max: DEATHS_MAX }
    }

    /// However often the tapdisks of a disk have gone.
    pub fn without_end(self) -> SameImage {
        SameImage { deaths_max: usize::MAX, ..self }
    }

    async fn restart(self, dead: Disk) -> Result<Rescued> {
        self.count(dead)?;
        let minor = Minor::new(dead.minor).ok_or_else(|| unknown(dead))?;
        let record = self.run.minor_record(minor);
        let opened = record.opened.filter(|opened| opened.pid == dead.pid).ok_or_else(|| unknown(dead))?;
        let spawned = spawn(&self.executor, &self.run, &self.variables).await?;
        let disk = Disk { pid: spawned.pid, ..dead };
        match self.open(disk, &opened).await {
            Ok(()) => Ok(Rescued::Disk { disk, socket: self.run.nbd_socket(disk.pid, minor) }),
            Err(error) => {
                spawned.terminate();
                Err(error).context(format!("another tapdisk for {}", opened.image))
            }
        }
    }

    fn count(&self, dead: Disk) -> Result<()> {
        let now = self.executor.now();
        let mut deaths = self.deaths.borrow_mut();
        let deaths = deaths.entry(dead.minor).or_default();
        deaths.retain(|death| now - *death < DEATHS_TIME);
        if deaths.len() >= self.deaths_max {
            let words = format!("tapdisks of minor {} have gone {} times within a minute", dead.minor, deaths.len());
            return Err(Error::from_os(words, Errno::NODEV.into()));
        }
        deaths.push(now);
        Ok(())
    }

    async fn open(&self, disk: Disk, opened: &Opened) -> Result<()> {
        let gone = || Error::from_os(format!("tapdisk {} has gone", disk.pid), Errno::NODEV.into());
        let socket = self.run.native_socket(disk.pid);
        let mut connection = Connection::open(&self.executor, socket).await?.ok_or_else(gone)?;
        connection.ask(Command::Attach { minor: disk.minor }, |_| {}).await?;
        let open = OpenImages {
            minor: disk.minor,
            image: opened.image.clone(),
            read_only: opened.read_only,
            shared: opened.shared,
            buffered: opened.buffered,
            late: opened.late,
            ..OpenImages::default()
        };
        connection.ask(Command::Open(open), |_| {}).await.map(drop)
    }
}

fn unknown(disk: Disk) -> Error {
    Error::new(ErrorKind::NotFound, format!("nobody knows what minor {} was in tapdisk {}", disk.minor, disk.pid))
}

impl Rescue for SameImage {
    fn help(&self, casualty: Casualty) -> LocalBoxFuture<'static, Result<Rescued>> {
        Box::pin(self.clone().restart(casualty.disk))
    }
}

impl std::fmt::Debug for SameImage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SameImage({})", self.run.path().display())
    }
}
