//! One client, from its connection to its end.
//!
//! ```text
//!   negotiate --> serve --> finish --DISC on a handed-over connection--> negotiate ...
//!        |          |          |
//!        +----------+----------+--> the socket is closed
//! ```

use std::{pin::pin, sync::Arc};

use futures_util::future::{Either, select};
use storage_io::Executor;
use virtual_disk::DiskQueue;

use super::{
    Limits, REQUEST_BYTES_MAX,
    budget::{Budget, Share},
    input::Input,
    session::{Handshake, Offer, Session, Step, Style, greet_oldstyle},
    socket::Socket,
    source::NbdSource,
};

/// How a connection came to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// Through a listening socket.
    Accepted,
    /// Another process passed its descriptor. It may be used for one session after the other: a disconnect is followed by
    /// a new greeting.
    HandedOver(Style),
}

/// What all connections of a server are bound by.
#[derive(Clone, Debug)]
pub(super) struct Terms {
    pub(super) limits: Limits,
    pub(super) budget: Arc<Budget>,
}

impl Terms {
    pub(super) fn new(limits: Limits) -> Terms {
        // The longest request must fit, or it would wait forever.
        let shared = limits.shared_bytes.max(REQUEST_BYTES_MAX as usize);
        Terms { limits, budget: Budget::new(shared) }
    }

    fn share(&self) -> Share {
        Share::new(&self.budget, self.limits.own_bytes.min(self.limits.bytes))
    }
}

/// Serves one client to its end, on one queue of the disk.
pub(super) async fn serve(queue: &DiskQueue, terms: &Terms, socket: Socket, origin: Origin) {
    let mut input = Input::new();
    loop {
        let Some(session) = begin(queue, terms.limits, &socket, &mut input, origin).await else { return };
        let source = NbdSource::new(queue, terms.limits, terms.share(), session, (socket.clone(), input));
        input = match (queue.serve(source).await.finish().await, origin) {
            (Some(input), Origin::HandedOver(_)) => input,
            _ => return,
        };
    }
}

/// Negotiates. `None`: the connection has ended, or should.
async fn begin(
    queue: &DiskQueue,
    limits: Limits,
    socket: &Socket,
    input: &mut Input,
    origin: Origin,
) -> Option<Session> {
    let offer = Offer::new(&queue.status().geometry()?);
    match origin {
        Origin::Accepted => in_time(queue.executor(), limits, negotiate(socket, input, offer)).await?,
        Origin::HandedOver(Style::New) => negotiate(socket, input, offer).await,
        Origin::HandedOver(Style::Old) => {
            let mut greeting = Vec::new();
            let session = greet_oldstyle(offer, &mut greeting);
            socket.send_all(&greeting).await.then_some(session)
        }
    }
}

async fn in_time<T>(executor: &Executor, limits: Limits, future: impl Future<Output = T>) -> Option<T> {
    match select(pin!(future), pin!(executor.sleep(limits.negotiation))).await {
        Either::Left((value, _)) => Some(value),
        Either::Right(_) => None,
    }
}

async fn negotiate(socket: &Socket, input: &mut Input, offer: Offer) -> Option<Session> {
    let mut out = Vec::new();
    let mut handshake = Handshake::new(offer, &mut out);
    loop {
        let step = match input.staged() {
            [] => Step::More,
            staged => {
                let (taken, step) = handshake.receive(staged, &mut out).ok()?;
                input.consume(taken);
                step
            }
        };
        if !socket.send_all(&out).await {
            return None;
        }
        out.clear();
        match step {
            Step::Transmission(session) => return Some(session),
            Step::Ended => return None,
            Step::More => {}
        }
        if !std::future::poll_fn(|cx| input.poll_fill(socket, cx)).await {
            return None;
        }
    }
}
