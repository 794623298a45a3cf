//! Two queues and home on one thread, in an order of steps drawn from a seed, with a toy format below and an array as the
//! oracle: writers of one new block, discards and reuse of room during slow reads, requesters that go away at every
//! await, drains at every step, a table write that fails once.
//!
//! `OXTAP_SEED` runs one seed alone.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test that panics has told its story")]

mod history;
mod toy;
mod world;

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
};

use block_core::{GuestOffset, GuestRange, Result, SECTOR};
use history::{CELL, History, Stamp, fill, stamps};
use image_chain::Queue;
use storage_io::{Buffer, Task};
use test_support::cycles;
use toy::BLOCK;
use world::{BASE_BLOCKS, BLOCKS, World, failing_table, hanging_write};

const CELLS_PER_SECTOR: usize = (SECTOR / CELL) as usize;
const CELLS_PER_BLOCK: usize = (BLOCK / CELL) as usize;
const CELLS: usize = BLOCKS * CELLS_PER_BLOCK;
const RUNNING_MAX: usize = 8;

type Cells = std::ops::Range<usize>;

/// What a client does.
#[derive(Clone, Debug)]
enum Action {
    Read(Cells),
    Write { cells: Cells, durable: bool },
    Discard(Cells),
    WriteZeroes { cells: Cells, may_free: bool, durable: bool },
    Flush,
    Extents(Cells),
}

fn guest_range(cells: &Cells) -> GuestRange {
    GuestRange::new(GuestOffset::new(cells.start as u64 * CELL), cells.len() as u64 * CELL)
}

/// A disk under test, its oracle, and how many clients run.
struct Simulation {
    world: World,
    history: Rc<RefCell<History>>,
    running: Rc<Cell<usize>>,
    /// The latest clients, some of which have ended.
    clients: VecDeque<Task<()>>,
    next_stamp: Stamp,
}

impl Simulation {
    /// A chain whose base has data in some of its sectors.
    fn new(seed: u64) -> Simulation {
        let mut world = World::new(seed);
        world.open_base();
        let mut content = vec![0; CELLS];
        let mut stamp = 0;
        for sector in (0..BASE_BLOCKS * CELLS_PER_BLOCK).step_by(CELLS_PER_SECTOR) {
            if world.random.below(3) == 0 {
                stamp += 1;
                let cells = sector..sector + CELLS_PER_SECTOR;
                content[cells.clone()].fill(stamp);
                let queue = world.queues.as_ref().expect("it is open")[0].clone();
                let buffer = Buffer::from_bytes(&fill(stamp, cells.len()));
                let write = async move { queue.write(guest_range(&cells), buffer, false).await.1 };
                world.run_on_queue(0, write).unwrap();
            }
        }
        world.close().unwrap();
        world.open_chain();
        let history = Rc::new(RefCell::new(History::new(&content)));
        Simulation { world, history, running: Rc::default(), clients: VecDeque::new(), next_stamp: 1000 }
    }

    /// One step: a client comes, or goes away, or one of the executors makes a step.
    fn step(&mut self) {
        self.history.borrow_mut().now += 1;
        match self.world.random.below(40) {
            0..=9 if self.running.get() < RUNNING_MAX => self.start_client(),
            10 => self.send_a_client_away(),
            _ => _ = self.world.step(),
        }
    }

    /// Cancels one of the latest clients wherever it waits.
    fn send_a_client_away(&mut self) {
        let client = self.world.random.below(RUNNING_MAX);
        drop(self.clients.remove(client));
    }

    fn cells(&mut self, unit: usize, units_max: usize) -> Cells {
        let random = &mut self.world.random;
        let units = CELLS / unit;
        let start = random.below(units);
        let count = (1 + random.below(units_max)).min(units - start);
        start * unit..(start + count) * unit
    }

