//! A disk under random work, and the model that knows what it may hold.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
};

use block_core::{Error, Extent, ExtentKind, GuestOffset, GuestRange, Operation, Result};
use image_chain::HomeOptions;
use storage_io::{Buffer, CrashStorage, Executor, FaultScript, FaultyStorage, SimulatedClock, Storage, Task};

use crate::{
    disk::{Answer, Disk, carry_out, zeroed},
    images::{Images, Shape},
    oracle::{Change, Crash, Oracle},
    random::Random,
    workload::{Mix, Workload},
};

/// How a simulation is run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// The sizes of the disk.
    pub shape: Shape,
    /// What is asked of it.
    pub mix: Mix,
    /// How many requests are under way at a time.
    pub in_flight: usize,
}

/// A disk, its model, and what is done to both.
pub struct Simulation {
    /// Everything runs here, in an order drawn from the seed.
    pub executor: Executor,
    /// What makes the storages fail.
    pub faults: FaultScript,
    plan: Plan,
    images: Images,
    disk: Option<Disk>,
    random: Random,
    work: Rc<Work>,
}

/// What the requests in flight share.
struct Work {
    oracle: RefCell<Oracle>,
    workload: RefCell<Workload>,
    left: Cell<u64>,
    may_fail: Cell<bool>,
    /// A flush has failed since the disk was opened.
    flush_failed: Cell<bool>,
    /// A durable change has, so that flushes may fail.
    durable_failed: Cell<bool>,
    failed: Cell<u64>,
}

/// A full read of the disk is done in pieces of this length.
const PIECE: u64 = 256 << 10;

impl Simulation {
    /// A new disk, open.
    ///
    /// # Panics
    /// When it cannot be made or opened.
    pub fn new(seed: u64, plan: Plan) -> Simulation {
        let mut random = Random::new(seed);
        let executor = Executor::simulated(random.draw(), SimulatedClock::new());
        let Shape { block_bytes, .. } = plan.shape;
        let workload = Workload::new(random.fork(), plan.shape.disk_bytes(), block_bytes.into(), plan.mix);
        let work = Work {
            oracle: RefCell::default(),
            workload: RefCell::new(workload),
            left: Cell::new(0),
            may_fail: Cell::new(false),
            flush_failed: Cell::new(false),
            durable_failed: Cell::new(false),
            failed: Cell::new(0),
        };
        let images = Images::create(plan.shape).expect("images in memory can be made");
        let faults = FaultScript::new();
        let mut simulation = Simulation { executor, faults, plan, images, disk: None, random, work: Rc::new(work) };
        simulation.open().expect("a new image can be opened");
        simulation
    }

    /// Opens the disk.
    ///
    /// # Errors
    /// What the chain says.
    pub fn open(&mut self) -> Result<()> {
        assert!(self.disk.is_none(), "the disk is closed");
        let options = self.options();
        let queues = 1 + usize::from(self.random.once_in(2));
        let faults = self.faults.clone();
        let wrap = |storage| -> Arc<dyn Storage> { Arc::new(FaultyStorage::new(Arc::new(storage), faults.clone())) };
        let executor = self.executor.clone();
        let opening = Disk::open(&executor, &self.images, wrap, options, queues);
        let disk = self.executor.block_on(opening)?;
        assert_eq!(disk.size(), self.plan.shape.disk_bytes(), "the disk has the size it was made with");
        self.disk = Some(disk);
        self.work.flush_failed.set(false);
        self.work.durable_failed.set(false);
        Ok(())
    }

    /// The owner map is a cache: the disk must be the same with little or none of it.
    fn options(&mut self) -> HomeOptions {
        let owner_bytes_max = [0, 4096, 1 << 20][usize::try_from(self.random.below(3)).expect("one of three")];
        HomeOptions { owner_bytes_max, read_only: false }
    }

    /// Ends the disk; nothing may be running. All that was answered is flushed, unless this fails.
    ///
    /// # Errors
    /// What the chain says.
    pub fn close(&mut self) -> Result<()> {
        let disk = self.disk.take().expect("the disk is open");
        let flush = self.work.oracle.borrow_mut().begin_flush();
        self.executor.block_on(disk.close())?;
        self.work.oracle.borrow_mut().end_flush(flush);
        Ok(())
    }

    /// Closes the disk and opens it again.
    ///
    /// # Panics
    /// When either fails.
    pub fn reopen(&mut self) {
        self.close().expect("the disk can be closed");
        self.open().expect("a closed disk can be opened");
    }

    /// Closes the disk, puts a new leaf on it and opens it again.
    ///
    /// # Panics
    /// When any of it fails.
    pub fn snapshot(&mut self) {
        self.close().expect("the disk can be closed");
        self.images.snapshot().expect("an image in memory can be made");
        self.work.oracle.borrow_mut().snapshot();
        self.open().expect("a new leaf can be opened");
    }

