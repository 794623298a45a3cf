//! One connection with one deadline for everything: a peer that is slow in many small ways is as late as one that sleeps.

use std::{
    io,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown},
};

/// A connected stream socket, of whichever family.
pub(super) struct Peer {
    socket: OwnedFd,
    deadline: Instant,
}

impl Peer {
    /// Everything with it ends after so long.
    pub(super) fn new(socket: impl Into<OwnedFd>, patience: Duration) -> Peer {
        Peer { socket: socket.into(), deadline: Instant::now() + patience }
    }

    /// Some bytes; none at the end.
    pub(super) fn read(&self, bytes: &mut [u8]) -> io::Result<usize> {
        loop {
            match recv(&self.socket, &mut *bytes, RecvFlags::DONTWAIT) {
                Ok((length, _)) => return Ok(length),
                Err(Errno::AGAIN) => self.wait(PollFlags::IN)?,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// All of the bytes.
    pub(super) fn write(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match send(&self.socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(length) => bytes = &bytes[length..],
                Err(Errno::AGAIN) => self.wait(PollFlags::OUT)?,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Sends no more, and takes what is still under way: a socket that is closed with unread bytes throws away what it
    /// has sent.
    pub(super) fn end(mut self, patience: Duration, bytes_max: usize) -> io::Result<()> {
        self.deadline = self.deadline.min(Instant::now() + patience);
        shutdown(&self.socket, Shutdown::Write)?;
        let (mut bytes, mut taken) = ([0; 4096], 0);
        while taken < bytes_max {
            match self.read(&mut bytes)? {
                0 => break,
                length => taken += length,
            }
        }
        Ok(())
    }

    fn wait(&self, readiness: PollFlags) -> io::Result<()> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(|_| io::ErrorKind::InvalidInput)?;
        match poll(&mut [PollFd::new(&self.socket, readiness)], Some(&timeout)) {
            Ok(0) => Err(io::ErrorKind::TimedOut.into()),
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
