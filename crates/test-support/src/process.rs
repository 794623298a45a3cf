//! A process that a test is answerable for.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

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
