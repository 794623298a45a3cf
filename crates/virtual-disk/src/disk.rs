//! A disk and what is done to it: open, pause, quiesce, resume, grow, close.
//!
//! What is done runs as a job of its own, one at a time ([`crate::jobs`]). Whoever asked may go away: a job that has
//! begun goes on, and closing by force does not wait for it longer than [`FORCED_CLOSE_GRACE`].

use std::{
    cell::{Cell, RefCell},
    pin::pin,
    rc::{Rc, Weak},
    sync::Arc,
    time::Duration,
};

use block_core::{Error, ErrorKind, Result};
use futures_util::future::{Either, select};
use image_chain::{ChainSpec, Home, Resting, Writing};
use storage_io::{BufferPool, Executor, Moment, Opener, Receiver, ReplyTo, Sender, Signal, mailbox};
use uuid::Uuid;

use crate::{
    DiskState, Geometry, Limiter, Reporter, Settings, Status,
    jobs::{CLOSING, Jobs, WAITING},
    members::Members,
    queue::{Access, DiskQueue, Opening, QueueSeed, ToDisk, ToQueue, closed},
    state::Intake,
    watchdog::words,
    writing::Writers,
};

/// How long closing by force lets running requests end before it gives up their answers.
pub const FORCED_CLOSE_GRACE: Duration = Duration::from_secs(5);

/// A virtual disk, on its home executor: what clients and guests see of an image chain. Clones are the same disk.
#[derive(Clone)]
pub struct Disk {
    inner: Rc<Inner>,
    /// Home's own queue. Apart, since it must not keep itself alive.
    queue: DiskQueue,
}

/// What a disk that came to rest tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quiet {
    /// How long requests took to end.
    pub drained: Duration,
    /// How long it took to make everything durable.
    pub flushed: Duration,
    /// How many requests had to end.
    pub requests: u64,
}

pub(crate) struct Inner {
    pub(crate) executor: Executor,
    pub(crate) opener: Rc<dyn Opener>,
    reporter: Arc<dyn Reporter>,
    limiter: Arc<Limiter>,
    /// What queues ask.
    pub(crate) questions: Sender<ToDisk>,
    pub(crate) status: Arc<Status>,
    pub(crate) members: Members,
    state: Cell<DiskState>,
    /// The open images.
    pub(crate) chain: RefCell<Option<Chain>>,
    /// The open files of a quiesced disk.
    pub(crate) resting: RefCell<Option<Resting>>,
    /// What to open on resume, if nothing else is said.
    pub(crate) spec: RefCell<Option<ChainSpec>>,
    /// What the leaf was known as.
    pub(crate) identity: Cell<Option<Uuid>>,
    settings: Cell<Settings>,
    /// Write access comes with the first writer.
    pub(crate) is_late: Cell<bool>,
    pub(crate) writers: Arc<Writers>,
    /// Who waits for write access.
    pub(crate) want_to_write: RefCell<Vec<ReplyTo<Result<()>>>>,
    pub(crate) jobs: Jobs,
    /// State, jobs or force have changed.
    pub(crate) changed: Signal,
}

/// The open images, and what they look like.
pub(crate) struct Chain {
    pub(crate) home: Home,
    pub(crate) geometry: Geometry,
}

impl Disk {
    pub(crate) fn inner(&self) -> &Rc<Inner> {
        &self.inner
    }

    /// A disk that is attached and has no images yet. `opener` opens its files; sources of home's own queue take their
    /// buffers from `pool`; `reporter` is told what happens to requests, by whichever thread it happens on.
    pub fn new(executor: &Executor, opener: Rc<dyn Opener>, pool: BufferPool, reporter: Arc<dyn Reporter>) -> Disk {
        let (questions, asked) = mailbox();
        let inner = Rc::new(Inner {
            executor: executor.clone(),
            opener,
            reporter,
            limiter: Arc::default(),
            questions,
            status: Arc::new(Status::new()),
            members: Members::default(),
            state: Cell::new(DiskState::Attached),
            chain: RefCell::default(),
            resting: RefCell::default(),
            spec: RefCell::default(),
            identity: Cell::default(),
            settings: Cell::default(),
            is_late: Cell::default(),
            writers: Arc::default(),
            want_to_write: RefCell::default(),
            jobs: Jobs::default(),
            changed: Signal::default(),
        });
        executor.spawn(answer(executor.clone(), Rc::downgrade(&inner), asked)).detach();
        let queue = inner.add_queue().start(executor, pool);
        Disk { inner, queue }
    }

    /// What the disk publishes for other threads.
    pub fn status(&self) -> Arc<Status> {
        self.inner.status.clone()
    }

    /// Its home executor.
    pub fn executor(&self) -> &Executor {
        &self.inner.executor
    }

    /// How fast it may be; any thread may change it.
    pub fn limiter(&self) -> Arc<Limiter> {
        self.inner.limiter.clone()
    }

    /// Home's own queue: number 0.
    pub fn queue(&self) -> DiskQueue {
        self.queue.clone()
    }

