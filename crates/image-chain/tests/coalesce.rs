//! What an image holds goes into its parent: killed, without power, or failing at any point, both stay valid, the disk reads
//! as before, and it can be done again.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{collections::BTreeMap, path::Path, rc::Rc, sync::Arc};

use block_core::{GuestOffset, GuestRange, Result};
use image_chain::Coalesce;
use image_format::{
    Format, Image, Lookup, Mapping, RawImage,
    vhd::{self, CheckOptions, CreateOptions, ParentLink, Timestamp, VhdImage},
};
use storage_io::{
    Access, Buffer, CrashPoint, CrashStorage, Effect, Executor, Fault, FaultRule, FaultScript, FaultyStorage,
    MemoryStorage, OperationKind, SimulatedClock, Storage, StorageExt, StorageKind,
};
use test_support::cycles;
use uuid::Uuid;

const BLOCKS: u64 = 6;
const BLOCK: u64 = 2 << 20;
/// Sectors of a block.
const SPB: u64 = BLOCK / 512;

/// What sectors hold: in the parent, and in the child.
type Content = BTreeMap<u64, u64>;

fn simulated(seed: u64) -> Executor {
    Executor::simulated(seed, SimulatedClock::new())
}

fn sectors(first: u64, count: u64) -> GuestRange {
    GuestRange::new(GuestOffset::new(first * 512), count * 512)
}

/// Sectors, and how many of them, of the parent: part of one block, all of another, the end of a third.
const IN_PARENT: [(u64, u64); 4] = [(0, 2), (5, 1), (SPB, SPB), (4 * SPB - 3, 3)];
/// Of the child: over all of them, over nothing, and on both sides of a border.
const IN_CHILD: [(u64, u64); 6] = [(1, 2), (100, 100), (SPB + 7, 1), (2 * SPB, SPB), (3 * SPB, SPB), (5 * SPB - 1, 2)];

fn content(runs: &[(u64, u64)], tag: u64) -> Content {
    runs.iter().flat_map(|&(first, count)| (first..first + count).map(move |sector| (sector, tag + sector))).collect()
}

fn union() -> Content {
    let mut union = content(&IN_PARENT, 1 << 32);
    union.extend(content(&IN_CHILD, 2 << 32));
    union
}

async fn open(executor: &Executor, storage: Arc<dyn Storage>, access: Access) -> Result<VhdImage> {
    VhdImage::open(executor, storage, Path::new("/d/a.vhd"), access).await
}

/// An image whose sectors hold these tags.
fn image(is_child: bool, runs: &[(u64, u64)], tag: u64) -> Vec<u8> {
    let link = ParentLink {
        uuid: Some(Uuid::from_u128(1)),
        timestamp: Timestamp::new(9),
        name: "a.vhd".into(),
        path: "./a.vhd".into(),
    };
    let options = CreateOptions {
        disk_bytes: BLOCKS * BLOCK,
        reserved_bytes: 0,
        fixed: false,
        uuid: Uuid::from_u128(if is_child { 2 } else { 1 }),
        timestamp: Timestamp::new(9),
        parent: is_child.then_some(link),
    };
    let executor = simulated(1);
    let memory = MemoryStorage::new(0).with_limits(|limits| limits.kind = StorageKind::File);
    let storage: Arc<dyn Storage> = Arc::new(memory.clone());
    executor.block_on(async {
        vhd::create(&executor, &storage, &options).await.unwrap();
        let image = open(&executor, storage.clone(), Access::Write).await.unwrap();
        image.begin_writing(&executor).await.unwrap();
        for &(first, count) in runs {
            for part in sectors(first, count).granules(BLOCK) {
                let plan = image.plan_write(&executor, part).await.unwrap();
                let first = part.start().get() / 512;
                let bytes = (first..first + part.length() / 512).flat_map(|sector| [tag + sector; 64]);
                let bytes: Vec<u8> = bytes.flat_map(u64::to_be_bytes).collect();
                storage.write(&executor, plan.offset, Buffer::from_bytes(&bytes)).await.1.unwrap();
                image.commit(&executor, plan).await.unwrap();
            }
        }
        image.close(&executor).await.unwrap();
    });
    memory.to_vec()
}