    fn action(&mut self) -> Action {
        let durable = self.world.random.below(8) == 0;
        match self.world.random.below(20) {
            0..=5 => Action::Read(self.cells(1, 40)),
            6..=10 => Action::Write { cells: self.cells(CELLS_PER_SECTOR, 6), durable },
            11..=13 => Action::Write { cells: self.cells(1, 3), durable },
            14..=15 => Action::Discard(self.cells(CELLS_PER_BLOCK, 2)),
            16 => Action::Discard(self.cells(CELLS_PER_SECTOR, 3)),
            17 => {
                let may_free = self.world.random.below(2) == 0;
                Action::WriteZeroes { cells: self.cells(1, 30), may_free, durable }
            }
            18 => Action::Flush,
            _ => Action::Extents(self.cells(1, 64)),
        }
    }

    /// Starts a client that does something on one of the queues.
    fn start_client(&mut self) {
        let queue = self.world.random.below(2);
        let action = self.action();
        self.start(queue, action);
    }

    fn start(&mut self, queue: usize, action: Action) {
        self.next_stamp += 1;
        let client = Client {
            queue: self.world.queues.as_ref().expect("it is open")[queue].clone(),
            history: self.history.clone(),
            stamp: self.next_stamp,
            seed: self.world.seed,
        };
        let running = Running::begin(&self.running);
        let task = self.world.spawn(queue, async move {
            client.act(action).await;
            drop(running);
        });
        self.clients.push_front(task);
        // Tasks that fall off the end have ended long ago, or run on alone.
        self.clients.drain(RUNNING_MAX.min(self.clients.len())..).for_each(Task::detach);
    }

    /// Lets everything end, closes the disk, opens it again; what is there before and after is the same, and legal.
    fn drain_and_reopen(&mut self) {
        self.world.drain();
        assert_eq!(self.running.get(), 0, "seed {}: a client was never answered", self.world.seed);
        let before = self.read_all();
        self.world.close().unwrap();
        self.world.open_chain();
        let after = self.read_all();
        assert_eq!(before, after, "seed {}: the disk has changed while it was closed", self.world.seed);
        self.history.borrow_mut().settle(&after);
    }

    fn read_all(&mut self) -> Vec<Stamp> {
        let mut history = self.history.borrow_mut();
        history.now += 2;
        let begin = history.now - 1;
        drop(history);
        let queue = self.world.queues.as_ref().expect("it is open")[1].clone();
        let read = async move {
            let (buffer, result) = queue.read(guest_range(&(0..CELLS)), Buffer::zeroed(CELLS * CELL as usize)).await;
            result.map(|()| buffer.to_vec())
        };
        let bytes = self.world.run_on_queue(1, read).unwrap();
        let seen = stamps(&bytes).unwrap();
        let legal = self.history.borrow().check(0, &seen, begin);
        assert_eq!(legal, Ok(()), "seed {}", self.world.seed);
        seen
    }
}

/// Counts a client while it runs, however it ends.
struct Running(Rc<Cell<usize>>);

