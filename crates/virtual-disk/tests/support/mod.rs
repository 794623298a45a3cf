//! What the tests of the disk share: a source that follows a script, and a storage that hangs when it is told to.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(dead_code, reason = "each test program uses its part")]

use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
    path::{Path, PathBuf},
    rc::Rc,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
    time::Duration,
};

use block_core::{ErrorKind, FileOffset, GuestRange, Origin, Result, Tag};
use futures_util::future::LocalBoxFuture;
use image_chain::{ChainSpec, Writing};
use image_format::vhd::{CreateOptions, Timestamp, create};
use storage_io::{
    Access, Buffer, BufferPool, Executor, FaultScript, FaultyFiles, FaultyStorage, Hold, Limits, LockPolicy,
    MemoryFiles, MemoryStorage, OpenOptions, Opener, Pending, SimulatedClock, Storage, StorageExt, StorageOperation,
};
use uuid::Uuid;
use virtual_disk::{
    Disk, DiskQueue, Failure, Geometry, Operation, Outcome, Report, Reporter, Request, RequestSource, Settings,
};

pub(crate) mod two_hosts;

pub(crate) const DISK_BYTES: u32 = 4 << 20;

pub(crate) fn range(start: u64, length: u64) -> GuestRange {
    GuestRange::checked(start, length).unwrap()
}

pub(crate) fn spec(path: &str) -> ChainSpec {
    ChainSpec {
        leaf: format!("aio:{path}").parse().unwrap(),
        access: Access::Write,
        direct: false,
        lock: LockPolicy::None,
        writing: Writing::Now,
        depth_max: 30,
        owner_bytes_max: 1 << 20,
        key: None,
    }
}

/// The chain of a VHD image in a file that only one may write.
pub(crate) fn vhd_spec(path: &str) -> ChainSpec {
    let lock = LockPolicy::Exclusive { deadline: Duration::from_millis(20) };
    ChainSpec { leaf: format!("vhd:{path}").parse().unwrap(), lock, ..spec(path) }
}

/// What a new VHD image is to be.
pub(crate) fn vhd_options(uuid: u128, disk_bytes: u64, reserved_bytes: u64) -> CreateOptions {
    CreateOptions {
        disk_bytes,
        reserved_bytes,
        fixed: false,
        uuid: Uuid::from_u128(uuid),
        timestamp: Timestamp::from_unix(1_000_000_000),
        parent: None,
    }
}

/// A simulated host with files in memory and one disk, whose queues may run on several executors.
pub(crate) struct Host {
    pub(crate) executor: Executor,
    pub(crate) clock: SimulatedClock,
    /// Those of further queues.
    pub(crate) others: RefCell<Vec<Executor>>,
    pub(crate) files: MemoryFiles,
    pub(crate) disk: Disk,
    pub(crate) tap: Tap,
    pub(crate) faults: FaultScript,
    /// What happens to the opening of files.
    pub(crate) open_faults: FaultScript,
    pub(crate) reports: Reports,
}

impl Host {
    /// A disk over `/a`, which is not open yet.
    pub(crate) fn new(seed: u64) -> Host {
        let clock = SimulatedClock::new();
        let executor = Executor::simulated(seed, clock.clone());
        let files = MemoryFiles::new();
        files.put("/a", Arc::new(MemoryStorage::new(DISK_BYTES as usize)));
        let (tap, faults, reports) = (Tap::default(), FaultScript::new(), Reports::default());
        let (valve, script) = (tap.clone(), faults.clone());
        files.wrap_opened(move |_, _, storage| {
            let storage = Arc::new(FaultyStorage::new(storage, script.clone()));
            Arc::new(Hanging { storage, tap: valve.clone() })
        });
        let open_faults = FaultScript::new();
        let opening = FaultyFiles::new(Rc::new(files.clone()), open_faults.clone());
        let opener = HangingFiles { files: Rc::new(opening), tap: tap.clone() };
        let disk = Disk::new(&executor, Rc::new(opener), BufferPool::new(1 << 20), Arc::new(reports.clone()));
        Host { executor, clock, others: RefCell::default(), files, disk, tap, faults, open_faults, reports }
    }

