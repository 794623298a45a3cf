//! A connection to a tapdisk: bytes out, bytes in, and no more patience than was asked for.

use std::{
    fmt::Display,
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use block_core::{Error, ErrorKind, Result};
use rustix::{
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with, sockopt},
};

/// A connection, and what was read of it and not taken.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: UnixStream,
    path: PathBuf,
    unread: Vec<u8>,
}

impl Connection {
    /// Connects. Gives up, now and later, when nothing has moved for `timeout`.
    pub(crate) fn open(path: &Path, timeout: Option<Duration>) -> Result<Connection> {
        let stream = open(path, timeout).map_err(|error| failed(path, error))?;
        Ok(Connection { stream, path: path.into(), unread: Vec::new() })
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).map_err(|error| failed(&self.path, error))
    }

    /// What was read and not taken.
    pub(crate) fn unread(&self) -> &[u8] {
        &self.unread
    }

    /// Takes the first bytes of what was read.
    pub(crate) fn take(&mut self, length: usize) -> Vec<u8> {
        let rest = self.unread.split_off(length);
        std::mem::replace(&mut self.unread, rest)
    }

    /// Reads more.
    pub(crate) fn fill(&mut self) -> Result<()> {
        let mut bytes = [0; 16 << 10];
        match self.stream.read(&mut bytes) {
            Ok(0) => Err(self.not_understood("closed before the answer")),
            Ok(length) => {
                self.unread.extend_from_slice(&bytes[..length]);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(failed(&self.path, error)),
        }
    }

    /// What came makes no sense.
    pub(crate) fn not_understood(&self, words: impl Display) -> Error {
        Error::from_os(format!("{}: {words}", self.path.display()), Errno::PROTO.into())
    }
}

fn open(path: &Path, timeout: Option<Duration>) -> io::Result<UnixStream> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // Zero would mean "for ever" to the kernel.
    let timeout = timeout.map(|timeout| timeout.max(Duration::from_micros(1)));
    for direction in [sockopt::Timeout::Send, sockopt::Timeout::Recv] {
        // The one for sending also bounds connecting to somebody who does not accept.
        sockopt::set_socket_timeout(&socket, direction, timeout)?;
    }
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket.into())
}

/// The connection failed. When our own patience ended, which to the kernel is a call that would wait, the kind of the
/// error says so: a tapdisk may report a timeout, too.
fn failed(path: &Path, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => Error::new(ErrorKind::TimedOut, path.display().to_string()),
        _ => Error::from_os(path.display().to_string(), error),
    }
}
