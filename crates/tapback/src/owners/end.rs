//! The end of a disk that is nobody's any more: step by step, each as good when it was done before.

use std::{os::fd::OwnedFd, path::PathBuf, pin::pin, sync::Arc, time::Duration};

use block_core::{Error, Result, ResultExt};
use control_api::{
    Marker, Minor, RunDir,
    native::{Command, DiskSummary, ResultOf},
};
use futures_util::future::{Either, select};
use rustix::{
    io::Errno,
    process::{Pid, PidfdFlags, pidfd_open},
};
use storage_io::Executor;

use crate::{connection::Connection, supervision::exit};

/// A tapdisk says at once what it has.
pub(super) const LIST_MAX: Duration = Duration::from_secs(5);
/// Closing may take so long; then it is done by force.
const CLOSE_MAX: Duration = Duration::from_secs(10);
/// What waits for nothing takes no longer; a hang limit.
const STEP_MAX: Duration = Duration::from_secs(30);
/// Between two attempts to free a minor that a process still holds.
const FREE_PAUSE: Duration = Duration::from_millis(20);

/// What has become of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Nothing is left of it.
    Freed,
    /// A guest is served by it: it stays.
    InUse,
}

/// Closes a disk, detaches it, waits for its process if that was its last, and frees its minor. Whatever of that was done
/// before, by whomever, is as good; each step is told.
///
/// # Errors
/// With the step that failed, or has not ended. What is left can be ended by asking again.
pub async fn end_disk(executor: &Executor, run: &RunDir, minor: Minor, note: &dyn Fn(&str)) -> Result<Ended> {
    match run.open_marker(minor)? {
        Some(marker) => end_marked(executor, run, marker, note).await,
        None => Ok(Ended::Freed),
    }
}

/// As [`end_disk`], for the disk that has this marker, and for no other that is given its number meanwhile.
pub(crate) async fn end_marked(
    executor: &Executor,
    run: &RunDir,
    marker: Marker,
    note: &dyn Fn(&str),
) -> Result<Ended> {
    let (minor, number) = (marker.minor(), marker.minor().number());
    let holder = holder(executor, run, minor).await;
    if !run.is_marker(&marker) {
        // Somebody else has ended it, and what was found may be the next one.
        return Ok(Ended::Freed);
    }
    if let Some(Holder { pid, disk, is_last }) = holder {
        if !disk.rings.is_empty() {
            return Ok(Ended::InUse);
        }
        // Before its sockets go, which a process removes before it ends.
        let process = process(pid);
        note(&format!("minor {minor}: closing {}", disk.image.as_deref().unwrap_or("it")));
        let deadline_ms = u64::try_from(CLOSE_MAX.as_millis()).ok();
        let close = Command::Close { minor: number, force: false, deadline_ms };
        step(executor, "close", ask(executor, run, pid, close)).await?;
        note(&format!("minor {minor}: detaching it"));
        step(executor, "detach", ask(executor, run, pid, Command::Detach { minor: number })).await?;
        if is_last {
            note(&format!("minor {minor}: waiting for tapdisk {pid}"));
            let gone = async {
                match &process {
                    Some(process) => Ok(executor.readable(process).await?),
                    None => {
                        exit(executor.clone(), run.clone(), pid).await;
                        Ok(())
                    }
                }
            };
            step(executor, "waiting for its process", gone).await?;
        }
    }
    step(executor, "free", free(executor, run, marker)).await?;
    Ok(Ended::Freed)
}

/// What stands for a process; none if it has gone, or the kernel knows of no such thing.
fn process(pid: u32) -> Option<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw)?;
    pidfd_open(pid, PidfdFlags::empty()).ok()
}

/// Who has a disk.
struct Holder {
    pid: u32,
    disk: DiskSummary,
    /// The process has no other.
    is_last: bool,
}

async fn holder(executor: &Executor, run: &RunDir, minor: Minor) -> Option<Holder> {
    let mut pids = run.tapdisks().unwrap_or_default();
    // Usually the marker says who it is; that the process has it is what counts.
    let told = run.minor_record(minor).opened.map(|opened| opened.pid);
    pids.sort_by_key(|pid| Some(*pid) != told);
    for pid in pids {
        let asked = ask(executor, run, pid, Command::List {});
        // One that does not say what it has holds its markers: those are not freed.
        let Ok(Some(ResultOf::List(list))) = within(executor, LIST_MAX, asked).await else { continue };
        let is_last = list.disks.len() == 1;
        if let Some(disk) = list.disks.into_iter().find(|disk| disk.minor == minor.number()) {
            return Some(Holder { pid, disk, is_last });
        }
    }
    None
}

/// Has something done by a tapdisk; none if it has gone, or does not know the disk.
pub(super) async fn ask(executor: &Executor, run: &RunDir, pid: u32, command: Command) -> Result<Option<ResultOf>> {
    let socket: PathBuf = run.native_socket(pid);
    let asked = async {
        let Some(mut connection) = Connection::open(executor, socket).await? else { return Ok(None) };
        connection.ask(command, |_| {}).await.map(Some)
    };
    match asked.await {
        Err(error) if has_gone(&error) => Ok(None),
        asked => asked,
    }
}

/// The process has ended, or this disk has: somebody else may be ending it at the same time.
fn has_gone(error: &Error) -> bool {
    [Errno::NODEV, Errno::CONNRESET, Errno::PIPE, Errno::SHUTDOWN]
        .iter()
        .any(|errno| error.os_error() == Some(errno.raw_os_error()))
}

async fn free(executor: &Executor, run: &RunDir, marker: Marker) -> Result<()> {
    let marker = Arc::new(marker);
    loop {
        let (run, marker) = (run.clone(), marker.clone());
        match executor.blocking("freeing a minor", move || run.free_marker(&marker)).await? {
            // The record goes after the process, not before.
            Err(error) if error.os_error() == Some(Errno::AGAIN.raw_os_error()) => executor.sleep(FREE_PAUSE).await,
            freed => return freed,
        }
    }
}

/// A step, which has a name and does not take for ever.
pub(super) async fn step<T>(
    executor: &Executor,
    name: &'static str,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    within(executor, STEP_MAX, work).await.context(name)
}

pub(super) async fn within<T>(executor: &Executor, time: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
    let (work, late) = (pin!(work), pin!(executor.sleep(time)));
    let first = select(work, late).await;
    match first {
        Either::Left((result, _)) => result,
        Either::Right(_) => {
            Err(Error::from_os(format!("it has not ended after {} s", time.as_secs()), Errno::TIMEDOUT.into()))
        }
    }
}
