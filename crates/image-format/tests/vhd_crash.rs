//! What a crash leaves of a VHD: every state that a power cut or a killed process can leave opens for writing, holds
//! what was flushed (answered, for a killed process), and shows nothing that was never written there. Then the survivor
//! works on and crashes again.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use common::{Disk, MIB, Random, SPB, Seen, child_options, create, options, overwrite, simulated};
use image_format::vhd::{self, CheckOptions, DiskType, Footer, Timestamp};
use storage_io::{CrashPoint, CrashStorage, Executor, Storage, StorageKind};

const BLOCKS: u64 = 40;
/// Sectors of a block that single writes touch.
const SLOTS: [u64; 6] = [0, 1, 2, 2047, 2048, SPB - 1];

/// What may be in a sector: all that was ever written there since the start, by its own order.
#[derive(Clone, Debug)]
struct History {
    values: Vec<Seen>,
    answered: usize,
    flushed: usize,
    /// Writes that earlier crashes took back: their data may still lie where their bit is clear.
    lost: BTreeSet<Seen>,
}

impl History {
    fn new(value: Seen) -> Self {
        Self { values: vec![value], answered: 0, flushed: 0, lost: BTreeSet::new() }
    }

    /// A sector that had no place in the image at the last flush may have got one without its data: it is zero, or what
    /// an earlier write of this very sector left there.
    fn may_be(&self, seen: Seen, crash: Crash) -> bool {
        let from = if crash == Crash::Killed { self.answered } else { self.flushed };
        let window = &self.values[from..];
        let was_homeless = window.contains(&Seen::Hole) && window.len() > 1;
        let is_left_over = seen == Seen::Zero || self.lost.contains(&seen);
        window.contains(&seen) || (crash == Crash::PowerCut && was_homeless && is_left_over)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Crash {
    PowerCut,
    Killed,
}

#[derive(Clone, Default)]
struct Model {
    sectors: BTreeMap<u64, History>,
    /// Blocks of which more than the slots was written.
    painted: BTreeSet<u64>,
    busy: BTreeSet<u64>,
    last_tag: u64,
}

impl Model {
    fn try_lock(&mut self, sectors: &[u64]) -> bool {
        let is_free = sectors.iter().all(|sector| !self.busy.contains(sector));
        if is_free {
            self.busy.extend(sectors);
        }
        is_free
    }

    fn begin(&mut self, sectors: &[u64], value: Seen) {
        for &sector in sectors {
            self.sectors.entry(sector).or_insert_with(|| History::new(Seen::Hole)).values.push(value);
        }
    }

    fn answer(&mut self, sectors: &[u64]) {
        for sector in sectors {
            let history = self.sectors.get_mut(sector).unwrap();
            history.answered = history.values.len() - 1;
            if history.values.last() == Some(&Seen::Hole) {
                history.lost.clear();
            }
            self.busy.remove(sector);
        }
    }

    /// What survived is all there is now.
    fn settled(&self, seen: &BTreeMap<u64, Seen>) -> Model {
        let settled = |(&sector, history): (&u64, &History)| {
            let mut lost = history.lost.clone();
            lost.extend(&history.values);
            let value = seen.get(&sector).copied().unwrap_or(Seen::Hole);
            (sector, History { lost, ..History::new(value) })
        };
        let sectors = self.sectors.iter().map(settled);
        Model { sectors: sectors.collect(), busy: BTreeSet::new(), ..self.clone() }
    }
}

struct World {
    disk: Disk,
    model: RefCell<Model>,
    random: RefCell<Random>,
}

impl World {
    fn below(&self, bound: u64) -> u64 {
        self.random.borrow_mut().below(bound)
    }

    async fn work(self: Rc<Self>, operations: u64) {
        for _ in 0..operations {
            match self.below(16) {
                0 => self.flush().await,
                1 | 2 => self.discard().await,
                3 => self.write_block().await,
                _ => self.write_slots().await,
            }
        }
    }

    async fn write_slots(&self) {
        let block = self.below(BLOCKS);
        let first = self.below(SLOTS.len() as u64);
        let count = if first == 0 { 1 + self.below(3) } else { 1 };
        let sectors: Vec<u64> =
            (0..count).map(|index| block * SPB + SLOTS[usize::try_from(first).unwrap()] + index).collect();
        self.change(&sectors, sectors[0], count).await;
    }

    async fn write_block(&self) {
        let block = self.below(BLOCKS);
        self.model.borrow_mut().painted.insert(block);
        self.change(&slots_of(block), block * SPB, SPB).await;
    }

    async fn change(&self, sectors: &[u64], first: u64, count: u64) {
        if !self.model.borrow_mut().try_lock(sectors) {
            return;
        }
        let tag = {
            let mut model = self.model.borrow_mut();
            model.last_tag += 1;
            let tag = model.last_tag;
            model.begin(sectors, Seen::Tag(tag));
            tag
        };
        self.disk.write(first, count, tag).await.unwrap();
        self.model.borrow_mut().answer(sectors);
    }

    async fn discard(&self) {
        let block = self.below(BLOCKS);
        let sectors = slots_of(block);
        if !self.model.borrow_mut().try_lock(&sectors) {
            return;
        }
        self.model.borrow_mut().begin(&sectors, Seen::Hole);
        self.disk.discard(block).await.unwrap();
        self.model.borrow_mut().answer(&sectors);
    }

    async fn flush(&self) {
        let answered: Vec<(u64, usize)> =
            self.model.borrow().sectors.iter().map(|(&sector, history)| (sector, history.answered)).collect();
        self.disk.flush().await.unwrap();
        let mut model = self.model.borrow_mut();
        for (sector, answered) in answered {
            let history = model.sectors.get_mut(&sector).unwrap();
            history.flushed = history.flushed.max(answered);
        }
    }
}

fn slots_of(block: u64) -> Vec<u64> {
    SLOTS.iter().map(|slot| block * SPB + slot).collect()
}

/// Runs workers on the storage, and closes the image if told so; `at` is called at drawn instants and at the end.
fn run(storage: &CrashStorage, model: Model, seed: u64, closes: bool, mut at: impl FnMut(CrashPoint, &Model, u64)) {
    let executor = simulated(seed);
    let disk = Disk::open(&executor, Arc::new(storage.clone())).unwrap();
    let random = RefCell::new(Random(seed));
    let world = Rc::new(World { disk, model: RefCell::new(model), random });
    let mut instants = Random(seed ^ 1);
    let mut next = instants.below(40);
    let mut step_all = |world: &World, step_most: u64| {
        while executor.step() {
            if next == 0 {
                at(storage.crash_point(), &world.model.borrow(), instants.next());
                next = instants.below(step_most);
            }
            next = next.saturating_sub(1);
        }
        at(storage.crash_point(), &world.model.borrow(), instants.next());
    };
    for _ in 0..32 {
        executor.spawn(world.clone().work(4)).detach();
    }
    step_all(&world, 400);
    if closes {
        let closing = world.clone();
        let closed = executor.spawn(async move {
            closing.disk.close().await.unwrap();
            for history in closing.model.borrow_mut().sectors.values_mut() {
                history.flushed = history.answered;
            }
        });
        step_all(&world, 10);
        executor.block_on(closed);
    }
    executor.end_tasks();
}

/// Opens a survivor for writing and holds it against the model. What is seen.
fn check(survivor: &CrashStorage, model: &Model, crash: Crash, what: &str) -> BTreeMap<u64, Seen> {
    let executor = simulated(1);
    let disk = Disk::open(&executor, Arc::new(survivor.clone()));
    let disk = disk.unwrap_or_else(|error| panic!("{what}: opens for writing: {error}"));
    let contents = contents_of(&disk, &executor, model);
    for (sector, history) in &model.sectors {
        let seen = contents.get(sector).copied().unwrap_or(Seen::Hole);
        assert!(history.may_be(seen, crash), "{what}: sector {sector} is {seen:?}, may be {history:?}");
    }
    for (sector, seen) in &contents {
        let is_known = model.sectors.contains_key(sector) || model.painted.contains(&(sector / SPB));
        assert!(is_known, "{what}: sector {sector} was never written and is {seen:?}");
    }
    contents
}

/// All present sectors; of painted blocks only the slots.
fn contents_of(disk: &Disk, executor: &Executor, model: &Model) -> BTreeMap<u64, Seen> {
    let mut contents = BTreeMap::new();
    executor.block_on(async {
        for block in 0..BLOCKS {
            if model.painted.contains(&block) {
                for sector in slots_of(block) {
                    contents.insert(sector, disk.see(sector).await.unwrap());
                }
                continue;
            }
            let mut sector = block * SPB;
            while sector < (block + 1) * SPB {
                let (mapping, count) = disk.map(sector, (block + 1) * SPB - sector).await.unwrap();
                if matches!(mapping, image_format::Mapping::Data { .. }) {
                    for sector in sector..sector + count {
                        contents.insert(sector, disk.see(sector).await.unwrap());
                    }
                }
                sector += count;
            }
        }
    });
    contents.retain(|_, seen| *seen != Seen::Hole);
    contents
}

/// Crashes, and crashes of what they left.
fn torture(new: impl Fn() -> CrashStorage, rounds: u64) {
    let seed = test_support::seed();
    let mut states = 0_u64;
    for round in 0..test_support::cycles(rounds, rounds * 20) {
        let mut storage = new();
        let mut model = Model::default();
        for generation in 0..3 {
            let seed = Random(seed ^ (round << 8 | generation)).next();
            let mut survivors: Vec<(CrashStorage, Model)> = Vec::new();
            let closes = seed.is_multiple_of(2);
            run(&storage, model.clone(), seed, closes, |point, model, draw| {
                for crash in [Crash::PowerCut, Crash::PowerCut, Crash::Killed] {
                    let draw = draw.wrapping_add(states);
                    let survivor = match crash {
                        Crash::PowerCut => point.power_cut(draw),
                        Crash::Killed => point.killed(draw),
                    };
                    let seen = check(
                        &survivor,
                        model,
                        crash,
                        &format!("generation {generation} seed {seed:#x} {crash:?} {draw:#x}"),
                    );
                    survivors.push((survivor, model.settled(&seen)));
                    states += 1;
                }
            });
            // Closed without a crash, or one of the crashes.
            let last = survivors.len() - 1;
            let chosen = if closes { last } else { usize::try_from(seed).unwrap() % survivors.len() };
            (storage, model) = survivors.swap_remove(chosen);
        }
    }
    println!("{states} states");
}

fn new_file(options: &image_format::vhd::CreateOptions) -> CrashStorage {
    let storage = CrashStorage::new(0);
    create(Arc::new(storage.clone()), options);
    storage
}

#[test]
fn a_dynamic_image_survives_crashes() {
    torture(|| new_file(&options(BLOCKS * 2 * MIB)), 12);
}

#[test]
fn a_differencing_image_survives_crashes() {
    torture(|| new_file(&child_options(BLOCKS * 2 * MIB)), 12);
}

#[test]
fn an_image_on_a_device_survives_crashes() {
    let new = || {
        let device = CrashStorage::new(120 * MIB).with_limits(|limits| limits.kind = StorageKind::BlockDevice);
        create(Arc::new(device.clone()), &child_options(BLOCKS * 2 * MIB));
        device
    };
    torture(new, 6);
}

/// Behind the last block of an image whose writer died lies what was never published. It is gone for good, durably,
/// before somebody else's block gets the place.
#[test]
fn what_a_dead_writer_left_behind_the_last_block_never_shows() {
    for kind in [StorageKind::File, StorageKind::BlockDevice] {
        let mut image = new_file(&child_options(64 * MIB)).to_vec();
        let footer = image[..512].to_vec();
        // All bits set, and data to go with them.
        image.resize(7680, 0);
        image.resize(12 << 20, 0xee);
        image.extend(footer);
        for seed in 0..200 {
            let storage = CrashStorage::from_bytes(&image).with_limits(|limits| limits.kind = kind);
            let executor = simulated(seed);
            let disk = Disk::open(&executor, Arc::new(storage.clone())).unwrap();
            executor.block_on(disk.write(5, 1, 9)).unwrap();
            let survivor = Disk::open(&executor, Arc::new(storage.crash(seed))).unwrap();
            let mut contents = executor.block_on(survivor.contents()).unwrap();
            let written = contents.remove(&5).unwrap_or(Seen::Hole);
            assert!([Seen::Hole, Seen::Zero, Seen::Tag(9)].contains(&written), "{kind:?} {seed}: {written:?}");
            assert!(contents.is_empty(), "{kind:?} {seed}: {} sectors that nobody wrote", contents.len());
        }
    }
}

#[test]
fn an_answered_write_survives_a_killed_process() {
    for seed in 0..100 {
        let storage = new_file(&child_options(64 * MIB));
        let executor = simulated(seed);
        let disk = Disk::open(&executor, Arc::new(storage.clone())).unwrap();
        for (sector, tag) in [(5, 1), (6, 2), (SPB + 5, 3)] {
            executor.block_on(disk.write(sector, 1, tag)).unwrap();
            let survivor = Disk::open(&executor, Arc::new(storage.crash_point().killed(seed))).unwrap();
            assert_eq!(executor.block_on(survivor.see(sector)).unwrap(), Seen::Tag(tag), "{seed}");
        }
    }
}

/// Full blocks are discarded and others, and one of the same, take their room: no crash shows the new ones what the old
/// ones held, and none leaves two blocks in one place.
#[test]
fn room_of_discarded_blocks_shows_nothing_of_them_to_the_next() {
    discard_and_write_again(&new_file(&child_options(64 * MIB)));
}

#[test]
fn room_of_discarded_blocks_on_a_device_shows_nothing_of_them_to_the_next() {
    let device = CrashStorage::new(16 * MIB).with_limits(|limits| limits.kind = StorageKind::BlockDevice);
    create(Arc::new(device.clone()), &child_options(64 * MIB));
    discard_and_write_again(&device);
}

fn discard_and_write_again(storage: &CrashStorage) {
    let executor = simulated(1);
    let disk = Disk::open(&executor, Arc::new(storage.clone())).unwrap();
    for block in 0..3 {
        executor.block_on(disk.write(block * SPB, SPB, block + 1)).unwrap();
    }
    executor.block_on(disk.close()).unwrap();
    for seed in 0..100 {
        let storage = storage.crash(0);
        let executor = simulated(seed);
        let disk = Disk::open(&executor, Arc::new(storage.clone())).unwrap();
        executor.block_on(async {
            let discards = (0..3).map(|block| disk.discard(block));
            futures_util::future::try_join_all(discards).await.unwrap();
            let writes = [0, 10, 11].map(|block| disk.write(block * SPB + 9, 1, 70 + block));
            futures_util::future::try_join_all(writes).await.unwrap();
        });
        for fate in 0..4 {
            let storage: Arc<dyn Storage> = Arc::new(storage.crash(seed * 4 + fate));
            let options = CheckOptions { lost_footer: true, ..CheckOptions::default() };
            let verdict = executor.block_on(vhd::check(&executor, &storage, options, &|_, _| ())).unwrap();
            // We would not believe such a batmap; programs of others do.
            assert_eq!((verdict.problem, verdict.remarks), (None, Vec::new()), "{seed}, {fate}");
            let survivor = Disk::open(&executor, storage).unwrap();
            for (sector, seen) in executor.block_on(survivor.contents()).unwrap() {
                let block = sector / SPB;
                let was_there = block < 3 && seen == Seen::Tag(block + 1);
                let is_new = sector % SPB == 9 && (seen == Seen::Zero || seen == Seen::Tag(70 + block));
                assert!(was_there || is_new, "{seed}: sector {sector} is {seen:?}");
            }
        }
        assert_eq!(executor.block_on(disk.contents()).unwrap().len(), 3, "{seed}");
        executor.block_on(disk.close()).unwrap();
        let reopened = Disk::open(&executor, Arc::new(storage)).unwrap();
        assert_eq!(executor.block_on(reopened.contents()).unwrap().len(), 3, "{seed}: closed");
    }
}

#[test]
fn a_footer_forged_by_the_guest_in_the_last_sector_of_the_last_block_is_not_believed() {
    let storage = new_file(&child_options(64 * MIB));
    let executor = simulated(1);
    let disk = Disk::open(&executor, Arc::new(storage.clone())).unwrap();
    executor.block_on(disk.write(SPB - 1, 1, 1)).unwrap();
    let dynamic: Arc<dyn Storage> = Arc::new(storage.clone());
    let last_sector = 7680 + 512 + (SPB - 1) * 512;
    let forged = Footer::new(DiskType::Dynamic, 2 * MIB, uuid::Uuid::from_u128(66), Timestamp::new(1));
    overwrite(&dynamic, last_sector, forged.as_bytes());
    // The writer dies, and a tool cuts the file behind its last block.
    let whole = storage.to_vec();
    let cut = CrashStorage::from_bytes(&whole[..usize::try_from(last_sector + 512).unwrap()]);
    let survivor = Disk::open(&executor, Arc::new(cut.clone())).unwrap();
    assert_eq!(survivor.image.footer().disk_type(), DiskType::Differencing);

    let forged = Footer::new(DiskType::Fixed, 2 * MIB, uuid::Uuid::from_u128(66), Timestamp::new(1));
    overwrite(&(Arc::new(cut.clone()) as Arc<dyn Storage>), last_sector, forged.as_bytes());
    let error = Disk::open(&executor, Arc::new(cut)).err().unwrap();
    assert!(error.to_string().contains("repair"), "{error}");
}

#[test]
fn a_batmap_torn_while_it_was_written_is_not_believed_and_is_written_anew() {
    let storage = new_file(&options(64 * MIB));
    let executor = simulated(1);
    let disk = Disk::open(&executor, Arc::new(storage.clone())).unwrap();
    executor.block_on(disk.write(0, SPB, 1)).unwrap();
    executor.block_on(disk.close()).unwrap();
    let torn: Arc<dyn Storage> = Arc::new(storage.clone());
    overwrite(&torn, 2560, &[0xff; 512]);
    let disk = Disk::open(&executor, torn.clone()).unwrap();
    executor.block_on(disk.write(SPB, 1, 2)).unwrap();
    assert_eq!(executor.block_on(disk.see(SPB + 1)).unwrap(), Seen::Hole);
    executor.block_on(disk.close()).unwrap();
    assert_eq!(common::read(&torn, 2560, 2), [0, 0], "a bit needs a bitmap that was seen");
}