    /// Goes through a crash in whatever is under way: from now on the leaf is `state`, opened again.
    ///
    /// # Panics
    /// When it does not open, or holds what it must not after `crash`.
    pub fn crash(&mut self, crash: Crash, state: CrashStorage) {
        self.work.left.set(0);
        self.disk = None;
        self.executor.end_tasks();
        self.images = self.images.with_leaf(state);
        self.open().unwrap_or_else(|error| panic!("after a crash ({crash:?}): does not open for writing: {error}"));
        let permitted = self.oracle().after(crash);
        for range in pieces(self.plan.shape.disk_bytes()) {
            let bytes = self.executor.block_on(self.disk().read(range)).expect("a disk at rest can be read");
            let checked = permitted.check(range, &bytes);
            checked.unwrap_or_else(|complaint| panic!("after a crash ({crash:?}): {complaint}"));
            self.work.oracle.borrow_mut().crashed(range, &bytes);
        }
    }

    /// Writes these bytes, whole sectors of them.
    ///
    /// # Panics
    /// When the write fails.
    pub fn write(&self, offset: GuestOffset, bytes: &[u8]) {
        let range = GuestRange::new(offset, bytes.len() as u64);
        let begun = self.work.oracle.borrow_mut().begin_write(range, bytes);
        let write = Operation::Write { range, buffer: Buffer::from_bytes(bytes), durable: false };
        let answer = self.executor.block_on(carry_out(&self.disk().queue(0), write));
        self.work.oracle.borrow_mut().end(begun, self.work.accept(answer).is_some());
    }

    /// Starts so many operations, some at a time.
    pub fn start(&self, operations: u64) -> Burst {
        self.work.left.set(operations);
        let worker = |number: usize| {
            let queue = self.disk().queue(number as u64);
            let work = self.work.clone();
            self.executor.spawn(async move {
                while let Some(operation) = work.next_operation() {
                    work.perform(&queue, operation).await;
                }
            })
        };
        Burst { workers: (0..self.plan.in_flight).map(worker).collect() }
    }

    /// Does so many operations.
    pub fn work(&self, operations: u64) {
        let burst = self.start(operations);
        self.executor.block_on(burst.ended());
    }

    /// Does these operations, all at once.
    pub fn work_on(&self, operations: impl IntoIterator<Item = Operation<()>>) {
        let burst = self.start_on(operations);
        self.executor.block_on(burst.ended());
    }

    /// Starts these operations, all at once.
    pub fn start_on(&self, operations: impl IntoIterator<Item = Operation<()>>) -> Burst {
        let mut number = 0;
        let start = |operation| {
            number += 1;
            let (queue, work) = (self.disk().queue(number), self.work.clone());
            self.executor.spawn(async move { work.perform(&queue, operation).await })
        };
        Burst { workers: operations.into_iter().map(start).collect() }
    }

    /// Lets everything that is under way in the background come to its end.
    pub fn rest(&self) {
        while self.executor.step() {}
    }

    /// Reads the whole disk, at rest, and compares it with the model; from now on the model knows exactly what it holds.
    ///
    /// # Panics
    /// When it holds what it must not, or cannot be read, not even at the second attempt if requests may fail.
    pub fn check(&self) {
        for range in pieces(self.plan.shape.disk_bytes()) {
            let read = || self.executor.block_on(self.disk().read(range));
            let first = read();
            let bytes = if first.is_err() && self.work.may_fail.get() { read() } else { first };
            let bytes = bytes.expect("a disk at rest can be read");
            let settled = self.work.oracle.borrow_mut().settle(range, &bytes);
            settled.unwrap_or_else(|complaint| panic!("{complaint}"));
        }
    }

    /// The disk, open.
    fn disk(&self) -> &Disk {
        self.disk.as_ref().expect("the disk is open")
    }

    /// The images.
    pub fn images(&self) -> &Images {
        &self.images
    }

    /// How it is run.
    pub fn plan(&self) -> Plan {
        self.plan
    }

    /// The model, as it is now.
    pub fn oracle(&self) -> std::cell::Ref<'_, Oracle> {
        self.work.oracle.borrow()
    }

    /// Random numbers for whoever drives the simulation.
    pub fn random(&mut self) -> &mut Random {
        &mut self.random
    }

    /// Whether requests may fail from now on.
    pub fn may_fail(&self, may_fail: bool) {
        self.work.may_fail.set(may_fail);
    }

    /// How many requests have failed.
    pub fn failed(&self) -> u64 {
        self.work.failed.get()
    }
}

impl Drop for Simulation {
    fn drop(&mut self) {
        // Tasks hold the executor, and the executor its tasks.
        self.disk = None;
        self.executor.end_tasks();
    }
}

/// Operations that are being done.
#[must_use = "dropping it cancels the requests"]
pub struct Burst {
    workers: Vec<Task<()>>,
}

impl Burst {
    /// Waits until all are answered.
    pub async fn ended(self) {
        for worker in self.workers {
            worker.await;
        }
    }
}

/// The disk in ranges that are read at once.
pub(crate) fn pieces(disk_bytes: u64) -> impl Iterator<Item = GuestRange> {
    GuestRange::new(GuestOffset::new(0), disk_bytes).granules(PIECE)
}

