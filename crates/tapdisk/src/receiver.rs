//! Taking descriptors that another process hands over: it connects, sends one message of some bytes (a name, or words
//! for the log) with one descriptor, and is done.

use std::{
    io::IoSliceMut,
    mem::MaybeUninit,
    os::{fd::OwnedFd, unix::net::UnixStream},
    pin::pin,
    time::Duration,
};

use futures_util::{
    FutureExt, StreamExt,
    future::{Either, select},
    select,
    stream::FuturesUnordered,
};
use rustix::{
    io::Errno,
    net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg},
};
use storage_io::{Executor, Task};

use crate::listener::Listener;

/// What a message may hold.
const MESSAGE_BYTES_MAX: usize = 16 << 10;
/// Connections that have not sent their message yet.
const CONNECTIONS_MAX: usize = 16;
/// How long a connection may take to send it.
const MESSAGE_WAIT_MAX: Duration = Duration::from_secs(10);

/// Gives every descriptor that arrives to `take`, with the words that came with it, until the task is dropped.
pub(crate) fn receive(executor: &Executor, listener: Listener, take: impl Fn(String, OwnedFd) + 'static) -> Task<()> {
    let executor = executor.clone();
    executor.clone().spawn(async move {
        let mut connections = FuturesUnordered::new();
        loop {
            let is_full = connections.len() >= CONNECTIONS_MAX;
            let accept = async {
                match is_full {
                    true => std::future::pending().await,
                    false => listener.accept(&executor).await,
                }
            };
            let mut accepting = pin!(accept.fuse());
            let accepted = select! {
                accepted = accepting => Some(accepted),
                received = connections.select_next_some() => {
                    if let Some((words, descriptor)) = received {
                        take(words, descriptor);
                    }
                    None
                }
            };
            match accepted {
                Some(Ok(stream)) => connections.push(message(&executor, stream)),
                // The socket itself is broken: nobody will ever connect.
                Some(Err(_)) => return,
                None => {}
            }
        }
    })
}

/// The one message of a connection, if it comes in time.
async fn message(executor: &Executor, stream: UnixStream) -> Option<(String, OwnedFd)> {
    let too_late = pin!(executor.sleep(MESSAGE_WAIT_MAX));
    let received = pin!(async {
        loop {
            match take_message(&stream) {
                Err(Errno::AGAIN) => executor.readable(&stream).await.ok()?,
                Err(Errno::INTR) => {}
                received => return received.ok().flatten(),
            }
        }
    });
    match select(received, too_late).await {
        Either::Left((message, _)) => message,
        Either::Right(_) => None,
    }
}

/// The words are a C string; descriptors behind the first are closed again.
fn take_message(stream: &UnixStream) -> rustix::io::Result<Option<(String, OwnedFd)>> {
    let mut bytes = vec![0; MESSAGE_BYTES_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let parts = &mut [IoSliceMut::new(&mut bytes)];
    let length = recvmsg(stream, parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT)?.bytes;
    let mut descriptors = ancillary.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect::<Vec<_>>(),
        _ => Vec::new(),
    });
    let words = bytes[..length].split(|byte| *byte == 0).next().unwrap_or_default();
    let words = String::from_utf8_lossy(words).into_owned();
    Ok(descriptors.next().map(|descriptor| (words, descriptor)))
}