    /// The same, open.
    pub(crate) fn running(seed: u64) -> Host {
        Host::running_with(seed, Settings::default())
    }

    pub(crate) fn running_with(seed: u64, settings: Settings) -> Host {
        let host = Host::new(seed);
        host.executor.block_on(host.disk.open(spec("/a"), settings)).unwrap();
        host
    }

    /// A new VHD image in memory.
    pub(crate) fn put_vhd(&self, path: &str, options: &CreateOptions) {
        let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new(0));
        self.executor.block_on(create(&self.executor, &storage, options)).unwrap();
        self.files.put(path, storage);
    }

    /// A raw image in memory.
    pub(crate) fn put_raw(&self, path: &str, bytes: u32) {
        self.files.put(path, Arc::new(MemoryStorage::new(bytes as usize)));
    }

    /// Writes into a file, past everybody.
    pub(crate) fn scribble(&self, path: &str, offset: u64, bytes: &[u8]) {
        let storage = self.files.get(path).unwrap();
        self.executor.block_on(storage.write_bytes(&self.executor, FileOffset::new(offset), bytes)).unwrap();
    }

    /// One more queue, on an executor of its own.
    pub(crate) fn add_queue(&self) -> DiskQueue {
        let executor = Executor::simulated(self.executor.random(), self.clock.clone());
        let queue = self.disk.add_queue().start(&executor, BufferPool::new(1 << 20));
        self.others.borrow_mut().push(executor);
        queue
    }

    /// Runs one ready task of one executor, drawn at random.
    pub(crate) fn step(&self) -> bool {
        let executors: Vec<_> = [&self.executor].into_iter().chain(&*self.others.borrow()).cloned().collect();
        let first = usize::try_from(self.executor.random() % executors.len() as u64).unwrap();
        executors.iter().cycle().skip(first).take(executors.len()).any(Executor::step)
    }

    /// Lets time pass until the next timer of any executor. False: there is none.
    pub(crate) fn advance(&self) -> bool {
        let others = self.others.borrow();
        let next = [&self.executor].into_iter().chain(&*others).filter_map(Executor::next_timer).min();
        next.inspect(|moment| self.clock.advance_to(*moment)).is_some()
    }

    /// Runs everything that can run without time passing.
    pub(crate) fn settle(&self) {
        while self.step() {}
    }

    /// Runs everything, and lets this much time pass.
    pub(crate) fn pass(&self, duration: Duration) {
        let end = self.clock.now() + duration;
        loop {
            self.settle();
            let others = self.others.borrow();
            let next = [&self.executor].into_iter().chain(&*others).filter_map(Executor::next_timer).min();
            match next.filter(|moment| *moment <= end) {
                Some(moment) => self.clock.advance_to(moment),
                None => break,
            }
        }
        self.clock.advance_to(end);
        self.settle();
    }

    /// Runs what is done to the disk to its end, on all executors.
    pub(crate) fn run<T: 'static>(&self, what: impl AsyncFnOnce(Disk) -> T + 'static) -> T {
        let job = self.begin(what);
        while !job.is_done() {
            assert!(self.step() || self.advance(), "nobody will ever end this");
        }
        job.result()
    }

    /// Begins what is done to the disk.
    pub(crate) fn begin<T: 'static>(&self, what: impl AsyncFnOnce(Disk) -> T + 'static) -> Job<T> {
        let slot = Rc::new(RefCell::new(None));
        let (disk, result) = (self.disk.clone(), slot.clone());
        self.executor.spawn(async move { *result.borrow_mut() = Some(what(disk).await) }).detach();
        Job(slot)
    }
}

/// Something that is done to the disk.
pub(crate) struct Job<T>(Rc<RefCell<Option<T>>>);

impl<T> Job<T> {
    pub(crate) fn is_done(&self) -> bool {
        self.0.borrow().is_some()
    }

