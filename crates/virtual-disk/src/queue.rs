//! A queue: the disk as the sources of one thread use it. It is told by home what to do with requests.
//!
//! ```text
//!   source --> Serve --door--> [gate] --request--> chain
//!                ^                        |
//!                +------ Outbox <---------+   answered exactly once; the outbox is emptied in batches
//! ```

use std::{
    cell::{Cell, OnceCell, RefCell},
    rc::{Rc, Weak},
    sync::Arc,
    task::Waker,
};

use block_core::{Error, ErrorKind};
use storage_io::{BufferPool, Executor, Receiver, ReplyTo, Sender, Signal, Task};

use crate::{
    Geometry, Limiter, Reporter, RequestSource, Settings, Status,
    counters::Recorder,
    outbox::Outbox,
    serve::Serve,
    writing::{Writer, Writers},
};

/// From home to a queue.
pub(crate) enum ToQueue {
    /// The disk runs.
    Open(Opening),
    /// Take nothing; what waits for a retry goes on waiting.
    Hold,
    /// Answer what comes, and what waits for a retry, with an error.
    Refuse(Error),
    /// Say when nothing runs, and how many requests had to end first.
    Drain(ReplyTo<u64>),
    /// Give up the answers of all that runs.
    Abandon,
}

/// What a queue needs to serve.
pub(crate) struct Opening {
    pub(crate) geometry: Geometry,
    pub(crate) settings: Settings,
    pub(crate) access: Access,
    pub(crate) chain: image_chain::QueueSeed,
}

/// What a queue knows of the disk's write access.
#[derive(Clone, Copy)]
pub(crate) struct Access {
    /// The images may be changed.
    pub(crate) writes: bool,
    /// That may come to an end: whoever changes them is counted.
    pub(crate) is_late: bool,
}

/// The images as one queue has them, from open to drain.
pub(crate) struct Opened {
    pub(crate) geometry: Geometry,
    pub(crate) settings: Settings,
    pub(crate) access: Access,
    pub(crate) chain: image_chain::Queue,
}

/// From a queue to home.
pub(crate) enum ToDisk {
    /// What is under way there?
    LookAt(ReplyTo<Vec<String>>),
    /// A request needs write access.
    Write(ReplyTo<block_core::Result<()>>),
    /// Nobody writes any more.
    LastWriterGone,
}

/// What happens to requests now.
#[derive(Clone)]
pub(crate) enum Gate {
    /// They go to the chain.
    Open(Rc<Opened>),
    /// They stay where they are.
    Held,
    /// They are answered with this error.
    Refusing(Error),
}

/// A queue that has not started: made at home by [`Disk::add_queue`](crate::Disk::add_queue), sent to the thread that
/// shall run it. The disk waits for it as for the others, so it must be started or dropped, not kept.
#[must_use = "a queue that is neither started nor dropped holds up its disk"]
pub struct QueueSeed {
    pub(crate) mail: Receiver<ToQueue>,
    pub(crate) recorder: Recorder,
    pub(crate) status: Arc<Status>,
    pub(crate) reporter: Arc<dyn Reporter>,
    pub(crate) limiter: Arc<Limiter>,
    pub(crate) writers: Arc<Writers>,
    pub(crate) home: Sender<ToDisk>,
}

impl QueueSeed {
    /// The number that the queue will have.
    pub fn number(&self) -> u16 {
        self.recorder.status().number()
    }

    /// The queue, on the thread of `executor`; sources take the buffers of their requests from `pool`.
    ///
    /// The disk forgets it when all its handles have gone, its sources have ended and what they asked has ended. A thread
    /// that ends before that ends the tasks of its executor ([`Executor::end_tasks`]), or the disk waits for it.
    pub fn start(self, executor: &Executor, pool: BufferPool) -> DiskQueue {
        let QueueSeed { mail, recorder, status, reporter, limiter, writers, home } = self;
        let core = Rc::new(Core {
            executor: executor.clone(),
            pool,
            status,
            recorder,
            reporter,
            limiter,
            writers,
            home,
            settings: Cell::default(),
            is_watched: Cell::new(false),
            held: Cell::new(0),
            gate: RefCell::new(Gate::Held),
            gate_changed: Signal::new(),
            draining: RefCell::default(),
            outboxes: RefCell::default(),
            generation: Cell::new(0),
            listening: OnceCell::new(),
        });
        let listening = executor.spawn(listen(Rc::downgrade(&core), mail));
        assert!(core.listening.set(listening).is_ok(), "a queue starts once");
        DiskQueue(core)
    }
}

