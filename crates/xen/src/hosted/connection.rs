//! A connection to the broker: one question, one answer, and what comes with it.

use std::{
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::OwnedFd,
    path::Path,
    sync::{Mutex, PoisonError},
};

use block_core::{Error, ErrorKind, Result, ResultExt};
use rustix::{
    cmsg_space,
    io::Errno,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags,
        SocketType, connect, recvmsg, send, sendmsg, socket_with,
    },
};

use super::{
    SOCKET_NAME,
    layout::{ANSWER_BYTES, Ask, decode, encode},
};
use crate::{Account, DomainId};

/// Descriptors that come with an answer, at most.
pub(super) const DESCRIPTORS_MAX: usize = 4;

/// A connection to the broker. Any thread may ask; the answers come at once.
#[derive(Debug)]
pub(super) struct Connection {
    domain: DomainId,
    /// Guards one question and its answer.
    socket: Mutex<OwnedFd>,
}

/// An answer of the broker.
pub(super) struct Answer {
    pub(super) numbers: [u32; 2],
    pub(super) descriptors: Vec<OwnedFd>,
}

impl Connection {
    /// Connects as a domain.
    ///
    /// # Errors
    /// What the operating system says; `NotFound` if the domain does not exist.
    pub(super) fn open(directory: &Path, domain: DomainId) -> Result<Connection> {
        let path = directory.join(SOCKET_NAME);
        let connected = || {
            let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
            connect(&socket, &SocketAddrUnix::new(&path)?)?;
            Ok(socket)
        };
        let socket = connected().map_err(|error: Errno| Error::from_os(path.display().to_string(), error.into()))?;
        let connection = Connection { domain, socket: Mutex::new(socket) };
        connection.ask(Ask::Hello, u32::from(domain.0), 0)?;
        Ok(connection)
    }

    pub(super) fn domain(&self) -> DomainId {
        self.domain
    }

    /// Asks, and waits for the answer.
    pub(super) fn ask(&self, ask: Ask, a: u32, b: u32) -> Result<Answer> {
        let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        let words = || format!("asking the broker ({ask:?} {a} {b})");
        let broken = |error: Errno| Error::from_os(words(), error.into());
        let question = encode([ask as u32, a, b]);
        rustix::io::retry_on_intr(|| send(&*socket, &question, SendFlags::NOSIGNAL)).map_err(broken)?;
        let mut bytes = [0; ANSWER_BYTES];
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = rustix::io::retry_on_intr(|| {
            recvmsg(&*socket, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)
        });
        if received.map_err(broken)?.bytes != ANSWER_BYTES {
            return Err(Error::new(ErrorKind::Closed, "the broker has gone")).context(words());
        }
        let mut descriptors = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                descriptors.extend(rights);
            }
        }
        let [status, first, second] = decode(&bytes);
        match i32::try_from(status) {
            Ok(0) => Ok(Answer { numbers: [first, second], descriptors }),
            number => {
                let number = number.unwrap_or(libc::EIO);
                Err(Error::from_os(words(), std::io::Error::from_raw_os_error(number)))
            }
        }
    }

    /// As [`ask`](Self::ask), with as many descriptors as are expected.
    pub(super) fn ask_for<const N: usize>(&self, ask: Ask, a: u32, b: u32) -> Result<([u32; 2], [OwnedFd; N])> {
        let answer = self.ask(ask, a, b)?;
        let found = answer.descriptors.try_into();
        let descriptors = found.map_err(|_| Error::new(ErrorKind::Invalid, "the broker's answer lacks descriptors"))?;
        Ok((answer.numbers, descriptors))
    }

    /// What a domain has granted, and what others use of it.
    pub(super) fn account(&self, domain: DomainId) -> Result<Account> {
        let [granted, used] = self.ask(Ask::Account, u32::from(domain.0), 0)?.numbers;
        Ok(Account { granted, used })
    }
}

/// Sends an answer with descriptors.
pub(super) fn answer(socket: &OwnedFd, numbers: [u32; 3], descriptors: &[std::os::fd::BorrowedFd<'_>]) -> bool {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage};
    let bytes = encode(numbers);
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return false;
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    rustix::io::retry_on_intr(|| sendmsg(socket, &[IoSlice::new(&bytes)], &mut ancillary, flags)).is_ok()
}