    pub(crate) fn result(&self) -> T {
        self.0.borrow_mut().take().unwrap()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.tap.open();
        self.faults.release();
        if !std::thread::panicking() {
            self.settle();
        }
        self.executor.end_tasks();
        self.others.borrow().iter().for_each(Executor::end_tasks);
    }
}

/// What the disk has reported.
#[derive(Clone, Default)]
pub(crate) struct Reports(Arc<Mutex<Vec<Report>>>);

impl Reporter for Reports {
    fn report(&self, report: Report) {
        self.0.lock().unwrap().push(report);
    }
}

impl Reports {
    pub(crate) fn take(&self) -> Vec<Report> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    pub(crate) fn failures(&self) -> Vec<Failure> {
        let is_failure = |report| if let Report::Failed(failure) = report { Some(failure) } else { None };
        self.take().into_iter().filter_map(is_failure).collect()
    }
}

pub(crate) fn failed(outcome: Option<Outcome>) -> ErrorKind {
    match outcome {
        Some(Outcome::Failed(error)) => error.kind(),
        other => panic!("not a failure: {other:?}"),
    }
}

pub(crate) fn is_done(outcome: Option<Outcome>) -> bool {
    matches!(outcome, Some(Outcome::Done))
}

pub(crate) fn bytes(outcome: Option<Outcome>) -> Vec<u8> {
    match outcome {
        Some(Outcome::Read(buffer)) => buffer.to_vec(),
        other => panic!("not what a read gives: {other:?}"),
    }
}

/// Open, or closed: then storage operations wait.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tap(Arc<Mutex<TapState>>);

#[derive(Debug, Default)]
struct TapState {
    is_closed: bool,
    waiting: Vec<Waker>,
}

impl Tap {
    pub(crate) fn close(&self) {
        self.0.lock().unwrap().is_closed = true;
    }

    pub(crate) fn open(&self) {
        let mut state = self.0.lock().unwrap();
        state.is_closed = false;
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        waiting.into_iter().for_each(Waker::wake);
    }

    async fn passed(&self) {
        std::future::poll_fn(|cx| {
            let mut state = self.0.lock().unwrap();
            if !state.is_closed {
                return Poll::Ready(());
            }
            state.waiting.push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// Files whose opening passes a tap.
struct HangingFiles {
    files: Rc<dyn Opener>,
    tap: Tap,
}

impl Opener for HangingFiles {
    fn open(
        &self,
        executor: &Executor,
        path: &Path,
        options: OpenOptions,
    ) -> LocalBoxFuture<'static, Result<Arc<dyn Storage>>> {
        let (files, tap, executor, path) = (self.files.clone(), self.tap.clone(), executor.clone(), path.to_path_buf());
        Box::pin(async move {
            tap.passed().await;
            files.open(&executor, &path, options).await
        })
    }

    fn canonical(&self, executor: &Executor, path: &Path) -> LocalBoxFuture<'static, Result<PathBuf>> {
        self.files.canonical(executor, path)
    }
}

/// A storage whose operations pass a tap.
#[derive(Debug)]
struct Hanging {
    storage: Arc<dyn Storage>,
    tap: Tap,
}

impl Storage for Hanging {
    fn submit(&self, executor: &Executor, operation: StorageOperation, hold: Option<Hold>) -> Pending {
        let (storage, tap, inner_executor) = (self.storage.clone(), self.tap.clone(), executor.clone());
        Pending::spawn(executor, hold, async move {
            tap.passed().await;
            storage.submit(&inner_executor, operation, None).await
        })
    }

    fn length(&self) -> u64 {
        self.storage.length()
    }

    fn limits(&self) -> Limits {
        self.storage.limits()
    }

    fn origin(&self) -> Origin {
        self.storage.origin()
    }
}

/// A storage that says of itself what it is told to.
#[derive(Debug)]
pub(crate) struct Posing {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) is_remote: bool,
    pub(crate) logical_block_size: u32,
}

impl Posing {
    /// An empty one in memory, as long as the disk.
    pub(crate) fn new(is_remote: bool, logical_block_size: u32) -> Arc<Posing> {
        let storage = Arc::new(MemoryStorage::new(DISK_BYTES as usize));
        Arc::new(Posing { storage, is_remote, logical_block_size })
    }
}

impl Storage for Posing {
    fn submit(&self, executor: &Executor, operation: StorageOperation, hold: Option<Hold>) -> Pending {
        self.storage.submit(executor, operation, hold)
    }