    /// A further queue, to be sent to the thread that shall run it. It does from the start what the others do: serves,
    /// holds or refuses.
    pub fn add_queue(&self) -> QueueSeed {
        self.inner.add_queue()
    }

    /// Opens the images. The disk is as before if that fails.
    pub async fn open(&self, spec: ChainSpec, settings: Settings) -> Result<Geometry> {
        let disk = &self.inner;
        disk.my_turn().await;
        let before = disk.state();
        if !before.may_become(DiskState::Opening) {
            return Err(Error::new(ErrorKind::Busy, "the disk is open already"));
        }
        disk.settings.set(settings);
        disk.is_late.set(spec.access == storage_io::Access::Write && spec.writing == Writing::Later);
        disk.status.set_trouble(None);
        disk.enter(DiskState::Opening);
        let inner = disk.clone();
        disk.reading(async move { inner.open(spec, before).await }).await
    }

    /// Takes no more requests, lets those that run end, makes everything durable and closes every file; requests that
    /// come then are held. A disk that is paused already stays so.
    ///
    /// If a deadline is given and requests have not ended by then, the error says which, and the disk runs on. (If it
    /// passes while the images are being closed, which cannot be turned back, the error says so and the disk becomes
    /// paused later.) Also if not everything could be made durable, the disk runs on.
    pub async fn pause(&self, deadline: Option<Duration>) -> Result<Quiet> {
        self.rest(deadline, DiskState::Paused).await
    }

    /// As [`pause`](Self::pause), but every file stays open, and only the writer's lock is given up: others may change the
    /// images until [`resume`](Self::resume), which takes the lock again and reads everything anew.
    pub async fn quiesce(&self, deadline: Option<Duration>) -> Result<Quiet> {
        self.rest(deadline, DiskState::Quiesced).await
    }

    async fn rest(&self, deadline: Option<Duration>, goal: DiskState) -> Result<Quiet> {
        let disk = &self.inner;
        let end = deadline.map(|deadline| disk.executor.now() + deadline);
        disk.in_time(end, disk.my_turn()).await.ok_or_else(|| disk.late(disk.jobs.step()))?;
        match (disk.state(), goal) {
            (DiskState::Paused | DiskState::ResumeFailed, DiskState::Paused)
            | (DiskState::Quiesced, DiskState::Quiesced) => return Ok(Quiet::default()),
            (DiskState::Quiesced, DiskState::Paused) => {
                disk.let_go();
                disk.enter(DiskState::Paused);
                return Ok(Quiet::default());
            }
            (DiskState::Running, DiskState::Paused) => disk.enter(DiskState::Pausing),
            (DiskState::Running, _) => disk.enter(DiskState::Quiescing),
            (state, _) => return Err(unfit(state)),
        }
        let inner = disk.clone();
        self.settling(end, async move { inner.rest(end, goal).await }).await
    }

