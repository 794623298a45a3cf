//! A disk and what is done to it: open, pause, resume, close.
//!
//! What is done runs as a job of its own, one at a time. Whoever asked may go away: a job that has begun goes on, and
//! closing by force does not wait for it longer than [`FORCED_CLOSE_GRACE`].

use std::{
    borrow::Cow,
    cell::{Cell, RefCell},
    future::Future,
    pin::{Pin, pin},
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use block_core::{Error, ErrorKind, Result, ResultExt, SECTOR};
use futures_util::future::{Either, select};
use image_chain::{ChainSpec, Home};
use storage_io::{BufferPool, Executor, Moment, Opener, Signal, Task};

use crate::{
    DiskState, Geometry, RequestSource, Status,
    queue::{DiskQueue, Gate},
    serve::Serve,
    state::Intake,
};

/// How long closing by force lets running requests end before it gives up their answers.
pub const FORCED_CLOSE_GRACE: Duration = Duration::from_secs(5);

/// The step of a job that cannot be turned back.
const CLOSING: &str = "closing the images";

/// A virtual disk, on its home executor: what clients and guests see of an image chain. Clones are the same disk.
#[derive(Clone)]
pub struct Disk(Rc<Inner>);

struct Inner {
    executor: Executor,
    opener: Rc<dyn Opener>,
    pool: BufferPool,
    status: Arc<Status>,
    queue: Rc<DiskQueue>,
    state: Cell<DiskState>,
    /// The open images.
    chain: RefCell<Option<Chain>>,
    /// What to open on resume, if nothing else is said.
    spec: RefCell<Option<ChainSpec>>,
    /// Jobs that run: at most one, and the one that closes by force.
    jobs: Cell<usize>,
    /// What the job waits for, in words for people.
    step: Cell<&'static str>,
    is_forced: Cell<bool>,
    /// State, jobs or force have changed.
    changed: Signal,
}

struct Chain {
    home: Home,
    queue: image_chain::Queue,
    geometry: Geometry,
}

impl Disk {
    /// A disk that is attached and has no images yet. `opener` opens its files; sources take their buffers from `pool`.
    pub fn new(executor: &Executor, opener: Rc<dyn Opener>, pool: BufferPool) -> Disk {
        let status = Arc::new(Status::new());
        Disk(Rc::new(Inner {
            executor: executor.clone(),
            opener,
            pool,
            queue: DiskQueue::new(executor, status.clone(), Gate::Refusing(closed())),
            status,
            state: Cell::new(DiskState::Attached),
            chain: RefCell::default(),
            spec: RefCell::default(),
            jobs: Cell::new(0),
            step: Cell::new(""),
            is_forced: Cell::new(false),
            changed: Signal::default(),
        }))
    }

    /// What the disk publishes for other threads.
    pub fn status(&self) -> Arc<Status> {
        self.0.status.clone()
    }

    /// Its home executor.
    pub fn executor(&self) -> &Executor {
        &self.0.executor
    }

    /// Where sources take the buffers of their requests from.
    pub fn pool(&self) -> &BufferPool {
        &self.0.pool
    }

    /// Serves a source to its end, and then gives it back: requests are taken while the disk runs, held while it is
    /// paused, and answered with `Closed` when it is not open. Dropping the task gives up the answers of what runs.
    pub fn serve<S: RequestSource + 'static>(&self, source: S) -> Task<S> {
        self.0.executor.spawn(Serve::new(self.0.queue.clone(), source))
    }

    /// Opens the images. The disk is as before if that fails.
    pub async fn open(&self, spec: ChainSpec) -> Result<Geometry> {
        let disk = &self.0;
        disk.my_turn().await;
        let before = disk.state.get();
        if !before.may_become(DiskState::Opening) {
            return Err(Error::new(ErrorKind::Busy, "the disk is open already"));
        }
        disk.enter(DiskState::Opening);
        let inner = disk.clone();
        disk.job(async move { inner.open(spec, before).await }).await
    }

    /// Takes no more requests, lets those that run end, makes everything durable and closes every file; requests that
    /// come then are held. A disk that is paused already stays so.
    ///
    /// If a deadline is given and requests have not ended by then, the error says which, and the disk runs on. (If it
    /// passes while the images are being closed, which cannot be turned back, the error says so and the disk becomes
    /// paused later.) Also if not everything could be made durable, the disk runs on.
    pub async fn pause(&self, deadline: Option<Duration>) -> Result<()> {
        let disk = &self.0;
        let end = deadline.map(|deadline| disk.executor.now() + deadline);
        disk.in_time(end, disk.my_turn()).await.ok_or_else(|| disk.late(disk.step.get()))?;
        match disk.state.get() {
            DiskState::Paused | DiskState::ResumeFailed => return Ok(()),
            DiskState::Running => disk.enter(DiskState::Pausing),
            _ => return Err(Error::new(ErrorKind::Invalid, "the disk is not open")),
        }
        let inner = disk.clone();
        let mut job = pin!(disk.job(async move { inner.pause(end).await }));
        let closing_late = pin!(async {
            disk.sleep_until(end).await;
            disk.changed.until(|| disk.step.get() == CLOSING).await;
        });
        match select(&mut job, closing_late).await {
            Either::Left((result, _)) => result,
            Either::Right(_) => Err(disk.late(CLOSING)),
        }
    }

    /// Opens the images of a paused disk again, or those of `spec`, and serves what was held. Size and sector size must
    /// be what they were. The disk stays paused if that fails, and the status says why.
    pub async fn resume(&self, spec: Option<ChainSpec>) -> Result<()> {
        let disk = &self.0;
        disk.my_turn().await;
        if !disk.state.get().may_become(DiskState::Resuming) {
            return Err(Error::new(ErrorKind::Invalid, "the disk is not paused"));
        }
        let spec = spec.or_else(|| disk.spec.borrow().clone()).expect("a paused disk was opened from something");
        disk.enter(DiskState::Resuming);
        let inner = disk.clone();
        disk.job(async move { inner.resume(spec).await }).await
    }

    /// Refuses new requests, lets those that run end, makes everything durable and closes every file.
    pub async fn close(&self) -> Result<()> {
        let disk = &self.0;
        disk.my_turn().await;
        match disk.state.get() {
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
            inner.at_step("waiting for requests to end");
            inner.queue.drained().await;
            inner.close_images(DiskState::Closed).await
        })
        .await
    }

    /// As [`close`](Self::close), in bounded time whatever hangs. If storage has not ended its work within
    /// [`FORCED_CLOSE_GRACE`], the requests that run lose their answers, and the error says what was waited for. The disk
    /// is then stuck: files and locks stay until storage lets go, and it becomes closed by itself.
    pub async fn force_close(&self) -> Result<()> {
        let disk = &self.0;
        match disk.state.get() {
            DiskState::Closed => return Ok(()),
            DiskState::Attached => {
                disk.enter(DiskState::Closed);
                return Ok(());
            }
            DiskState::Stuck => return Err(disk.trouble()),
            DiskState::Closing => {}
            _ => disk.enter(DiskState::Closing),
        }
        if !disk.is_forced.replace(true) {
            disk.changed.notify();
            let inner = disk.clone();
            disk.executor.spawn(async move { inner.close_by_force().await }).detach();
        }
        let closed = disk.changed.until(|| !disk.is_forced.get());
        match select(pin!(closed), pin!(disk.executor.sleep(FORCED_CLOSE_GRACE))).await {
            Either::Left(_) => disk.status.trouble().map_or(Ok(()), Err),
            Either::Right(_) => Err(disk.give_up()),
        }
    }
}