    fn length(&self) -> u64 {
        self.storage.length()
    }

    fn limits(&self) -> Limits {
        Limits { logical_block_size: self.logical_block_size, ..self.storage.limits() }
    }

    fn origin(&self) -> Origin {
        Origin { is_remote: self.is_remote, ..self.storage.origin() }
    }
}

/// A source that is told from outside what to ask, and tells what was answered. Clones are the same source.
#[derive(Clone, Default)]
pub(crate) struct Script(Rc<RefCell<Lines>>);

#[derive(Default)]
struct Lines {
    asked: VecDeque<Request>,
    next_tag: u64,
    has_ended: bool,
    waker: Option<Waker>,
    collected: Vec<(Tag, Outcome)>,
    published: BTreeMap<Tag, Outcome>,
    batches: usize,
    sizes: Vec<u64>,
    waiting: Option<Waker>,
}

impl Script {
    pub(crate) fn ask(&self, operation: Operation) -> Tag {
        let mut lines = self.0.borrow_mut();
        let tag = Tag(lines.next_tag);
        lines.next_tag += 1;
        lines.asked.push_back(Request { tag, operation });
        lines.waker.take().into_iter().for_each(Waker::wake);
        tag
    }

    pub(crate) fn read(&self, start: u64, length: usize) -> Tag {
        self.ask(Operation::Read { range: range(start, length as u64), buffer: Buffer::zeroed(length) })
    }

    pub(crate) fn write(&self, start: u64, byte: u8, length: usize) -> Tag {
        let buffer = Buffer::from_bytes(&vec![byte; length]);
        self.ask(Operation::Write { range: range(start, length as u64), buffer, durable: false })
    }

    pub(crate) fn end(&self) {
        let mut lines = self.0.borrow_mut();
        lines.has_ended = true;
        lines.waker.take().into_iter().for_each(Waker::wake);
    }

    /// Takes the answer out, if it has been published.
    pub(crate) fn answer(&self, tag: Tag) -> Option<Outcome> {
        self.0.borrow_mut().published.remove(&tag)
    }

    /// Waits for the answer.
    pub(crate) async fn answered_to(&self, tag: Tag) -> Outcome {
        std::future::poll_fn(|cx| match self.answer(tag) {
            Some(outcome) => Poll::Ready(outcome),
            None => {
                self.0.borrow_mut().waiting = Some(cx.waker().clone());
                Poll::Pending
            }
        })
        .await
    }

    pub(crate) fn answered(&self) -> usize {
        self.0.borrow().published.len()
    }

    pub(crate) fn batches(&self) -> usize {
        self.0.borrow().batches
    }

    /// The sizes that the source was told of, in bytes.
    pub(crate) fn sizes(&self) -> Vec<u64> {
        self.0.borrow().sizes.clone()
    }

    pub(crate) fn waiting(&self) -> usize {
        self.0.borrow().asked.len()
    }
}

impl RequestSource for Script {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Request>> {
        let mut lines = self.0.borrow_mut();
        match lines.asked.pop_front() {
            Some(request) => Poll::Ready(Some(request)),
            None if lines.has_ended => Poll::Ready(None),
            None => {
                lines.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn answer(&mut self, tag: Tag, outcome: Outcome) {
        self.0.borrow_mut().collected.push((tag, outcome));
    }

    fn publish(&mut self) {
        let mut lines = self.0.borrow_mut();
        lines.batches += 1;
        for (tag, outcome) in std::mem::take(&mut lines.collected) {
            assert!(lines.published.insert(tag, outcome).is_none(), "{tag:?} was answered twice");
        }
        lines.waiting.take().into_iter().for_each(Waker::wake);
    }
    fn resized(&mut self, geometry: &Geometry) {
        self.0.borrow_mut().sizes.push(geometry.bytes());
    }
}