/// What a sector holds, if the image has it: the number that fills it.
async fn tag(executor: &Executor, image: &VhdImage, sector: u64) -> Option<u64> {
    let mapping = loop {
        match image.map(sectors(sector, 1)) {
            Lookup::Found(extent) => break extent.mapping,
            Lookup::Miss(miss) => image.load(executor, miss).await.unwrap(),
        }
    };
    let Mapping::Data { offset } = mapping else { return None };
    let bytes = image.storage().read_bytes(executor, offset, 512).await.unwrap();
    let words: Vec<u64> = bytes.as_chunks::<8>().0.iter().map(|word| u64::from_be_bytes(*word)).collect();
    assert!(words.iter().all(|word| *word == words[0]), "sector {sector} is torn");
    Some(words[0])
}

/// Sectors that tell: ends and borders of all runs, and others.
fn telling() -> Vec<u64> {
    let ends = IN_PARENT.iter().chain(&IN_CHILD).flat_map(|&(first, count)| {
        [first.saturating_sub(1), first, first + count / 2, first + count - 1, first + count]
    });
    ends.chain([SPB / 2, 6 * SPB - 1]).filter(|sector| *sector < BLOCKS * SPB).collect()
}

/// The disk reads as it should: through the child, or from the parent alone.
async fn assert_reads(executor: &Executor, child: Option<&VhdImage>, parent: &VhdImage, when: &str) {
    let union = union();
    for sector in telling() {
        let own = match child {
            Some(child) => tag(executor, child, sector).await,
            None => None,
        };
        let found = match own {
            None => tag(executor, parent, sector).await,
            own => own,
        };
        assert_eq!(found.filter(|tag| *tag != 0), union.get(&sector).copied(), "{when}: sector {sector}");
    }
}

async fn problem(executor: &Executor, storage: &Arc<dyn Storage>, lost_footer: bool) -> Option<String> {
    let options = CheckOptions { lost_footer, ..CheckOptions::default() };
    vhd::check(executor, storage, options, &|_, _| ()).await.unwrap().problem
}

async fn coalesce(executor: &Executor, child: Arc<dyn Storage>, parent: Arc<dyn Storage>) -> Result<u64> {
    let child = Image::Vhd(open(executor, child, Access::Read).await?);
    let parent = Image::Vhd(open(executor, parent, Access::Write).await?);
    Coalesce { child: &child, parent: &parent, shortcut: None, key: None }.run(executor, &|_, _| ()).await
}

fn memory(bytes: &[u8]) -> Arc<dyn Storage> {
    Arc::new(MemoryStorage::from_bytes(bytes.to_vec()).with_limits(|limits| limits.kind = StorageKind::File))
}

/// An end of a coalesce: valid, reads as before, and the second attempt ends well.
fn assert_survives(survivor: Arc<dyn Storage>, child: &[u8], is_killed: bool, when: &str) {
    let executor = simulated(7);
    executor.block_on(async {
        let child = memory(child);
        let upper = open(&executor, child.clone(), Access::Read).await.unwrap();
        if is_killed {
            // The file may have grown without its last sector, which is all that `repair` has to put right then.
            assert_eq!(problem(&executor, &survivor, true).await, None, "{when}");
        }
        let parent =
            open(&executor, survivor.clone(), Access::Read).await.unwrap_or_else(|error| panic!("{when}: {error}"));
        assert_reads(&executor, Some(&upper), &parent, when).await;
        let bytes =
            coalesce(&executor, child, survivor.clone()).await.unwrap_or_else(|error| panic!("{when}: {error}"));
        assert_eq!(bytes, content(&IN_CHILD, 0).len() as u64 * 512, "{when}");
        assert_eq!(problem(&executor, &survivor, false).await, None, "{when}, again");
        let parent = open(&executor, survivor.clone(), Access::Read).await.unwrap();
        assert_reads(&executor, None, &parent, when).await;
    });
}

