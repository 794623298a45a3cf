//! A connection's socket: system calls that never wait, and readiness from the executor.

use std::{
    io::{IoSlice, IoSliceMut},
    net::SocketAddr,
    os::fd::OwnedFd,
    sync::Arc,
    time::Duration,
};

use block_core::Result;
use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, recv, recvmsg,
        sendmsg, sockopt,
    },
};
use storage_io::{Executor, Readiness};

/// What a local connection's send buffer is set to, as far as the system allows: a long reply then takes fewer turns.
const LOCAL_SEND_BUFFER_BYTES: usize = 4 << 20;

/// A peer that is silent so long is asked whether it is there, and then so often; after a few questions without an answer
/// the connection ends, and with it the place that it takes.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(15);

/// What a call that does not wait came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// So many bytes, at least one.
    Bytes(usize),
    /// None: it would have to wait.
    WouldWait,
    /// None ever again: the other side has ended, or the connection is broken.
    Ended,
}

/// A connected stream socket. Clones are the same connection.
#[derive(Clone, Debug)]
pub(super) struct Socket {
    descriptor: Arc<OwnedFd>,
    executor: Executor,
}

impl Socket {
    /// Takes a connection over. All calls say that they must not wait, so the descriptor's own flags, which another
    /// process may share, stay as they are.
    pub(super) fn new(executor: &Executor, descriptor: Arc<OwnedFd>) -> Self {
        // Each of these only makes it faster, or a dead peer known sooner.
        match sockopt::socket_domain(&descriptor) {
            Ok(AddressFamily::UNIX) => {
                let _ = sockopt::set_socket_send_buffer_size(&descriptor, LOCAL_SEND_BUFFER_BYTES);
            }
            Ok(AddressFamily::INET | AddressFamily::INET6) => {
                let _ = sockopt::set_tcp_nodelay(&descriptor, true);
                let _ = sockopt::set_tcp_keepidle(&descriptor, KEEPALIVE_AFTER);
                let _ = sockopt::set_tcp_keepintvl(&descriptor, KEEPALIVE_EVERY);
                let _ = sockopt::set_socket_keepalive(&descriptor, true);
            }
            _ => {}
        }
        Socket { descriptor, executor: executor.clone() }
    }

    /// Receives into `parts`, in order.
    pub(super) fn receive(&self, parts: &mut [IoSliceMut<'_>]) -> Progress {
        let mut ancillary = RecvAncillaryBuffer::default();
        let received = || recvmsg(&*self.descriptor, parts, &mut ancillary, RecvFlags::DONTWAIT);
        progress(rustix::io::retry_on_intr(received).map(|message| message.bytes))
    }

    /// What receiving a byte would come to.
    pub(super) fn peek(&self) -> Progress {
        let peeked = || recv(&*self.descriptor, &mut [0_u8; 1][..], RecvFlags::DONTWAIT | RecvFlags::PEEK);
        progress(rustix::io::retry_on_intr(peeked).map(|(count, _)| count))
    }

    /// Sends from `parts`, in order.
    pub(super) fn send(&self, parts: &[IoSlice<'_>]) -> Progress {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let sent = || sendmsg(&*self.descriptor, parts, &mut SendAncillaryBuffer::default(), flags);
        progress(rustix::io::retry_on_intr(sent))
    }

    /// Ends when there may be something to receive.
    pub(super) fn readable(&self) -> Readiness<'static> {
        self.executor.readable_owned(self.descriptor.clone())
    }

    /// Ends when there may be room to send.
    pub(super) fn writable(&self) -> Readiness<'static> {
        self.executor.writable_owned(self.descriptor.clone())
    }

    /// Sends all of `bytes`, waiting as long as it takes. False: the connection has ended.
    pub(super) async fn send_all(&self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            match self.send(&[IoSlice::new(bytes)]) {
                Progress::Bytes(count) => bytes = &bytes[count..],
                Progress::WouldWait if self.writable().await.is_ok() => {}
                Progress::WouldWait | Progress::Ended => return false,
            }
        }
        true
    }
}

/// Ends a connection's requests, from any thread: what the client has sent can still be received, then the end.
pub(super) fn end_input(descriptor: &OwnedFd) {
    // A connection that is broken already has ended.
    let _ = rustix::net::shutdown(descriptor, Shutdown::Read);
}

/// Ends a connection, from any thread. What was sent before still arrives.
pub(super) fn end(descriptor: &OwnedFd) {
    let _ = rustix::net::shutdown(descriptor, Shutdown::Both);
}

fn progress(result: rustix::io::Result<usize>) -> Progress {
    match result {
        Ok(0) | Err(_) if !matches!(result, Err(Errno::AGAIN)) => Progress::Ended,
        Ok(count) => Progress::Bytes(count),
        Err(_) => Progress::WouldWait,
    }
}

/// A TCP socket that listens.
pub(super) fn listen_tcp(address: SocketAddr) -> Result<(OwnedFd, SocketAddr)> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    Ok((listener.into(), address))
}
