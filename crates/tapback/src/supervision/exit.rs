//! The end of a process, seen by a descriptor that stands for it.

use std::{
    fmt, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use control_api::RunDir;
use rustix::{
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with},
    process::{Pid, PidfdFlags, WaitId, WaitIdOptions, pidfd_open, waitid},
};
use storage_io::Executor;

/// How often a process is looked at for which there is no descriptor, as on a kernel that has none.
const LOOK_PAUSE: Duration = Duration::from_millis(500);

/// How a tapdisk has ended, as far as anybody knows: the kernel tells that only to who has started it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// The process that has gone.
    pub pid: u32,
    /// Its status.
    pub status: Option<i32>,
    /// The signal that has ended it.
    pub signal: Option<i32>,
}

impl Exit {
    fn unknown(pid: u32) -> Exit {
        Exit { pid, status: None, signal: None }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tapdisk {} has gone", self.pid)?;
        match (self.status, self.signal) {
            (Some(status), _) => write!(f, ": it ended with status {status}"),
            (_, Some(signal)) => write!(f, ": it was ended by signal {signal}"),
            _ => Ok(()),
        }
    }
}

/// Ends when the tapdisk of this number has gone.
pub(crate) async fn exit(executor: Executor, run: RunDir, pid: u32) -> Exit {
    loop {
        // The descriptor first: whoever listens after that is the one that it stands for, or has gone since.
        let process = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH);
        let process = process.and_then(|process| pidfd_open(process, PidfdFlags::empty()));
        if matches!(process, Err(Errno::SRCH)) || !listens(&run, pid) {
            return Exit::unknown(pid);
        }
        match process {
            Ok(process) if executor.readable(&process).await.is_ok() => return ended(pid, &process),
            // Nobody stands for it: it is looked at now and then.
            _ => executor.sleep(LOOK_PAUSE).await,
        }
    }
}

/// Whether a tapdisk of this number listens.
fn listens(run: &RunDir, pid: u32) -> bool {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let connected = SocketAddrUnix::new(run.native_socket(pid)).and_then(|address| {
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        connect(&socket, &address)
    });
    !matches!(connected, Err(Errno::NOENT | Errno::CONNREFUSED))
}

/// What is known of the end of a process. It stays to be waited for by whoever has started it.
fn ended(pid: u32, process: &OwnedFd) -> Exit {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    match waitid(WaitId::PidFd(process.as_fd()), options) {
        Ok(Some(status)) => Exit { pid, status: status.exit_status(), signal: status.terminating_signal() },
        _ => Exit::unknown(pid),
    }
}

/// Ends when the process of a descriptor has ended; what it left is taken, so that nothing is left of it.
pub(super) async fn reaped(executor: &Executor, process: BorrowedFd<'_>) -> io::Result<Option<i32>> {
    executor.readable(&process).await.map_err(io::Error::other)?;
    let status = waitid(WaitId::PidFd(process), WaitIdOptions::EXITED | WaitIdOptions::NOHANG)?;
    Ok(status.and_then(|status| status.exit_status()))
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixListener, process::Command};

    use storage_io::EngineChoice;

    use super::*;

    fn host() -> (tempfile::TempDir, RunDir, Executor) {
        let directory = tempfile::tempdir().unwrap();
        let run = RunDir::at(directory.path());
        (directory, run, Executor::new(EngineChoice::Inline).unwrap())
    }

    #[test]
    fn a_child_that_ends_tells_how() {
        let (_directory, run, executor) = host();
        for (script, expected) in [("read x; exit 3", (Some(3), None)), ("read x; kill -9 $$", (None, Some(9)))] {
            let mut command = Command::new("sh");
            let mut child = command.args(["-c", script]).stdin(std::process::Stdio::piped()).spawn().unwrap();
            let _listener = UnixListener::bind(run.native_socket(child.id())).unwrap();
            let watching = executor.spawn(exit(executor.clone(), run.clone(), child.id()));
            executor.block_on(executor.yield_now());
            drop(child.stdin.take());
            let exit = executor.block_on(watching);
            assert_eq!((exit.status, exit.signal), expected);
            assert!(child.wait().is_ok(), "it is left to whoever has started it");
        }
    }

    #[test]
    fn a_number_that_another_process_has_got_is_no_tapdisk() {
        let (_directory, run, executor) = host();
        let own = std::process::id();
        assert_eq!(executor.block_on(exit(executor.clone(), run.clone(), own)), Exit::unknown(own));
        drop(UnixListener::bind(run.native_socket(own)).unwrap());
        assert_eq!(executor.block_on(exit(executor.clone(), run, own)), Exit::unknown(own), "a socket that was left");
    }

    #[test]
    fn a_number_that_no_process_has_is_gone() {
        let (_directory, run, executor) = host();
        for pid in [0, u32::MAX] {
            assert_eq!(executor.block_on(exit(executor.clone(), run.clone(), pid)), Exit::unknown(pid));
        }
    }
}