impl Work {
    fn next_operation(&self) -> Option<Operation<()>> {
        let left = self.left.get().checked_sub(1)?;
        self.left.set(left);
        Some(self.workload.borrow_mut().next_operation())
    }

    /// Does one operation and holds the answer against the model.
    async fn perform(&self, queue: &image_chain::Queue, operation: Operation<()>) {
        match operation {
            Operation::Read { range, .. } => self.read(queue, range).await,
            Operation::Extents { range, first_only } => self.extents(queue, range, first_only).await,
            Operation::Flush => self.flush(queue).await,
            Operation::Write { range, durable, .. } => {
                self.change(queue, Change::Write { durable }, range, |buffer| Operation::Write {
                    range,
                    buffer,
                    durable,
                })
                .await;
            }
            Operation::WriteZeroes { range, may_free, fast_only, durable } => {
                self.change(queue, Change::Zero { durable }, range, |_| Operation::WriteZeroes {
                    range,
                    may_free,
                    fast_only,
                    durable,
                })
                .await;
            }
            Operation::Discard { range } => {
                self.change(queue, Change::Discard, range, |_| Operation::Discard { range }).await;
            }
            Operation::Cache { range } => _ = self.accept(carry_out(queue, Operation::Cache { range }).await),
        }
    }

    /// The answer, unless the request failed and may.
    fn accept(&self, answer: Result<Answer>) -> Option<Answer> {
        self.accept_if(answer, self.may_fail.get())
    }

    fn accept_if(&self, answer: Result<Answer>, may_fail: bool) -> Option<Answer> {
        let refuse = |error: Error| {
            assert!(may_fail, "a request failed: {error}");
            self.failed.set(self.failed.get() + 1);
        };
        answer.map_err(refuse).ok()
    }

    async fn change(
        &self,
        queue: &image_chain::Queue,
        change: Change,
        range: GuestRange,
        operation: impl FnOnce(Buffer) -> Operation<Buffer>,
    ) {
        let begun = self.oracle.borrow_mut().begin(change, range);
        let buffer = match change {
            Change::Write { .. } => begun.buffer(),
            _ => Buffer::empty(),
        };
        let is_durable = matches!(change, Change::Write { durable: true } | Change::Zero { durable: true });
        let answer = carry_out(queue, operation(buffer)).await;
        let done = self.accept_if(answer, self.may_fail.get() || is_durable && self.durable_failed.get()).is_some();
        self.durable_failed.set(self.durable_failed.get() || is_durable && !done);
        self.oracle.borrow_mut().end(begun, done);
    }

    async fn read(&self, queue: &image_chain::Queue, range: GuestRange) {
        let begun = self.oracle.borrow_mut().begin_read();
        let answer = carry_out(queue, Operation::Read { range, buffer: zeroed(range) }).await;
        match self.accept(answer) {
            Some(Answer::Bytes(bytes)) => {
                let checked = self.oracle.borrow_mut().end_read(begun, range, &bytes);
                checked.unwrap_or_else(|complaint| panic!("reading {range}: {complaint}"));
            }
            _ => self.oracle.borrow_mut().abandon_read(begun),
        }
    }

    /// What is said to read as zeroes must be permitted to.
    async fn extents(&self, queue: &image_chain::Queue, range: GuestRange, first_only: bool) {
        let begun = self.oracle.borrow_mut().begin_read();
        let answer = carry_out(queue, Operation::Extents { range, first_only }).await;
        self.oracle.borrow_mut().abandon_read(begun);
        let Some(Answer::Extents(extents)) = self.accept(answer) else { return };
        check_shape(range, &extents, first_only);
        for Extent { range, .. } in extents.iter().filter(|extent| extent.kind != ExtentKind::Data) {
            let zeroes = vec![0; usize::try_from(range.length()).expect("fits memory")];
            let checked = self.oracle.borrow_mut().end_read(begun, *range, &zeroes);
            checked.unwrap_or_else(|complaint| panic!("an extent says zeroes: {complaint}"));
        }
    }

    async fn flush(&self, queue: &image_chain::Queue) {
        let begun = self.oracle.borrow_mut().begin_flush();
        let had_failed = self.flush_failed.get();
        let answer = carry_out(queue, Operation::Flush).await;
        match self.accept_if(answer, self.may_fail.get() || self.durable_failed.get()) {
            Some(_) => {
                assert!(!had_failed, "a flush succeeded although one had failed before it began");
                self.oracle.borrow_mut().end_flush(begun);
            }
            None => self.flush_failed.set(true),
        }
    }
}

/// Extents are ascending, without gaps, from the start of the range.
fn check_shape(range: GuestRange, extents: &[Extent], first_only: bool) {
    let mut at = range.start();
    for extent in extents {
        assert_eq!(extent.range.start(), at, "extents follow each other: {extents:?} of {range}");
        assert!(!extent.range.is_empty(), "an extent has bytes: {extents:?} of {range}");
        at = extent.range.end();
    }
    assert!(at <= range.end(), "extents lie in the range: {extents:?} of {range}");
    assert!(!extents.is_empty() && (!first_only || extents.len() == 1), "{extents:?} of {range}");
}