impl Running {
    fn begin(count: &Rc<Cell<usize>>) -> Running {
        count.set(count.get() + 1);
        Running(count.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// One requester.
struct Client {
    queue: Queue,
    history: Rc<RefCell<History>>,
    stamp: Stamp,
    seed: u64,
}

impl Client {
    async fn act(self, action: Action) {
        match action {
            Action::Read(cells) => self.read(cells).await,
            Action::Write { cells, durable } => self.write(cells, durable).await,
            Action::Discard(cells) => {
                let discard = self.queue.discard(guest_range(&cells));
                self.change(cells, 0, false, discard).await;
            }
            Action::WriteZeroes { cells, may_free, durable } => {
                let zeroes = self.queue.write_zeroes(guest_range(&cells), may_free, false, durable);
                self.change(cells, 0, true, zeroes).await;
            }
            Action::Flush => assert!(self.queue.flush().await.is_ok()),
            Action::Extents(cells) => self.extents(cells).await,
        }
    }

    async fn read(&self, cells: Cells) {
        let begin = self.history.borrow().now;
        let range = guest_range(&cells);
        let (buffer, result) = self.queue.read(range, Buffer::zeroed(range.length() as usize)).await;
        assert!(result.is_ok(), "seed {}: {result:?}", self.seed);
        let seen = stamps(&buffer.to_vec()).unwrap();
        let legal = self.history.borrow().check(cells.start, &seen, begin);
        assert_eq!(legal, Ok(()), "seed {}", self.seed);
    }

    async fn write(&self, cells: Cells, durable: bool) {
        let bytes = fill(self.stamp, cells.len());
        let write = async {
            let (buffer, result) = self.queue.write(guest_range(&cells), Buffer::from_bytes(&bytes), durable).await;
            assert_eq!(buffer.to_vec(), bytes, "seed {}: the buffer comes back as it was", self.seed);
            result
        };
        self.change(cells.clone(), self.stamp, true, write).await;
    }

    /// Something that leaves `stamp` in the cells. What fails may have happened or not.
    async fn change(&self, cells: Cells, stamp: Stamp, is_certain: bool, work: impl Future<Output = Result<()>>) {
        let id = self.history.borrow_mut().begin(cells.clone(), stamp);
        let result = work.await;
        self.history.borrow_mut().end(cells, id, is_certain && result.is_ok());
    }

    async fn extents(&self, cells: Cells) {
        let range = guest_range(&cells);
        let extents = self.queue.extents(range, false).await.unwrap();
        assert_eq!(extents[0].range.start(), range.start(), "seed {}", self.seed);
        assert!(extents.iter().all(|extent| range.contains(extent.range)), "seed {}", self.seed);
        assert!(extents.is_sorted_by(|one, next| one.range.end() == next.range.start()), "seed {}", self.seed);
    }
}

/// The seeds of a test: `OXTAP_SEED` alone, or so many from the first, and more in a long run. Always the same ones, so
/// that a defect that was noticed once is noticed always.
fn seeds(count: u64) -> std::ops::Range<u64> {
    match std::env::var("OXTAP_SEED") {
        Ok(seed) => {
            let seed = seed.parse().expect("OXTAP_SEED is a number");
            seed..seed + 1
        }
        Err(_) => 1..1 + cycles(count, 50 * count),
    }
}

fn run(seed: u64, rounds: usize, steps: usize) {
    let mut simulation = Simulation::new(seed);
    for _ in 0..rounds {
        (0..steps).for_each(|_| simulation.step());
        simulation.drain_and_reopen();
    }
}

#[test]
fn every_order_of_steps_reads_what_was_written() {
    for seed in seeds(300) {
        run(seed, 3, 600);
    }
}

#[test]
fn a_disk_can_be_drained_at_every_step() {
    for seed in seeds(3) {
        for steps in 0..150 {
            run(seed, 2, steps);
        }
    }
}

#[test]
fn a_requester_may_go_away_at_every_step() {
    for seed in seeds(10) {
        for steps in 0..60 {
            let mut simulation = Simulation::new(seed);
            (0..3).for_each(|_| simulation.start_client());
            (0..steps).for_each(|_| _ = simulation.world.step());
            simulation.clients.clear();
            (0..3).for_each(|_| simulation.start_client());
            simulation.drain_and_reopen();
        }
    }
}

#[test]
fn a_write_whose_requester_went_away_holds_up_the_discard_of_its_block() {
    for seed in seeds(20) {
        let mut simulation = Simulation::new(seed);
        let (block, other) = (0..CELLS_PER_BLOCK, CELLS - CELLS_PER_BLOCK..CELLS);
        simulation.start(0, Action::Write { cells: block.clone(), durable: false });
        simulation.world.drain();
        simulation.world.faults.add(hanging_write());
        simulation.start(0, Action::Write { cells: block.clone(), durable: false });
        simulation.world.drain();
        assert_eq!(simulation.world.faults.hanging(), 1, "seed {seed}: the write is in the storage's hands");
        simulation.clients.clear();
        simulation.start(1, Action::Discard(block));
        simulation.world.drain();
        simulation.start(1, Action::Write { cells: other, durable: false });
        simulation.world.drain();
        assert_eq!(simulation.running.get(), 1, "seed {seed}: the discard waits, nothing else does");
        simulation.world.faults.release();
        simulation.drain_and_reopen();
    }
}

#[test]
fn a_table_write_that_fails_once_costs_no_other_write() {
    for seed in seeds(100) {
        let mut simulation = Simulation::new(seed);
        simulation.world.faults.add(failing_table(seed % 7));
        (0..500).for_each(|_| simulation.step());
        simulation.drain_and_reopen();
    }
}