impl std::fmt::Debug for QueueSeed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "QueueSeed({})", self.recorder.status().number())
    }
}

/// A queue of a disk, on the thread that runs it. A handle: clones are the same queue.
#[derive(Clone)]
pub struct DiskQueue(Rc<Core>);

impl DiskQueue {
    /// The executor that it runs on.
    pub fn executor(&self) -> &Executor {
        &self.0.executor
    }

    /// Where its sources take the buffers of their requests from.
    pub fn pool(&self) -> &BufferPool {
        &self.0.pool
    }

    /// What the disk publishes.
    pub fn status(&self) -> &Arc<Status> {
        &self.0.status
    }

    /// Its number among the queues of its disk; home's own is 0.
    pub fn number(&self) -> u16 {
        self.0.recorder.status().number()
    }

    /// Serves a source to its end, and then gives it back: requests are taken while the disk runs, held while it is
    /// paused, and answered with `Closed` when it is not open. Dropping the task gives up the answers of what runs.
    pub fn serve<S: RequestSource + 'static>(&self, source: S) -> Task<S> {
        self.0.executor.spawn(Serve::new(self.0.clone(), source))
    }
}

impl std::fmt::Debug for DiskQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DiskQueue({})", self.number())
    }
}

/// Does what home says, until one of the two has gone.
async fn listen(core: Weak<Core>, mut mail: Receiver<ToQueue>) {
    while let Some(message) = mail.recv().await {
        let Some(core) = core.upgrade() else { return };
        core.obey(message);
    }
    if let Some(core) = core.upgrade() {
        core.set_gate(Gate::Refusing(closed()));
    }
}

/// What all parts of a queue share. It lives as long as a handle, a source or a request of it does.
pub(crate) struct Core {
    pub(crate) executor: Executor,
    pool: BufferPool,
    pub(crate) status: Arc<Status>,
    pub(crate) recorder: Recorder,
    pub(crate) reporter: Arc<dyn Reporter>,
    pub(crate) limiter: Arc<Limiter>,
    writers: Arc<Writers>,
    pub(crate) home: Sender<ToDisk>,
    /// Those of the last open.
    pub(crate) settings: Cell<Settings>,
    /// A watchdog is there.
    pub(crate) is_watched: Cell<bool>,
    /// Requests that wait for their turn within the limits.
    held: Cell<usize>,
    gate: RefCell<Gate>,
    /// The gate is another one, or somebody who waits for it has lost interest.
    gate_changed: Signal,
    /// Who wants to know when nothing runs, and how much ran when they asked.
    draining: RefCell<Vec<(ReplyTo<u64>, u64)>>,
    outboxes: RefCell<Vec<Weak<Outbox>>>,
    /// Requests of an earlier generation are not answered any more.
    generation: Cell<u64>,
    listening: OnceCell<Task<()>>,
}

impl Core {
    fn obey(&self, message: ToQueue) {
        match message {
            ToQueue::Open(Opening { geometry, settings, access, chain }) => {
                let chain = chain.start(&self.executor);
                self.settings.set(settings);
                self.set_gate(Gate::Open(Rc::new(Opened { geometry, settings, access, chain })));
            }
            ToQueue::Hold => self.set_gate(Gate::Held),
            ToQueue::Refuse(error) => self.set_gate(Gate::Refusing(error)),
            ToQueue::Drain(reply) => {
                let running = self.recorder.in_flight().count();
                self.draining.borrow_mut().push((reply, running as u64));
                self.left(running);
            }
            ToQueue::Abandon => self.abandon(),
        }
    }

