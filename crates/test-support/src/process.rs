//! A process that a test is answerable for.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fs, io, thread};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// A hang limit, not a measure.
const STANDS_STILL_MAX: Duration = Duration::from_secs(60);

/// Kills one process, known by its id, when it goes out of scope.
///
/// It holds a process descriptor, so a recycled id never hits a stranger.
#[derive(Debug)]
pub struct ProcessGuard {
    pid: Pid,
    descriptor: OwnedFd,
    is_released: bool,
}

impl ProcessGuard {
    /// Takes charge of a running process.
    pub fn new(pid: u32) -> io::Result<ProcessGuard> {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
        let descriptor = pidfd_open(pid, PidfdFlags::empty())?;
        Ok(ProcessGuard { pid, descriptor, is_released: false })
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Sends a signal; a process that has ended already is not an error.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(&self.descriptor, signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Stops it with SIGSTOP, and waits until it stands still: the signal is only on its way when it has been sent, and a
    /// thread that still runs may do one thing more.
    ///
    /// # Panics
    /// If it does not stand still.
    pub fn stop(&self) -> io::Result<()> {
        self.signal(Signal::STOP)?;
        let threads = PathBuf::from(format!("/proc/{}/task", self.pid()));
        let deadline = Instant::now() + STANDS_STILL_MAX;
        let has_stopped = |thread: io::Result<fs::DirEntry>| thread.is_ok_and(|thread| has_stopped(&thread.path()));
        while !fs::read_dir(&threads).is_ok_and(|mut all| all.all(has_stopped)) {
            assert!(Instant::now() < deadline, "process {} never stands still", self.pid());
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Gives up the charge: the process goes on.
    pub fn release(mut self) {
        self.is_released = true;
    }

    /// Sends SIGKILL.
    pub fn kill(&self) -> io::Result<()> {
        self.signal(Signal::KILL)
    }

    /// Waits until the process has ended, at most for `limit`; says whether it has.
    pub fn wait_for_end(&self, limit: Duration) -> io::Result<bool> {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = Timespec::try_from(left).map_err(|_| io::ErrorKind::InvalidInput)?;
            match poll(&mut [PollFd::new(&self.descriptor, PollFlags::IN)], Some(&timeout)) {
                Ok(ready) => return Ok(ready > 0),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Whether the thread behind this entry of `/proc` is stopped. (The name of a thread stands in brackets.)
fn has_stopped(thread: &Path) -> bool {
    let line = fs::read_to_string(thread.join("stat")).unwrap_or_default();
    line.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with('T'))
}

impl Drop for ProcessGuard {
    fn drop(&mut self) {
        if !self.is_released {
            // Best effort: the process may belong to another user by now.
            let _ = self.kill();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_guarded_process_ends_with_its_guard() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let guard = ProcessGuard::new(child.id()).unwrap();
        assert_eq!(guard.pid(), child.id());
        assert!(!guard.wait_for_end(Duration::from_millis(10)).unwrap());
        drop(guard);
        assert!(!child.wait().unwrap().success());
    }

    #[test]
    fn an_ended_process_is_seen_to_have_ended() {
        let mut child = Command::new("true").spawn().unwrap();
        let guard = ProcessGuard::new(child.id()).unwrap();
        assert!(guard.wait_for_end(Duration::from_secs(60)).unwrap());
        child.wait().unwrap();
        guard.kill().unwrap();
    }
}
