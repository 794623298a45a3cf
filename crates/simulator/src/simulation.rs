//! A disk under random work, and the model that knows what it may hold.

use std::{rc::Rc, sync::Arc};

use block_core::{GuestOffset, GuestRange, Operation, Outcome, Result};
use image_chain::{HomeOptions, Queue};
use storage_io::{
    Buffer, CrashStorage, Executor, FaultScript, FaultyStorage, MemoryFiles, SimulatedClock, Storage, Task,
};

use crate::{
    disk::{Disk, carry_out},
    images::{Images, Shape},
    oracle::{Crash, Instant, Oracle},
    random::Random,
    source::WorkSource,
    work::Work,
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
        let work = Rc::new(Work::new(workload));
        let images = Images::create(plan.shape).expect("images in memory can be made");
        let faults = FaultScript::new();
        let mut simulation = Simulation { executor, faults, plan, images, disk: None, random, work };
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
        self.work.reopened();
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
        self.put_leaf();
        self.open().expect("a new leaf can be opened");
    }

    /// Puts a new leaf on a disk whose images are closed.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn put_leaf(&mut self) {
        self.images.snapshot().expect("an image in memory can be made");
        self.work.oracle.borrow_mut().snapshot();
    }

    /// So many operations as a source, for a disk that somebody else runs on [`Simulation::files`].
    pub fn source(&self, operations: u64) -> WorkSource {
        assert!(self.disk.is_none(), "the images are closed");
        self.work.set_left(operations);
        WorkSource::new(self.work.clone(), self.plan.in_flight)
    }

    /// The images under their names.
    pub fn files(&self) -> MemoryFiles {
        let files = MemoryFiles::new();
        for file in self.images.files() {
            files.put(&file.path, Arc::new(file.storage.clone()));
        }
        files
    }

    /// Something begins that makes durable what was answered before.
    pub fn begin_flush(&self) -> Instant {
        self.work.oracle.borrow_mut().begin_flush()
    }

    /// It has ended, and not with an error.
    pub fn end_flush(&self, begun: Instant) {
        self.work.oracle.borrow_mut().end_flush(begun);
    }

    /// Goes through a crash in whatever is under way: from now on the leaf is `state`, opened again.
    ///
    /// # Panics
    /// When it does not open, or holds what it must not after `crash`.
    pub fn crash(&mut self, crash: Crash, state: CrashStorage) {
        self.work.set_left(0);
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
    pub fn write(&self, offset: GuestOffset, bytes: &[u8]) {
        let range = GuestRange::new(offset, bytes.len() as u64);
        let begun = self.work.oracle.borrow_mut().begin_write(range, bytes);
        let write = Operation::Write { range, buffer: Buffer::from_bytes(bytes), durable: false };
        let outcome = self.executor.block_on(carry_out(&self.disk().queue(0), write));
        self.work.oracle.borrow_mut().end(begun, matches!(outcome, Outcome::Done));
    }

    /// Starts so many operations, some at a time.
    pub fn start(&self, operations: u64) -> Burst {
        self.work.set_left(operations);
        let worker = |number: usize| {
            let queue = self.disk().queue(number as u64);
            let work = self.work.clone();
            self.executor.spawn(async move {
                while let Some(operation) = work.next_operation() {
                    perform(&work, &queue, operation).await;
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
            self.executor.spawn(async move { perform(&work, &queue, operation).await })
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
            let bytes = if first.is_err() && self.work.may_fail() { read() } else { first };
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
        self.work.set_may_fail(may_fail);
    }

    /// How many requests have failed.
    pub fn failed(&self) -> u64 {
        self.work.failed()
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

/// Does one operation and holds the outcome against the model.
async fn perform(work: &Work, queue: &Queue, operation: Operation<()>) {
    let (operation, expected) = work.begin(operation);
    work.end(expected, carry_out(queue, operation).await);
}

/// The disk in ranges that are read at once.
pub(crate) fn pieces(disk_bytes: u64) -> impl Iterator<Item = GuestRange> {
    GuestRange::new(GuestOffset::new(0), disk_bytes).granules(PIECE)
}
