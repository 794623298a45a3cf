//! Room that blocks once had is found again by the next writer, and given to the storage when nobody needs it.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::sync::Arc;

use common::{BLOCK, Disk, MIB, SPB, Seen, create, options, simulated};
use storage_io::{CrashStorage, Storage, StorageKind, TracedOperation, TracedStorage};

fn file() -> Arc<dyn Storage> {
    Arc::new(CrashStorage::new(0))
}

fn device(length: u64) -> Arc<dyn Storage> {
    Arc::new(CrashStorage::new(length).with_limits(|limits| limits.kind = StorageKind::BlockDevice))
}

/// Opens the image, does something, closes it.
fn session(storage: &Arc<dyn Storage>, steps: impl AsyncFnOnce(&Disk)) {
    let executor = simulated(7);
    let disk = Disk::open(&executor, storage.clone()).unwrap();
    executor.block_on(async {
        steps(&disk).await;
        disk.close().await.unwrap();
    });
}

async fn fill(disk: &Disk, blocks: std::ops::Range<u64>, tag: u64) {
    for block in blocks {
        disk.write(block * SPB, SPB, tag).await.unwrap();
    }
}

#[test]
fn a_file_that_is_filled_and_emptied_again_and_again_stays_small() {
    let storage = create(file(), &options(64 * MIB));
    session(&storage, async |disk| fill(disk, 0..8, 1).await);
    let full = storage.length();
    for tag in 2..12 {
        session(&storage, async |disk| {
            for block in 0..7 {
                assert!(disk.discard(block).await.unwrap());
            }
        });
        session(&storage, async |disk| fill(disk, 0..7, tag).await);
        assert_eq!(storage.length(), full, "round {tag}");
    }
    session(&storage, async |disk| {
        assert_eq!(disk.see(0).await.unwrap(), Seen::Tag(11));
        assert_eq!(disk.see(7 * SPB).await.unwrap(), Seen::Tag(1));
    });
}

#[test]
fn a_device_that_is_full_has_room_again_after_a_discard_and_a_new_start() {
    let storage = create(device(9 * MIB), &options(64 * MIB));
    session(&storage, async |disk| {
        fill(disk, 0..4, 1).await;
        assert!(disk.write(4 * SPB, 1, 1).await.is_err(), "the device has room for four blocks");
    });
    session(&storage, async |disk| assert!(disk.discard(1).await.unwrap()));
    session(&storage, async |disk| {
        disk.write(20 * SPB + 5, 1, 2).await.unwrap();
        assert!(disk.write(30 * SPB, 1, 2).await.is_err());
        // Nothing of the block that was there before shines through.
        assert_eq!(disk.see(20 * SPB + 5).await.unwrap(), Seen::Tag(2));
        assert_eq!(disk.see(20 * SPB + 6).await.unwrap(), Seen::Hole);
        assert_eq!(disk.see(0).await.unwrap(), Seen::Tag(1));
    });
}

#[test]
fn room_that_was_made_between_blocks_goes_back_when_the_image_is_closed() {
    let traced = Arc::new(TracedStorage::new(create(file(), &options(64 * MIB))));
    let storage: Arc<dyn Storage> = traced.clone();
    session(&storage, async |disk| fill(disk, 0..8, 1).await);
    traced.take();
    session(&storage, async |disk| {
        for block in 0..4 {
            disk.discard(block).await.unwrap();
        }
        // One block: the others that are made ready with it are nobody's.
        disk.write(20 * SPB, 1, 2).await.unwrap();
    });
    let operations = traced.take();
    let made = operations.iter().rposition(|operation| matches!(operation, TracedOperation::Allocate(_))).unwrap();
    let given = operations[made..].iter().filter(|operation| match operation {
        TracedOperation::WriteZeroes { range, may_free } => *may_free && range.length() == BLOCK + 512,
        _ => false,
    });
    assert_eq!(given.count(), 3);
}