/// Runs a coalesce step by step, and stops at some steps; the last stop is behind its end.
fn with_stops(seed: u64, every: u64, mut stop: impl FnMut(u64, &CrashPoint)) {
    let (child, parent) = (image(true, &IN_CHILD, 2 << 32), image(false, &IN_PARENT, 1 << 32));
    let storage = CrashStorage::from_bytes(&parent).with_limits(|limits| limits.kind = StorageKind::File);
    let executor = simulated(seed);
    let (ours, below, above) = (executor.clone(), Arc::new(storage.clone()), memory(&child));
    let ended = Rc::new(std::cell::Cell::new(false));
    let told = ended.clone();
    executor
        .spawn(async move {
            coalesce(&ours, above, below).await.unwrap();
            told.set(true);
        })
        .detach();
    let mut step = 0_u64;
    while executor.step() || executor.advance_clock() {
        if step.is_multiple_of(every) {
            stop(step, &storage.crash_point());
        }
        step += 1;
    }
    assert!(ended.get(), "the coalesce ended");
    stop(step, &storage.crash_point());
}

#[test]
fn killed_at_any_step_it_leaves_what_was_there_and_can_be_done_again() {
    let child = image(true, &IN_CHILD, 2 << 32);
    for seed in 0..cycles(1, 40) {
        with_stops(seed, cycles(29, 5), |step, point| {
            assert_survives(Arc::new(point.killed(step)), &child, true, &format!("seed {seed}, killed at {step}"));
        });
    }
}

#[test]
fn without_power_at_any_step_it_leaves_what_was_there_and_can_be_done_again() {
    let child = image(true, &IN_CHILD, 2 << 32);
    for seed in 0..cycles(1, 40) {
        with_stops(seed, cycles(31, 5), |step, point| {
            let when = format!("seed {seed}, no power at {step}");
            assert_survives(Arc::new(point.power_cut(step)), &child, false, &when);
            let prefix = point.prefix(usize::try_from(step).unwrap() * 7919 % (point.steps() + 1));
            assert_survives(Arc::new(prefix), &child, false, &when);
        });
    }
}

#[test]
fn who_reads_through_the_child_meanwhile_sees_no_difference() {
    let (child, parent) = (image(true, &IN_CHILD, 2 << 32), image(false, &IN_PARENT, 1 << 32));
    for seed in 0..cycles(3, 60) {
        let executor = simulated(seed);
        let (above, below) = (memory(&child), memory(&parent));
        executor.block_on(async {
            let upper = open(&executor, above.clone(), Access::Read).await.unwrap();
            // It knows the table of the parent from before, and reads its bitmaps whenever it needs them.
            let lower = open(&executor, below.clone(), Access::Read).await.unwrap();
            let (ours, source, target) = (executor.clone(), above.clone(), below.clone());
            let work = executor.spawn(async move { coalesce(&ours, source, target).await });
            for round in 0..8 {
                assert_reads(&executor, Some(&upper), &lower, &format!("seed {seed}, round {round}")).await;
            }
            work.await.unwrap();
            assert_reads(&executor, Some(&upper), &lower, "seed {seed}, afterwards").await;
        });
    }
}

#[test]
fn whatever_fails_nothing_is_lost() {
    const ENOSPC: i32 = 28;
    const EIO: i32 = 5;
    let (child, parent) = (image(true, &IN_CHILD, 2 << 32), image(false, &IN_PARENT, 1 << 32));
    let stride = usize::try_from(cycles(3, 1)).unwrap();
    for (errno, effect) in [(ENOSPC, Effect::None), (EIO, Effect::Torn)] {
        for skip in (0_u64..).step_by(stride) {
            let below = CrashStorage::from_bytes(&parent).with_limits(|limits| limits.kind = StorageKind::File);
            let script = FaultScript::new();
            // Everything from there on: a storage that is full stays full for a while.
            script.add(FaultRule { times: 40, ..FaultRule::once_after(skip, Fault::Fail { errno, effect }) });
            let faulty = FaultyStorage::new(Arc::new(below.clone()), script.clone());
            let executor = simulated(skip);
            let result = executor.block_on(coalesce(&executor, memory(&child), Arc::new(faulty)));
            let when = format!("errno {errno} from operation {skip} on");
            if script.struck() == 0 {
                result.unwrap();
                break;
            }
            if result.is_ok() {
                let whole: Arc<dyn Storage> = Arc::new(below.clone());
                let image = executor.block_on(open(&executor, whole, Access::Read)).unwrap();
                executor.block_on(assert_reads(&executor, None, &image, &format!("{when}, said to be done")));
            }
            assert_survives(Arc::new(below), &child, errno == ENOSPC, &when);
        }
    }
}

