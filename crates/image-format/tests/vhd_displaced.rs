//! An image to which a writer that knows of no batmaps has added its first blocks: they lie where the batmap belongs. They
//! are moved, and whatever a crash leaves of that, the disk holds what it held.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use block_core::ErrorKind;
use common::{Disk, MIB, SPB, Seen, create, options, overwrite, read, simulated};
use image_format::vhd::{CheckOptions, check, give_batmap_its_place};
use storage_io::{Access, CrashStorage, Executor, MemoryStorage, Storage, StorageKind};

/// Where the table ends of an image of 64 MiB, and the batmap belongs.
const TABLE_END: u64 = 2048;
const BLOCK_BYTES: u64 = 512 + 2 * MIB;
const SECTORS: [u64; 4] = [SPB, SPB + 7, 3 * SPB + 5, 3 * SPB + 4095];

/// Blocks 1 and 3, one behind the other from the end of the table on, and a footer; all as such writers leave it.
fn image(is_device: bool) -> Vec<u8> {
    let length = if is_device { 16 * MIB } else { 0 };
    let kind = if is_device { StorageKind::BlockDevice } else { StorageKind::File };
    let memory = MemoryStorage::new(usize::try_from(length).unwrap()).with_limits(|limits| limits.kind = kind);
    let storage = create(Arc::new(memory.clone()), &options(64 * MIB));
    let footer = read(&storage, 0, 512);
    for (index, block) in [1, 3].into_iter().enumerate() {
        let place = TABLE_END + index as u64 * BLOCK_BYTES;
        let entry = u32::try_from(place / 512).unwrap();
        overwrite(&storage, 1536 + block * 4, &entry.to_be_bytes());
        overwrite(&storage, place, &[0xff; 512]);
        let words = (0..SPB).flat_map(|sector| (block * SPB + sector + 1).to_be_bytes().repeat(64));
        overwrite(&storage, place + 512, &words.collect::<Vec<u8>>());
    }
    if !is_device {
        overwrite(&storage, TABLE_END + 2 * BLOCK_BYTES, &footer);
    }
    memory.to_vec()
}

/// Whether the image opens, and some sectors of each block and of none.
fn seen(storage: &Arc<dyn Storage>, what: &str) -> BTreeMap<u64, Seen> {
    let executor = simulated(1);
    let disk = Disk::open_for(&executor, storage.clone(), Access::Read);
    let disk = disk.unwrap_or_else(|error| panic!("{what}: opens: {error}"));
    let look = async |sector| (sector, disk.see(sector).await.unwrap());
    executor.block_on(async {
        let mut seen = BTreeMap::new();
        for sector in SECTORS.into_iter().chain([0, 2 * SPB]) {
            let (sector, found) = look(sector).await;
            seen.insert(sector, found);
        }
        seen
    })
}

fn expected() -> BTreeMap<u64, Seen> {
    let held = SECTORS.map(|sector| (sector, Seen::Tag(sector + 1)));
    held.into_iter().chain([0, 2 * SPB].map(|sector| (sector, Seen::Hole))).collect()
}

fn repair(executor: &Executor, storage: &Arc<dyn Storage>) {
    executor.block_on(give_batmap_its_place(executor, storage)).unwrap();
    let disk = Disk::open(executor, storage.clone()).unwrap();
    executor.block_on(async {
        for block in [1, 3] {
            disk.map(block * SPB, SPB).await.unwrap();
        }
        disk.close().await.unwrap();
    });
}

fn assert_in_order(storage: &Arc<dyn Storage>, what: &str) {
    let executor = simulated(1);
    let options = CheckOptions { bitmaps: true, ..CheckOptions::default() };
    let verdict = executor.block_on(check(&executor, storage, options, &|_, _| {})).unwrap();
    assert_eq!((verdict.problem, verdict.remarks), (None, vec![]), "{what}");
}

#[test]
fn the_blocks_move_and_the_batmap_has_its_place() {
    for is_device in [false, true] {
        let kind = if is_device { StorageKind::BlockDevice } else { StorageKind::File };
        let memory = MemoryStorage::from_bytes(image(is_device)).with_limits(|limits| limits.kind = kind);
        let storage: Arc<dyn Storage> = Arc::new(memory.clone());
        assert_eq!(seen(&storage, "before"), expected());
        repair(&simulated(1), &storage);
        assert_eq!(seen(&storage, "after"), expected());
        assert_in_order(&storage, "after");
        // Block 3 was not in the way.
        assert_eq!(read(&storage, 1536 + 12, 4), [0, 0, 0x10, 0x05]);
        // Once more there is nothing to do.
        let once = memory.to_vec();
        repair(&simulated(1), &storage);
        assert!(memory.to_vec() == once);
    }
}

#[test]
fn every_crash_leaves_the_disk_as_it_was() {
    for is_device in [false, true] {
        let kind = if is_device { StorageKind::BlockDevice } else { StorageKind::File };
        let bytes = image(is_device);
        for seed in 0..test_support::cycles(2, 40) {
            let crashing = CrashStorage::from_bytes(&bytes).with_limits(|limits| limits.kind = kind);
            let executor = simulated(seed);
            let (storage, ours): (Arc<dyn Storage>, _) = (Arc::new(crashing.clone()), executor.clone());
            let done = executor.spawn(async move { give_batmap_its_place(&ours, &storage).await.unwrap() });
            let (mut last, mut states) = (None, 0);
            loop {
                let point = crashing.crash_point();
                // Only what has changed since can leave something new.
                let now = (point.steps(), crashing.length());
                let cuts = if last.replace(now) == Some(now) { 0..0 } else { 0..3 };
                for cut in cuts {
                    let what = format!("device {is_device} seed {seed} steps {now:?} cut {cut}");
                    let survivor = if cut == 0 { point.killed(seed) } else { point.power_cut(seed ^ cut << 32) };
                    let survivor: Arc<dyn Storage> = Arc::new(survivor);
                    assert_eq!(seen(&survivor, &what), expected(), "{what}");
                    repair(&simulated(1), &survivor);
                    assert_eq!(seen(&survivor, &what), expected(), "{what}: repaired");
                    assert_in_order(&survivor, &what);
                    states += 1;
                }
                if !executor.step() {
                    break;
                }
            }
            executor.block_on(done);
            assert!(states > 10, "{states}");
        }
    }
}

#[test]
fn a_device_without_room_stays_as_it_is() {
    let mut bytes = image(true);
    bytes.drain(5 << 20..bytes.len() - 512);
    let memory = MemoryStorage::from_bytes(bytes).with_limits(|limits| limits.kind = StorageKind::BlockDevice);
    let (before, storage): (_, Arc<dyn Storage>) = (memory.to_vec(), Arc::new(memory.clone()));
    let executor = simulated(1);
    let error = executor.block_on(give_batmap_its_place(&executor, &storage)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    assert!(memory.to_vec() == before);
}
