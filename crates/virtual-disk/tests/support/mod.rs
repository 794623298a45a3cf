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
};

use block_core::{GuestRange, Origin, Result, Tag};
use futures_util::future::LocalBoxFuture;
use image_chain::ChainSpec;
use storage_io::{
    Access, Buffer, BufferPool, Executor, Hold, Limits, LockPolicy, MemoryFiles, MemoryStorage, OpenOptions, Opener,
    Pending, SimulatedClock, Storage, StorageOperation,
};
use virtual_disk::{Disk, Operation, Outcome, Request, RequestSource, Settings};

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
        depth_max: 30,
        owner_bytes_max: 1 << 20,
    }
}

/// A simulated host with files in memory and one disk.
pub(crate) struct Host {
    pub(crate) executor: Executor,
    pub(crate) files: MemoryFiles,
    pub(crate) disk: Disk,
    pub(crate) tap: Tap,
}

impl Host {
    /// A disk over `/a`, which is not open yet.
    pub(crate) fn new(seed: u64) -> Host {
        let executor = Executor::simulated(seed, SimulatedClock::new());
        let files = MemoryFiles::new();
        files.put("/a", Arc::new(MemoryStorage::new(DISK_BYTES as usize)));
        let tap = Tap::default();
        let valve = tap.clone();
        files.wrap_opened(move |_, _, storage| Arc::new(Hanging { storage, tap: valve.clone() }));
        let opener = HangingFiles { files: files.clone(), tap: tap.clone() };
        let disk = Disk::new(&executor, Rc::new(opener), BufferPool::new(1 << 20), Arc::new(()));
        Host { executor, files, disk, tap }
    }

    /// The same, open.
    pub(crate) fn running(seed: u64) -> Host {
        let host = Host::new(seed);
        host.executor.block_on(host.disk.open(spec("/a"), Settings::default())).unwrap();
        host
    }

    /// Runs everything that can run without time passing.
    pub(crate) fn settle(&self) {
        while self.executor.step() {}
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.tap.open();
        self.settle();
        self.executor.end_tasks();
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
    files: MemoryFiles,
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

    pub(crate) fn answered(&self) -> usize {
        self.0.borrow().published.len()
    }

    pub(crate) fn batches(&self) -> usize {
        self.0.borrow().batches
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
    }
}
