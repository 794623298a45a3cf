//! What serves the connections of one queue, on the queue's own executor, and whatever else is given to it.
//!
//! ```text
//!   roster, at home --Handover--> worker --+--> device: a connection
//!          ^                               +--> device: a connection
//!          +---------- Report -------------+--> work of another export: a guest's ring
//! ```
//!
//! A worker ends when the server does, and with it what is left of its connections.

use std::{os::fd::OwnedFd, sync::Arc};

use std::time::Duration;

use block_core::{Result, ResultExt};
use futures_util::{FutureExt, StreamExt, future::LocalBoxFuture, select_biased, stream::FuturesUnordered};
use storage_io::{BufferPool, EngineChoice, Executor, Receiver, Sender};
use virtual_disk::{DiskQueue, QueueSeed};

use super::{
    device::{self, Origin, Terms},
    socket::Socket,
};

/// Work of another export: what a queue's thread does for it, from its beginning to its end.
pub type Work = Box<dyn FnOnce(DiskQueue) -> LocalBoxFuture<'static, ()> + Send>;

/// A connection, or other work, on its way to its queue.
pub(super) struct Handover {
    /// Tells them apart.
    pub(super) number: u64,
    pub(super) errand: Errand,
}

/// What a queue is to do.
pub(super) enum Errand {
    Connection {
        /// Home keeps the descriptor too, to end the connection whatever its queue does.
        descriptor: Arc<OwnedFd>,
        origin: Origin,
    },
    Other(Work),
}

/// What home is told of a connection, or of other work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Report {
    /// Its first byte may have been sent.
    Began(u64),
    /// Nothing of it is left.
    Ended(u64),
}

/// How often a queue that has ended looks whether storage has ended its work, too.
const LOOK_PERIOD: Duration = Duration::from_millis(10);

/// The mailboxes and rules of a worker.
pub(super) struct Post {
    pub(super) inbox: Receiver<Handover>,
    pub(super) reports: Sender<Report>,
    pub(super) terms: Terms,
}

/// The work of one queue, on its way to the thread that will do it. Dropping it is as good as a thread that could not
/// be started: its connections are served by others.
pub struct Worker {
    pub(super) seed: QueueSeed,
    pub(super) post: Post,
}

impl Worker {
    /// The number of its queue.
    pub fn queue(&self) -> u16 {
        self.seed.number()
    }

    /// The whole life of a queue's thread: an executor, and [`serve`](Self::serve) on it.
    ///
    /// # Errors
    /// The executor cannot be made.
    pub fn run(self, engine: EngineChoice, pool: BufferPool) -> Result<()> {
        let executor = Executor::new(engine).context("engine")?;
        executor.block_on(self.serve(&executor, pool));
        executor.end_tasks();
        Ok(())
    }

    /// Serves a queue's connections on `executor` until the server has no more use for it, and storage has ended all that
    /// was asked of it here, however long that takes: nobody else would hear of its end, and whoever closes the disk
    /// waits for it. Requests take their buffers from `pool`.
    pub async fn serve(self, executor: &Executor, pool: BufferPool) {
        self.post.serve(self.seed.start(executor, pool)).await;
        while executor.in_flight() > 0 {
            executor.sleep(LOOK_PERIOD).await;
        }
    }
}

impl Post {
    pub(super) async fn serve(mut self, queue: DiskQueue) {
        let mut connections = FuturesUnordered::new();
        loop {
            let report = select_biased! {
                handover = self.inbox.recv().fuse() => {
                    let Some(Handover { number, errand }) = handover else { return };
                    let served = serve(&queue, &self.terms, errand);
                    connections.push(async move {
                        served.await;
                        number
                    });
                    Report::Began(number)
                }
                number = connections.select_next_some() => Report::Ended(number),
            };
            // Without a home the inbox ends too.
            let _ = self.reports.send(report);
        }
    }
}

fn serve<'a>(queue: &'a DiskQueue, terms: &'a Terms, errand: Errand) -> LocalBoxFuture<'a, ()> {
    match errand {
        Errand::Connection { descriptor, origin } => {
            let socket = Socket::new(queue.executor(), descriptor);
            device::serve(queue, terms, socket, origin).boxed_local()
        }
        Errand::Other(work) => work(queue.clone()),
    }
}