    /// Runs a job that begins with waiting for requests to end; whoever asked does not wait longer than to `end`.
    async fn settling<T: 'static>(
        &self,
        end: Option<Moment>,
        body: impl Future<Output = Result<T>> + 'static,
    ) -> Result<T> {
        let disk = &self.inner;
        let mut job = pin!(disk.job(body));
        let closing_late = pin!(async {
            disk.sleep_until(end).await;
            disk.changed.until(|| disk.jobs.step() == CLOSING).await;
        });
        match select(&mut job, closing_late).await {
            Either::Left((result, _)) => result,
            Either::Right(_) => Err(disk.late(CLOSING)),
        }
    }

    /// Opens the images of a paused disk again, or those of `spec`, and serves what was held. Of a quiesced disk the same
    /// files are read anew, unless there is a `spec`. The sector size must be what it was, and the disk may be larger than
    /// before, but not smaller; a leaf that is not named anew must be the same image. The disk stays paused, or quiesced,
    /// if that fails, and the status says why. An image that is named and can be opened, but does not fit, is what the
    /// next resume without a name tries: a disk that was quiesced closes its files and is paused from then on.
    pub async fn resume(&self, spec: Option<ChainSpec>) -> Result<Geometry> {
        let disk = &self.inner;
        disk.my_turn().await;
        let before = disk.state();
        if !before.may_become(DiskState::Resuming) {
            return Err(Error::new(ErrorKind::Invalid, "the disk is not paused"));
        }
        disk.enter(DiskState::Resuming);
        let inner = disk.clone();
        disk.reading(async move { inner.resume(spec).await }).await
    }

    /// Adopts what an image has grown to, holding requests meanwhile; with `bytes`, makes it that long first: a raw file,
    /// or a VHD image as far as its table goes. The disk is as before if that fails.
    pub async fn grow(&self, bytes: Option<u64>) -> Result<Geometry> {
        let disk = &self.inner;
        disk.my_turn().await;
        match disk.state() {
            DiskState::Running => disk.enter(DiskState::Growing),
            state => return Err(unfit(state)),
        }
        let inner = disk.clone();
        disk.job(async move { inner.grow(bytes).await }).await
    }

    /// Refuses new requests, lets those that run end, makes everything durable and closes every file.
    pub async fn close(&self) -> Result<()> {
        let disk = &self.inner;
        disk.my_turn().await;
        match disk.state() {
            DiskState::Closed => return Ok(()),
            DiskState::Attached => {
                disk.enter(DiskState::Closed);
                return Ok(());
            }
            DiskState::Stuck => return Err(disk.trouble()),
            _ => disk.enter(DiskState::Closing),
        }
        let inner = disk.clone();
        disk.job(async move {
            inner.at_step(WAITING);
            inner.members.drained().await;
            inner.close_images(DiskState::Closed).await
        })
        .await
    }

    /// As [`close`](Self::close), in bounded time whatever hangs. If storage has not ended its work within
    /// [`FORCED_CLOSE_GRACE`], the requests that run lose their answers, and the error says what was waited for. The disk
    /// is then stuck: files and locks stay until storage lets go, and it becomes closed by itself.
    pub async fn force_close(&self) -> Result<()> {
        let disk = &self.inner;
        match disk.state() {
            DiskState::Closed => return Ok(()),
            DiskState::Attached => {
                disk.enter(DiskState::Closed);
                return Ok(());
            }
            DiskState::Stuck => return Err(disk.trouble()),
            DiskState::Closing => {}
            _ => disk.enter(DiskState::Closing),
        }
        if disk.begin_force() {
            let inner = disk.clone();
            disk.executor.spawn(async move { inner.close_by_force().await }).detach();
        }
        let closed = disk.changed.until(|| !disk.is_forced());
        match select(pin!(closed), pin!(disk.executor.sleep(FORCED_CLOSE_GRACE))).await {
            Either::Left(_) => disk.status.trouble().map_or(Ok(()), Err),
            Either::Right(_) => Err(disk.give_up()),
        }
    }

    /// Turns back what is being done to the disk, where that is possible. While a pause, a quiesce or a growing waits for
    /// requests to end or to be durable, the disk runs on. While an open or a resume waits for another writer or for what
    /// it reads, whoever asked is told at once, and the disk is as before when storage has let go of its files. False:
    /// nothing is being done, or it has begun to change the images.
    pub fn cancel(&self) -> bool {
        self.inner.turn_back()
    }
}

impl Inner {
    pub(crate) fn state(&self) -> DiskState {
        self.state.get()
    }

    /// The one place that changes the state, and with it what happens to requests.
    pub(crate) fn enter(&self, next: DiskState) {
        let state = self.state.replace(next);
        assert!(state.may_become(next), "a disk that is {state:?} does not become {next:?}");
        self.status.set_state(next);
        self.members.tell(|| self.word());
        self.changed.notify();
    }

    /// What queues do in this state.
    fn word(&self) -> ToQueue {
        match self.state.get().intake() {
            Intake::Serve => {
                let chain = self.chain.borrow();
                let Chain { home, geometry } = chain.as_ref().expect("a running disk has images");
                let access = Access { writes: !home.is_read_only(), is_late: self.is_late.get() };
                let (geometry, settings) = (*geometry, self.settings.get());
                ToQueue::Open(Opening { geometry, settings, access, chain: home.attach() })
            }
            Intake::Hold => ToQueue::Hold,
            Intake::Refuse => ToQueue::Refuse(closed()),
        }
    }

    fn add_queue(&self) -> QueueSeed {
        let mail = self.members.add(self.word());
        QueueSeed {
            mail,
            recorder: self.status.add_queue(),
            status: self.status.clone(),
            reporter: self.reporter.clone(),
            limiter: self.limiter.clone(),
            writers: self.writers.clone(),
            home: self.questions.clone(),
        }
    }

    pub(crate) fn trouble(&self) -> Error {
        self.status.trouble().unwrap_or_else(|| Error::new(ErrorKind::TimedOut, "storage hangs"))
    }
}

/// Does what queues ask of home, as long as there are any.
async fn answer(executor: Executor, disk: Weak<Inner>, mut asked: Receiver<ToDisk>) {
    while let Some(question) = asked.recv().await {
        match (question, disk.upgrade()) {
            (ToDisk::LookAt(reply), _) => {
                // A queue does not wait for long.
                let _ = reply.answer(words(&executor));
            }
            (ToDisk::Write(reply), Some(disk)) => disk.wants_to_write(reply),
            (ToDisk::LastWriterGone, Some(disk)) => {
                // What could not be made durable is the disk's trouble.
                executor.spawn(async move { disk.end_writing().await.map_or((), drop) }).detach();
            }
            (ToDisk::Write(_) | ToDisk::LastWriterGone, None) => {}
        }
    }
}

/// Why something cannot be done to the disk now.
fn unfit(state: DiskState) -> Error {
    let words = match state {
        DiskState::Paused | DiskState::ResumeFailed => "the disk is paused",
        DiskState::Quiesced => "the disk is quiesced",
        DiskState::Stuck => "the disk is stuck",
        _ => "the disk is not open",
    };
    Error::new(ErrorKind::Invalid, words)
}