/// One write fails, and all others do not: whoever is told that all is done finds all of it.
#[test]
fn a_write_that_fails_once_is_told() {
    const EIO: i32 = 5;
    let (child, parent) = (image(true, &IN_CHILD, 2 << 32), image(false, &IN_PARENT, 1 << 32));
    let stride = usize::try_from(cycles(2, 1)).unwrap();
    let mut failures = 0;
    for skip in (0_u64..).step_by(stride) {
        let below = CrashStorage::from_bytes(&parent).with_limits(|limits| limits.kind = StorageKind::File);
        let script = FaultScript::new();
        script.add(FaultRule::once_after(skip, Fault::error(EIO)).of(OperationKind::Write));
        let faulty = FaultyStorage::new(Arc::new(below.clone()), script.clone());
        let executor = simulated(skip);
        let result = executor.block_on(coalesce(&executor, memory(&child), Arc::new(faulty)));
        if let Err(error) = result {
            assert_eq!(error.os_error(), Some(EIO), "write {skip} fails");
            failures += 1;
            continue;
        }
        // What is only for those who come later is written again.
        let whole: Arc<dyn Storage> = Arc::new(below);
        let image = executor.block_on(open(&executor, whole, Access::Read)).unwrap();
        executor.block_on(assert_reads(&executor, None, &image, &format!("write {skip} fails, said to be done")));
        if script.struck() == 0 {
            assert!(failures > 4, "{failures} failures");
            return;
        }
    }
}

#[test]
fn a_raw_parent_takes_what_the_child_has() {
    let child = image(true, &IN_CHILD, 2 << 32);
    let raw = MemoryStorage::new(usize::try_from(BLOCKS * BLOCK).unwrap());
    let executor = simulated(1);
    executor.block_on(async {
        let upper = Image::Vhd(open(&executor, memory(&child), Access::Read).await.unwrap());
        let lower = Image::Raw(RawImage::new(Arc::new(raw.clone())));
        let work = Coalesce { child: &upper, parent: &lower, shortcut: None, key: None };
        work.run(&executor, &|_, _| ()).await.unwrap();
    });
    let bytes = raw.to_vec();
    let held = content(&IN_CHILD, 2 << 32);
    for (sector, bytes) in bytes.chunks(512).enumerate() {
        let tag = u64::from_be_bytes(bytes[..8].try_into().unwrap());
        assert_eq!(tag, held.get(&(sector as u64)).copied().unwrap_or(0), "sector {sector}");
    }
}

#[test]
fn a_parent_that_ends_too_early_is_left_alone() {
    let child = image(true, &IN_CHILD, 2 << 32);
    let raw = MemoryStorage::new(usize::try_from(BLOCK).unwrap());
    let executor = simulated(1);
    let upper = Image::Vhd(executor.block_on(open(&executor, memory(&child), Access::Read)).unwrap());
    let lower = Image::Raw(RawImage::new(Arc::new(raw.clone())));
    let work = Coalesce { child: &upper, parent: &lower, shortcut: None, key: None };
    let error = executor.block_on(work.run(&executor, &|_, _| ())).unwrap_err();
    assert_eq!(error.kind(), block_core::ErrorKind::Invalid);
    assert_eq!(raw.to_vec(), vec![0; 2 << 20]);
}
