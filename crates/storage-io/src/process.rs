//! What a daemon needs of its own process and the standard library does not offer: signals as something that an
//! executor waits for, and going to the background. It lives here because here is where calls of the kernel are made.

use std::{
    fs, io, mem,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    ptr,
};

use block_core::{Error, ErrorKind, Result};
use rustix::{
    io::Errno,
    process::{Pid, Signal},
};

use crate::Executor;

/// Signals that are taken from a descriptor one after the other, and do nothing by themselves any more.
#[derive(Debug)]
pub struct Signals(OwnedFd);

impl Signals {
    /// Takes over `signals` for the whole process.
    ///
    /// # Errors
    /// Threads have been started: they would still be interrupted the old way.
    pub fn take(signals: &[Signal]) -> Result<Signals> {
        require_single_thread("take over signals")?;
        let mut set = mem::MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: the set is written by this call, which fails only for a null pointer.
        let mut set = unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            set.assume_init()
        };
        for signal in signals {
            // SAFETY: the set was initialised above, and `Signal` holds only numbers that exist.
            unsafe { libc::sigaddset(&raw mut set, signal.as_raw()) };
        }
        // SAFETY: the set is initialised, and the old mask is not asked for.
        let result = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut()) };
        if result != 0 {
            return Err(Error::from_os("signal mask", io::Error::from_raw_os_error(result)));
        }
        // SAFETY: the set is initialised; -1 asks for a new descriptor.
        let descriptor = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if descriptor < 0 {
            return Err(Error::from_os("signalfd", io::Error::last_os_error()));
        }
        // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
        Ok(Signals(unsafe { OwnedFd::from_raw_fd(descriptor) }))
    }

    /// The next signal.
    pub async fn next(&self, executor: &Executor) -> Result<Signal> {
        loop {
            if let Some(signal) = self.try_next()? {
                return Ok(signal);
            }
            executor.readable(&self.0).await?;
        }
    }

    fn try_next(&self) -> Result<Option<Signal>> {
        // The number of the signal is the first field of what is read.
        let mut bytes = [0; mem::size_of::<libc::signalfd_siginfo>()];
        match rustix::io::read(&self.0, &mut bytes[..]) {
            Ok(_) => {
                let number = bytes.first_chunk().expect("the structure begins with its number");
                #[expect(clippy::host_endian_bytes, reason = "this comes from the kernel and goes nowhere")]
                let number = i32::from_ne_bytes(*number);
                Ok(Signal::from_named_raw(number))
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(error) => Err(Error::from_os(format!("signalfd {}", self.0.as_raw_fd()), error.into())),
        }
    }
}

/// Which of the two processes this is.
#[derive(Debug)]
pub enum Fork {
    /// The one that was there before.
    Parent {
        /// The new one.
        child: Pid,
    },
    /// The new one.
    Child,
}

/// Makes a second process that goes on from here.
///
/// # Errors
/// Threads have been started: the child would have their locks, and not them.
pub fn fork() -> Result<Fork> {
    require_single_thread("fork")?;
    // SAFETY: this is the only thread, so the child finds no lock held by a thread that it does not have.
    match unsafe { libc::fork() } {
        0 => Ok(Fork::Child),
        pid => match Pid::from_raw(pid) {
            Some(child) if pid > 0 => Ok(Fork::Parent { child }),
            _ => Err(Error::from_os("fork", io::Error::last_os_error())),
        },
    }
}

/// `/proc` may be missing in a container that serves nobody: then the caller's word is taken.
fn require_single_thread(what: &str) -> Result<()> {
    match fs::read_dir("/proc/self/task").map(Iterator::count) {
        Ok(1) | Err(_) => Ok(()),
        Ok(count) => Err(Error::new(ErrorKind::Invalid, format!("cannot {what}: there are {count} threads already"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tests run beside other threads, which is just what must be refused; that both work otherwise is seen where a
    /// daemon is run.
    #[test]
    fn a_process_with_threads_is_neither_forked_nor_muted() {
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || wait.recv());
        assert!(fork().unwrap_err().to_string().starts_with("cannot fork"));
        assert_eq!(Signals::take(&[Signal::USR1]).unwrap_err().kind(), ErrorKind::Invalid);
        drop(go);
        assert!(thread.join().unwrap().is_err());
    }
}