impl Inner {
    /// The one place that changes the state, and with it what happens to requests.
    fn enter(&self, next: DiskState) {
        let state = self.state.replace(next);
        assert!(state.may_become(next), "a disk that is {state:?} does not become {next:?}");
        self.status.set_state(next);
        self.queue.set_gate(match next.intake() {
            Intake::Serve => {
                let chain = self.chain.borrow();
                let chain = chain.as_ref().expect("a running disk has images");
                Gate::Open(chain.geometry, chain.queue.clone())
            }
            Intake::Hold => Gate::Held,
            Intake::Refuse => Gate::Refusing(closed()),
        });
        self.changed.notify();
    }

    /// Ends when nobody else does anything to the disk, or nobody can any more. (Closing by force may have begun without
    /// being a job yet.)
    async fn my_turn(&self) {
        let is_free = || match self.state.get() {
            DiskState::Stuck => true,
            DiskState::Closing => false,
            _ => self.jobs.get() == 0,
        };
        self.changed.until(is_free).await;
    }

    /// Ends when no job runs.
    async fn idle(&self) {
        self.changed.until(|| self.jobs.get() == 0).await;
    }

    /// Runs `body` as a job. Dropping this future does not stop the job, and closing by force ends only the waiting.
    async fn job<T: 'static>(self: &Rc<Self>, body: impl Future<Output = Result<T>> + 'static) -> Result<T> {
        self.jobs.set(self.jobs.get() + 1);
        let inner = self.clone();
        let task = self.executor.spawn(async move {
            let result = body.await;
            inner.jobs.set(inner.jobs.get() - 1);
            inner.changed.notify();
            result
        });
        let forced = self.changed.until(|| self.is_forced.get());
        match select(DetachedWhenDropped(Some(task)), pin!(forced)).await {
            Either::Left((result, _)) => result,
            Either::Right(_) => Err(Error::new(ErrorKind::Closed, "the disk was closed by force")),
        }
    }

    async fn open(&self, spec: ChainSpec, before: DiskState) -> Result<Geometry> {
        self.at_step("opening the images");
        self.status.set_trouble(None);
        let geometry = self.open_images(&spec).await;
        if let Ok(geometry) = geometry {
            self.status.set_geometry(geometry);
            self.remember(spec);
        }
        if self.is_forced.get() {
            return Err(self.late(""));
        }
        self.enter(if geometry.is_ok() { DiskState::Running } else { before });
        geometry
    }

    async fn resume(&self, spec: ChainSpec) -> Result<()> {
        self.at_step("opening the images");
        let geometry = self.open_images(&spec).await;
        if geometry.is_ok() {
            self.remember(spec);
        }
        let before = self.status.geometry().expect("a paused disk was open");
        let result = geometry.and_then(|geometry| same_shape(before, geometry));
        if result.is_err() {
            // The mismatch is the news; a stranger's image that cannot be closed cleanly is not.
            let _ = self.shut().await;
        }
        if self.is_forced.get() {
            return Err(self.late(""));
        }
        self.status.set_trouble(result.as_ref().err().cloned());
        self.enter(if result.is_ok() { DiskState::Running } else { DiskState::ResumeFailed });
        result
    }

    fn remember(&self, spec: ChainSpec) {
        self.status.set_image(Some(spec.leaf.clone()));
        self.spec.replace(Some(spec));
    }

    async fn pause(&self, end: Option<Moment>) -> Result<()> {
        let quiet = self.quiesce(end).await;
        if self.is_forced.get() {
            return Err(self.late(""));
        }
        match quiet {
            Ok(()) => self.close_images(DiskState::Paused).await,
            Err(error) => {
                self.enter(DiskState::Running);
                Err(error)
            }
        }
    }

    /// Waits until nothing runs and everything is durable.
    async fn quiesce(&self, end: Option<Moment>) -> Result<()> {
        self.at_step("waiting for requests to end");
        let drained = self.in_time(end, self.queue.drained()).await;
        drained.ok_or_else(|| self.late(self.queue.describe()))?;
        self.at_step("flushing the images");
        let queue = self.chain.borrow().as_ref().map(|chain| chain.queue.clone());
        let queue = queue.expect("a disk that pauses has images");
        let flushed = self.in_time(end, queue.flush()).await;
        flushed.ok_or_else(|| self.late(self.step.get()))?.context("flushing the images")
    }

    /// What a future gives, unless the time is up or the disk is closed by force before.
    async fn in_time<T>(&self, end: Option<Moment>, future: impl Future<Output = T>) -> Option<T> {
        let forced = pin!(self.changed.until(|| self.is_forced.get()));
        let too_late = pin!(self.sleep_until(end));
        match select(pin!(future), select(forced, too_late)).await {
            Either::Left((value, _)) => Some(value),
            Either::Right(_) => None,
        }
    }

    /// Never ends without an end.
    async fn sleep_until(&self, end: Option<Moment>) {
        match end {
            Some(end) => self.executor.sleep_until(end).await,
            None => std::future::pending().await,
        }
    }

    /// Why something was not waited for any longer.
    fn late(&self, words: impl Into<Cow<'static, str>>) -> Error {
        match self.is_forced.get() {
            true => Error::new(ErrorKind::Closed, "the disk was closed by force"),
            false => Error::new(ErrorKind::TimedOut, words),
        }
    }

    /// Notes what a job waits for from now on.
    fn at_step(&self, step: &'static str) {
        self.step.set(step);
        self.status.set_step(step);
        self.changed.notify();
    }

    async fn open_images(&self, spec: &ChainSpec) -> Result<Geometry> {
        let home = Home::open(&self.executor, self.opener.clone(), spec).await?;
        let geometry = Geometry {
            sectors: home.size() / SECTOR,
            logical_block_size: home.logical_block_size(),
            physical_block_size: home.leaf_storage().limits().physical_block_size,
            read_only: home.is_read_only(),
            can_discard: !home.is_read_only(),
        };
        self.status.set_chain(Some(home.statistics()));
        let queue = home.attach().start(&self.executor);
        self.chain.replace(Some(Chain { home, queue, geometry }));
        Ok(geometry)
    }

    /// Closes the images and becomes `next`. The images are closed also if there is an error.
    async fn close_images(&self, next: DiskState) -> Result<()> {
        let result = self.shut().await;
        if next == DiskState::Closed {
            self.status.set_image(None);
            self.spec.take();
        }
        self.status.set_trouble(result.as_ref().err().cloned());
        if self.state.get().may_become(next) {
            self.is_forced.set(false);
            self.enter(next);
        }
        result
    }

    async fn shut(&self) -> Result<()> {
        self.at_step(CLOSING);
        let chain = self.chain.take();
        let result = match chain {
            Some(Chain { home, queue, .. }) => {
                drop(queue);
                home.close().await.context(CLOSING)
            }
            None => Ok(()),
        };
        self.status.set_chain(None);
        result
    }

    /// Waits for whatever still runs, however long that takes, and closes the images behind it.
    async fn close_by_force(&self) {
        self.idle().await;
        // A job ahead of this one may have closed the disk, and somebody may have opened it again.
        if !matches!(self.state.get(), DiskState::Closing | DiskState::Stuck) {
            return;
        }
        self.jobs.set(self.jobs.get() + 1);
        self.at_step("waiting for requests to end");
        self.queue.drained().await;
        // The error, if any, is published as the disk's trouble.
        let _ = self.close_images(DiskState::Closed).await;
        self.jobs.set(self.jobs.get() - 1);
        self.changed.notify();
    }

    /// Stops waiting for storage.
    fn give_up(&self) -> Error {
        if self.state.get() == DiskState::Stuck {
            return self.trouble();
        }
        let words = match self.queue.in_flight() {
            0 => self.step.get().to_owned(),
            _ => self.queue.describe(),
        };
        let error = Error::new(ErrorKind::TimedOut, format!("storage hangs: {words}"));
        self.status.set_trouble(Some(error.clone()));
        self.queue.abandon();
        self.enter(DiskState::Stuck);
        error
    }

    fn trouble(&self) -> Error {
        self.status.trouble().unwrap_or_else(|| Error::new(ErrorKind::TimedOut, "storage hangs"))
    }
}

fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the disk is closed")
}

fn same_shape(before: Geometry, now: Geometry) -> Result<()> {
    let shape = |geometry: Geometry| (geometry.sectors, geometry.logical_block_size);
    if shape(before) == shape(now) {
        return Ok(());
    }
    let words = |geometry| {
        let (sectors, logical_block_size) = shape(geometry);
        format!("{sectors} sectors in blocks of {logical_block_size} bytes")
    };
    Err(Error::new(ErrorKind::SizeChanged, format!("the disk had {}, the image has {}", words(before), words(now))))
}

/// A task that goes on when nobody waits for it any more.
struct DetachedWhenDropped<T>(Option<Task<T>>);

impl<T> Future for DetachedWhenDropped<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        Pin::new(self.0.as_mut().expect("the task is there until this is dropped")).poll(cx)
    }
}

impl<T> Drop for DetachedWhenDropped<T> {
    fn drop(&mut self) {
        if let Some(task) = self.0.take() {
            task.detach();
        }
    }
}
