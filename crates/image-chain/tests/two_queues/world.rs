//! The world of a simulation: home and two queues, each with an executor of its own, on one thread. A seed decides who
//! makes the next step.

use std::{cell::RefCell, future::Future, rc::Rc, sync::Arc};

use block_core::{FileOffset, FileRange, Origin, Result};
use image_chain::{Home, HomeOptions, Layer, Queue};
use image_format::ImageKind;
use storage_io::{
    Executor, Fault, FaultRule, FaultScript, FaultyStorage, Hold, Limits, MemoryStorage, OperationKind, Pending,
    SimulatedClock, Storage, StorageOperation, Task,
};

use crate::toy::{BLOCK, TABLE_BYTES, Toy};

/// Blocks of the disk; its base is smaller.
pub(crate) const BLOCKS: usize = 6;
pub(crate) const BASE_BLOCKS: usize = 4;
/// Rooms in a file: a few more than blocks, since freed room waits for its fence.
const ROOMS: usize = BLOCKS + 8;

const EIO: i32 = 5;

/// A small generator, so that a failing seed can be run again.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 11).unwrap() % end
    }
}

/// A storage with some very slow reads and writes of data.
#[derive(Debug)]
pub(crate) struct Moody(MemoryStorage);

impl Storage for Moody {
    fn submit(&self, executor: &Executor, operation: StorageOperation, hold: Option<Hold>) -> Pending {
        let moves_data = matches!(
            &operation,
            StorageOperation::Read { offset, .. } | StorageOperation::Write { offset, .. } if offset.get() >= TABLE_BYTES
        );
        if !moves_data || !executor.random().is_multiple_of(4) {
            return self.0.submit(executor, operation, hold);
        }
        let (inner, slow) = (self.0.clone(), executor.clone());
        Pending::spawn(executor, hold, async move {
            for _ in 0..slow.random() % 100 {
                slow.yield_now().await;
            }
            inner.submit(&slow, operation, None).await
        })
    }

    fn length(&self) -> u64 {
        self.0.length()
    }

    fn limits(&self) -> Limits {
        self.0.limits()
    }

    fn origin(&self) -> Origin {
        self.0.origin()
    }
}

/// The next write of the table fails when `spared` of them have succeeded.
pub(crate) fn failing_table(spared: u64) -> FaultRule {
    let table = FileRange::new(FileOffset::new(0), TABLE_BYTES);
    FaultRule::once_after(spared, Fault::error(EIO)).of(OperationKind::Write).touching(table)
}

/// The next write of data begins only when it is told to.
pub(crate) fn hanging_write() -> FaultRule {
    let rooms = FileRange::new(FileOffset::new(TABLE_BYTES), ROOMS as u64 * BLOCK);
    FaultRule::once_after(0, Fault::Hang).of(OperationKind::Write).touching(rooms)
}

/// Three executors and the files that outlive them.
pub(crate) struct World {
    pub(crate) seed: u64,
    pub(crate) random: Random,
    home_executor: Executor,
    executors: [Executor; 2],
    leaf: MemoryStorage,
    base: MemoryStorage,
    /// What goes wrong with the leaf.
    pub(crate) faults: FaultScript,
    home: Option<Home<Toy>>,
    pub(crate) queues: Option<[Queue; 2]>,
}

impl World {
    pub(crate) fn new(seed: u64) -> World {
        let clock = SimulatedClock::new();
        let executor = |number: u64| Executor::simulated(seed ^ number << 32, clock.clone());
        let file = || MemoryStorage::new(usize::try_from(TABLE_BYTES + ROOMS as u64 * BLOCK).unwrap());
        World {
            seed,
            random: Random::new(seed),
            home_executor: executor(1),
            executors: [executor(2), executor(3)],
            leaf: file(),
            base: file(),
            faults: FaultScript::new(),
            home: None,
            queues: None,
        }
    }

    /// Opens an image of the base alone, to fill it.
    pub(crate) fn open_base(&mut self) {
        let storage = Arc::new(self.base.clone());
        let executor = self.home_executor.clone();
        let base = self.run(async move { Toy::open(&executor, storage, BASE_BLOCKS).await });
        self.start(vec![base], HomeOptions::default());
    }

    /// Opens the chain: the leaf over its base.
    pub(crate) fn open_chain(&mut self) {
        let leaf = Arc::new(FaultyStorage::new(Arc::new(Moody(self.leaf.clone())), self.faults.clone()));
        let base = Arc::new(self.base.clone());
        let executor = self.home_executor.clone();
        let layers = self.run(async move {
            vec![Toy::open(&executor, leaf, BLOCKS).await, Toy::open(&executor, base, BASE_BLOCKS).await]
        });
        // No map, one page without room for runs, and all.
        let owner_bytes_max = [0, 4500, 1 << 20][self.random.below(3)];
        self.start(layers, HomeOptions { owner_bytes_max, read_only: false });
    }

    fn start(&mut self, layers: Vec<Toy>, options: HomeOptions) {
        let layer = |format| Layer { name: "toy".to_string(), kind: ImageKind::Vhd, format };
        let home = Home::new(&self.home_executor, layers.into_iter().map(layer).collect(), options);
        self.queues = Some(self.executors.each_ref().map(|executor| home.attach().start(executor)));
        self.home = Some(home);
    }

    /// Closes what is open; nothing may run on the queues.
    pub(crate) fn close(&mut self) -> Result<()> {
        self.queues = None;
        let home = self.home.take().expect("it is open");
        self.run(home.close())
    }

    /// Makes one step of one executor. False: nobody has anything to do.
    pub(crate) fn step(&mut self) -> bool {
        let first = self.random.below(3);
        (0..3).any(|next| match (first + next) % 3 {
            0 => self.home_executor.step(),
            queue => self.executors[queue - 1].step(),
        })
    }

    /// Steps until nobody has anything to do.
    pub(crate) fn drain(&mut self) {
        let mut steps = 0;
        while self.step() {
            steps += 1;
            assert!(steps < 1_000_000, "seed {}: it never ends", self.seed);
        }
    }

    /// Runs `work` at home to its end, while the queues run as well.
    pub(crate) fn run<T: 'static>(&mut self, work: impl Future<Output = T> + 'static) -> T {
        let executor = self.home_executor.clone();
        self.run_on(&executor, work)
    }

    /// Runs `work` on a queue's executor to its end, while the others run as well.
    pub(crate) fn run_on_queue<T: 'static>(&mut self, queue: usize, work: impl Future<Output = T> + 'static) -> T {
        let executor = self.executors[queue].clone();
        self.run_on(&executor, work)
    }

    fn run_on<T: 'static>(&mut self, executor: &Executor, work: impl Future<Output = T> + 'static) -> T {
        let result = Rc::new(RefCell::new(None));
        let slot = result.clone();
        executor.spawn(async move { *slot.borrow_mut() = Some(work.await) }).detach();
        while result.borrow().is_none() {
            assert!(self.step(), "seed {}: everybody waits for somebody", self.seed);
        }
        result.take().expect("looked at above")
    }

    /// Starts `work` on a queue's executor; dropping the task cancels it.
    pub(crate) fn spawn(&self, queue: usize, work: impl Future<Output = ()> + 'static) -> Task<()> {
        self.executors[queue].spawn(work)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Tasks hold handles of their executors; without this a world would live for ever.
        self.home_executor.end_tasks();
        self.executors.iter().for_each(Executor::end_tasks);
    }
}