    /// What the kernel holds goes on, but nobody will hear of it.
    pub(crate) fn abandon(&self) {
        self.generation.set(self.generation.get() + 1);
        self.wake_sources();
    }

    /// Counts a request that waits for its turn within the limits, until what is returned is dropped.
    pub(crate) fn hold(self: &Rc<Self>) -> Counting {
        self.held.set(self.held.get() + 1);
        self.recorder.set_held(self.held.get());
        Counting(self.clone())
    }

    /// A source of this queue writes from now on.
    pub(crate) fn writer(&self) -> Writer {
        self.writers.add(&self.home)
    }

    pub(crate) fn gate(&self) -> Gate {
        self.gate.borrow().clone()
    }

    /// Waits until `look` finds what it wants in the gate.
    pub(crate) async fn find_at_gate<T>(&self, mut look: impl FnMut(&Gate) -> Option<T>) -> T {
        self.gate_changed.find(|| look(&self.gate.borrow())).await
    }

    /// Changes what happens to requests that come from now on.
    fn set_gate(&self, gate: Gate) {
        let before = self.gate.replace(gate);
        // The last handle of a chain tells home that it goes.
        drop(before);
        self.wake_sources();
        self.gate_changed.notify();
    }

    /// Those who wait at the gate look again, though it has not changed.
    pub(crate) fn look_again(&self) {
        self.gate_changed.notify();
    }

    /// So many requests are left that run.
    pub(crate) fn left(&self, running: usize) {
        if running == 0 {
            // Home may have gone, and with it the need for an answer.
            self.draining.take().into_iter().for_each(|(reply, ended)| _ = reply.answer(ended));
        }
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation.get()
    }

    pub(crate) fn new_outbox(&self) -> Rc<Outbox> {
        let outbox = Rc::new(Outbox::default());
        let mut outboxes = self.outboxes.borrow_mut();
        // Clients come and go while the disk stays as it is: those that have gone must not add up.
        outboxes.retain(|outbox| outbox.strong_count() > 0);
        outboxes.push(Rc::downgrade(&outbox));
        outbox
    }

    fn wake_sources(&self) {
        let mut outboxes = self.outboxes.borrow_mut();
        outboxes.retain(|outbox| outbox.strong_count() > 0);
        let wakers: Vec<_> = outboxes.iter().filter_map(Weak::upgrade).filter_map(|outbox| outbox.waker()).collect();
        drop(outboxes);
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// Counts a request that waits for its turn within the limits.
pub(crate) struct Counting(Rc<Core>);

impl Drop for Counting {
    fn drop(&mut self) {
        let Counting(core) = self;
        core.held.set(core.held.get() - 1);
        core.recorder.set_held(core.held.get());
    }
}

/// Why requests of a disk that is not open are refused.
pub(crate) fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the disk is closed")
}

#[cfg(test)]
pub(crate) mod tests {
    use storage_io::{SimulatedClock, mailbox};

    use super::*;

    /// A queue without a disk, on a simulated executor.
    pub(crate) fn simulated() -> Rc<Core> {
        let executor = Executor::simulated(1, SimulatedClock::new());
        let status = Arc::new(Status::new());
        let seed = QueueSeed {
            mail: mailbox().1,
            recorder: status.add_queue(),
            status,
            reporter: Arc::new(()),
            limiter: Arc::default(),
            writers: Arc::default(),
            home: mailbox().0,
        };
        started(seed, &executor)
    }

    pub(crate) fn started(seed: QueueSeed, executor: &Executor) -> Rc<Core> {
        seed.start(executor, BufferPool::new(0)).0
    }

    #[test]
    fn sources_that_have_gone_leave_nothing_behind() {
        let core = simulated();
        let _stays = core.new_outbox();
        for _ in 0..1000 {
            drop(core.new_outbox());
        }
        assert!(core.outboxes.borrow().len() <= 2, "{} outboxes", core.outboxes.borrow().len());
    }
}
