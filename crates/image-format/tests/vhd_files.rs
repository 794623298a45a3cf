//! What VHDs look like on the storage: sizes, places, footers and batmaps as other tools make them.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::sync::Arc;

use common::{BLOCK, Disk, MIB, SPB, Seen, child_options, create, options, overwrite, read, simulated};
use image_format::vhd::{CreateOptions, UncheckedFooter};
use image_format::{Format, Mapping};
use storage_io::{
    Access, CrashStorage, Executor, Hold, Limits, Pending, Storage, StorageKind, StorageOperation, TracedOperation,
    TracedStorage,
};

fn file() -> Arc<dyn Storage> {
    Arc::new(CrashStorage::new(0))
}

fn device(length: u64) -> Arc<dyn Storage> {
    Arc::new(CrashStorage::new(length).with_limits(|limits| limits.kind = StorageKind::BlockDevice))
}

fn is_footer(storage: &Arc<dyn Storage>, offset: u64) -> bool {
    UncheckedFooter::parse(&read(storage, offset, 512)).unwrap().check().is_ok()
}

#[test]
fn empty_images_have_the_sizes_that_other_tools_make() {
    assert_eq!(create(file(), &options(64 * MIB)).length(), 3584);
    assert_eq!(create(file(), &options(0)).length(), 3584);
    assert_eq!(create(file(), &child_options(64 * MIB)).length(), 5120);
    let fixed = create(file(), &CreateOptions { fixed: true, ..options(7 * MIB) });
    assert_eq!(fixed.length(), 8 * MIB + 512);
    assert!(is_footer(&fixed, 8 * MIB) && !is_footer(&fixed, 0));
}

#[test]
fn creating_over_an_old_image_leaves_nothing_of_it() {
    let storage = create(file(), &CreateOptions { fixed: true, ..options(8 * MIB) });
    overwrite(&storage, 0, &[0xee; 65536]);
    create(storage.clone(), &options(64 * MIB));
    assert_eq!(storage.length(), 3584);
}

#[test]
fn blocks_of_a_dynamic_image_begin_at_3584_and_2104832_and_data_at_pages() {
    let storage = create(file(), &options(64 * MIB));
    let executor = simulated(7);
    let disk = Disk::open(&executor, storage.clone()).unwrap();
    executor.block_on(disk.write(5 * SPB + 9, 1, 1)).unwrap();
    executor.block_on(disk.write(2 * SPB, 1, 2)).unwrap();
    assert_eq!(executor.block_on(disk.map(5 * SPB + 9, 1)).unwrap().0, data(3584 + 512 + 9 * 512));
    assert_eq!(executor.block_on(disk.map(2 * SPB, 1)).unwrap().0, data(2_104_832 + 512));
    executor.block_on(disk.close()).unwrap();
    assert_eq!(read(&storage, 1536 + 5 * 4, 4), 7_u32.to_be_bytes());
    assert_eq!(read(&storage, 1536 + 2 * 4, 4), 4111_u32.to_be_bytes());
    assert_eq!(read(&storage, 3584, 512), [vec![0, 0x40], vec![0; 510]].concat());
    assert_eq!(storage.length(), 2_104_832 + 512 + BLOCK + 512);
    assert!(is_footer(&storage, storage.length() - 512));
}

fn data(offset: u64) -> Mapping {
    Mapping::Data { offset: block_core::FileOffset::new(offset) }
}

#[test]
fn the_first_block_of_a_64_mebibyte_child_begins_at_7680() {
    let storage = create(file(), &child_options(64 * MIB));
    let executor = simulated(7);
    let disk = Disk::open(&executor, storage).unwrap();
    executor.block_on(disk.write(0, 1, 1)).unwrap();
    assert_eq!(executor.block_on(disk.map(0, 1)).unwrap().0, data(7680 + 512));
}

#[test]
fn a_childs_parent_is_named_relative_to_its_directory() {
    let executor = simulated(7);
    let disk = Disk::open(&executor, create(file(), &child_options(64 * MIB))).unwrap();
    let parent = disk.image.parent().unwrap();
    assert_eq!(parent.candidates, [std::path::PathBuf::from("/d/a.vhd")]);
    assert_eq!(parent.uuid, Some(uuid::Uuid::from_u128(0x1234)));
}

#[test]
fn a_full_block_is_told_by_the_batmap_after_closing() {
    let storage = create(file(), &options(64 * MIB));
    let executor = simulated(7);
    let disk = Disk::open(&executor, storage.clone()).unwrap();
    executor.block_on(disk.write(3 * SPB, SPB, 1)).unwrap();
    executor.block_on(disk.write(4 * SPB, SPB - 1, 2)).unwrap();
    executor.block_on(disk.close()).unwrap();
    assert_eq!(read(&storage, 2560, 4), [0x10, 0, 0, 0]);
    let trace = TracedStorage::new(storage);
    let disk = Disk::open(&executor, Arc::new(trace.clone())).unwrap();
    trace.take();
    assert_eq!(executor.block_on(disk.map(3 * SPB, SPB)).unwrap().1, SPB);
    assert_eq!(trace.take(), [], "a full block's bitmap is not read");
    assert_eq!(executor.block_on(disk.map(4 * SPB, SPB)).unwrap().1, SPB - 1);
    assert_eq!(trace.take().len(), 1);
}

#[test]
fn runs_without_blocks_are_one_extent() {
    let executor = simulated(7);
    let disk = Disk::open(&executor, create(file(), &child_options(64 * MIB))).unwrap();
    assert_eq!(executor.block_on(disk.map(1, 32 * SPB - 1)).unwrap(), (Mapping::Parent, 32 * SPB - 1));
    executor.block_on(disk.write(9 * SPB + 8, 8, 1)).unwrap();
    assert_eq!(executor.block_on(disk.map(1, 32 * SPB - 1)).unwrap(), (Mapping::Parent, 9 * SPB - 1));
    assert_eq!(executor.block_on(disk.map(9 * SPB, SPB)).unwrap(), (Mapping::Parent, 8));
    assert_eq!(executor.block_on(disk.map(9 * SPB + 10, SPB - 10)).unwrap().1, 6);
    assert_eq!(executor.block_on(disk.map(9 * SPB + 16, SPB)).unwrap(), (Mapping::Parent, SPB - 16));
}

#[test]
fn a_fixed_image_is_its_data_in_order() {
    let executor = simulated(7);
    let storage = create(file(), &CreateOptions { fixed: true, ..options(8 * MIB) });
    let disk = Disk::open(&executor, storage.clone()).unwrap();
    executor.block_on(disk.write(100, 2, 5)).unwrap();
    executor.block_on(disk.close()).unwrap();
    assert_eq!(read(&storage, 100 * 512, 1024), 5_u64.to_be_bytes().repeat(128));
    assert_eq!(storage.length(), 8 * MIB + 512);
    assert!(is_footer(&storage, 8 * MIB));
}

#[test]
fn a_footer_lies_at_the_end_of_the_file_while_it_grows() {
    let storage = create(file(), &options(256 * MIB));
    let executor = simulated(7);
    let disk = Disk::open(&executor, storage.clone()).unwrap();
    for block in 0..100 {
        executor.block_on(disk.write(block * SPB, 1, block + 1)).unwrap();
        assert!(is_footer(&storage, storage.length() - 512), "after block {block}");
    }
}

#[test]
fn a_device_keeps_its_footer_at_its_end_and_says_when_it_is_full() {
    let storage = create(device(11 * MIB), &options(64 * MIB));
    let executor = simulated(7);
    let disk = Disk::open(&executor, storage.clone()).unwrap();
    for block in 0..5 {
        executor.block_on(disk.write(block * SPB, 1, block + 1)).unwrap();
    }
    let error = executor.block_on(disk.write(5 * SPB, 1, 9)).unwrap_err();
    assert_eq!(error.kind(), block_core::ErrorKind::NoSpace);
    executor.block_on(disk.write(4 * SPB + 1, 1, 6)).unwrap();
    executor.block_on(disk.close()).unwrap();
    assert!(is_footer(&storage, 11 * MIB - 512) && is_footer(&storage, 0));
    let disk = Disk::open(&executor, storage).unwrap();
    assert_eq!(executor.block_on(disk.see(4 * SPB + 1)).unwrap(), Seen::Tag(6));
}

#[test]
fn room_on_a_device_is_zeroed_before_it_is_used() {
    let storage = create(device(11 * MIB), &options(64 * MIB));
    for offset in (4096..10 * MIB).step_by(65536) {
        overwrite(&storage, offset, &[0xee; 65536]);
    }
    let executor = simulated(7);
    let disk = Disk::open(&executor, storage.clone()).unwrap();
    executor.block_on(disk.write(0, 1, 1)).unwrap();
    assert_eq!(read(&storage, 3584 + 1024, 65536), [0; 65536]);
    assert_eq!(executor.block_on(disk.contents()).unwrap().len(), 1);
}

#[test]
fn freed_room_is_punched_and_used_again() {
    let storage = create(file(), &options(64 * MIB));
    let executor = simulated(7);
    let trace = TracedStorage::new(storage.clone());
    let disk = Disk::open(&executor, Arc::new(trace.clone())).unwrap();
    for block in 0..3 {
        executor.block_on(disk.write(block * SPB, SPB, block + 1)).unwrap();
    }
    executor.block_on(disk.close()).unwrap();
    let length = storage.length();
    let disk = Disk::open(&executor, Arc::new(trace.clone())).unwrap();
    trace.take();
    assert!(executor.block_on(disk.discard(1)).unwrap());
    assert!(!executor.block_on(disk.discard(1)).unwrap(), "there is nothing left to free");
    let punched = trace.take().into_iter().any(|operation| {
        matches!(operation, TracedOperation::WriteZeroes { range, may_free: true } if range.length() == BLOCK + 512)
    });
    assert!(punched);
    assert_eq!(read(&storage, 2560, 1), [0], "no bit of the batmap outlives its block");
    assert_eq!(executor.block_on(disk.map(SPB, 1)).unwrap().0, Mapping::Zero);
    executor.block_on(disk.write(7 * SPB + 1, 1, 9)).unwrap();
    executor.block_on(disk.close()).unwrap();
    assert_eq!(storage.length(), length);
    assert_eq!(read(&storage, 2560, 1), [0xa0]);
    let disk = Disk::open(&executor, storage).unwrap();
    assert_eq!(executor.block_on(disk.map(7 * SPB + 1, 1)).unwrap().0, data(2_104_832 + 1024));
    let contents = executor.block_on(disk.contents()).unwrap();
    assert_eq!(contents.get(&(7 * SPB + 1)), Some(&Seen::Tag(9)));
    assert_eq!(contents.len() as u64, 2 * SPB + 1);
}

#[test]
fn a_dropped_plan_gives_its_room_back() {
    let storage = create(file(), &options(64 * MIB));
    let executor = simulated(7);
    let disk = Disk::open(&executor, storage.clone()).unwrap();
    executor.block_on(async {
        for block in 0..200 {
            let range = common::sectors(block % 30 * SPB, 1);
            drop(disk.image.plan_write(&executor, range).await.unwrap());
        }
        disk.write(31 * SPB, 1, 1).await.unwrap();
        disk.close().await.unwrap();
    });
    assert!(storage.length() <= 40 * BLOCK, "{} bytes", storage.length());
    let disk = Disk::open(&executor, storage).unwrap();
    assert_eq!(disk.image.allocated_blocks(), Some(1));
}

#[test]
fn commits_of_one_turn_share_their_table_writes() {
    let storage = create(file(), &options(64 * MIB));
    let executor = simulated(7);
    let trace = TracedStorage::new(storage);
    let disk = Disk::open(&executor, Arc::new(trace.clone())).unwrap();
    executor.block_on(disk.write(0, 1, 1)).unwrap();
    trace.take();
    executor.block_on(async {
        let mut plans = Vec::new();
        for sector in 1..33 {
            plans.push(disk.image.plan_write(&executor, common::sectors(sector * 7, 1)).await.unwrap());
        }
        let commits = plans.into_iter().map(|plan| disk.image.commit(&executor, plan));
        futures_util::future::try_join_all(commits).await.unwrap();
    });
    assert_eq!(trace.take().len(), 1, "one write of the bitmap for 32 writes of data");
}

#[test]
fn syncs_that_wait_share_one() {
    let storage = create(file(), &options(64 * MIB));
    let executor = simulated(7);
    let trace = TracedStorage::new(storage);
    let disk = Disk::open(&executor, Arc::new(trace.clone())).unwrap();
    trace.take();
    executor.block_on(async {
        futures_util::future::try_join_all((0..50).map(|_| disk.flush())).await.unwrap();
    });
    assert!(trace.take().len() <= 2);
}

#[test]
fn a_sequential_overwrite_of_full_blocks_on_a_device_is_one_run() {
    let storage = create(device(32 * MIB), &options(16 * MIB));
    let executor = simulated(7);
    let disk = Disk::open(&executor, storage.clone()).unwrap();
    for block in 1..4 {
        executor.block_on(disk.write(block * SPB, SPB, 1)).unwrap();
    }
    executor.block_on(disk.close()).unwrap();
    let before = read(&storage, 0, usize::try_from(12 * MIB).unwrap());
    let disk = Disk::open(&executor, storage.clone()).unwrap();
    let mut end = None;
    for block in 1..4 {
        let plan = executor.block_on(disk.image.plan_write(&executor, common::sectors(block * SPB, SPB))).unwrap();
        if let Some((offset, lead)) = plan.lead {
            assert_eq!(offset + lead.len() as u64, plan.offset);
            assert!(end.is_none_or(|end| end == offset), "no gap");
            executor.block_on(async {
                let operation = StorageOperation::Write { offset, buffer: lead, durable: false };
                storage.submit(&executor, operation, None).await.result.unwrap();
            });
        } else {
            assert_eq!(block, 1, "the first block may lie directly behind the headers");
        }
        end = Some(plan.offset + BLOCK);
    }
    assert!(read(&storage, 0, usize::try_from(12 * MIB).unwrap()) == before, "leads change nothing");
}

#[test]
fn an_image_opened_for_reading_is_not_touched() {
    let storage = create(file(), &options(64 * MIB));
    let executor = simulated(7);
    let trace = TracedStorage::new(storage);
    let disk = Disk::open_for(&executor, Arc::new(trace.clone()), Access::Read).unwrap();
    assert_eq!(executor.block_on(disk.write(0, 1, 1)).unwrap_err().kind(), block_core::ErrorKind::ReadOnly);
    executor.block_on(disk.close()).unwrap();
    assert!(trace.take().iter().all(|operation| matches!(operation, TracedOperation::Read(_))));
}

#[test]
fn what_a_storage_manager_changes_meanwhile_survives_closing() {
    let storage = create(file(), &child_options(64 * MIB));
    let executor = simulated(7);
    let disk = Disk::open(&executor, storage.clone()).unwrap();
    executor.block_on(disk.write(0, SPB, 1)).unwrap();
    // `set hidden` writes both footers, `modify -p` the header, `set marker` the batmap's header.
    let hidden = disk.image.footer().clone().with_hidden(1);
    overwrite(&storage, 0, hidden.as_bytes());
    let mut header = read(&storage, 512, 1024);
    header[1000] = 7;
    overwrite(&storage, 512, &header);
    let mut batmap = read(&storage, 2048, 512);
    batmap[28] = 42;
    overwrite(&storage, 2048, &batmap);
    executor.block_on(disk.close()).unwrap();
    assert_eq!(read(&storage, 512, 1024), header);
    assert_eq!(read(&storage, storage.length() - 512, 512), hidden.as_bytes());
    assert_eq!(read(&storage, 2048, 512)[28], 42);
    let reopened = Disk::open_for(&executor, storage, Access::Read);
    assert!(reopened.is_err(), "the test's header has no checksum; it was left as it was");
}

#[test]
fn tables_with_reserved_entries_keep_them_unused() {
    let storage = create(file(), &CreateOptions { reserved_bytes: 512 * MIB, ..options(64 * MIB) });
    let executor = simulated(7);
    let disk = Disk::open(&executor, storage.clone()).unwrap();
    executor.block_on(disk.write(31 * SPB, 1, 1)).unwrap();
    executor.block_on(disk.close()).unwrap();
    assert_eq!(read(&storage, 1536 + 31 * 4, 8), [0, 0, 0, 7, 0xff, 0xff, 0xff, 0xff]);
    assert_eq!(read(&storage, 1536 + 255 * 4, 4), [0xff; 4]);
}

/// A file that somebody else has cut since its length was asked for.
#[derive(Debug)]
struct CutSince(Arc<dyn Storage>, u64);

impl Storage for CutSince {
    fn submit(&self, executor: &Executor, operation: StorageOperation, hold: Option<Hold>) -> Pending {
        self.0.submit(executor, operation, hold)
    }

    fn length(&self) -> u64 {
        self.1
    }

    fn limits(&self) -> Limits {
        self.0.limits()
    }

    fn origin(&self) -> block_core::Origin {
        self.0.origin()
    }
}

/// A parent is written to beside those who read through it, and its end comes and goes.
#[test]
fn an_image_whose_end_is_cut_while_it_is_opened_is_opened_by_its_start() {
    let storage = create(file(), &options(64 * MIB));
    let executor = simulated(3);
    let disk = Disk::open(&executor, storage.clone()).unwrap();
    executor.block_on(disk.write(5, 1, 9)).unwrap();
    executor.block_on(disk.close()).unwrap();
    let cut: Arc<dyn Storage> = Arc::new(CutSince(storage.clone(), storage.length() + 2 * MIB));
    let disk = Disk::open_for(&executor, cut, Access::Read).unwrap();
    assert_eq!(executor.block_on(disk.see(5)).unwrap(), Seen::Tag(9));
    // Without its start, there is nothing to go by.
    overwrite(&storage, 0, &[0; 512]);
    let cut: Arc<dyn Storage> = Arc::new(CutSince(storage.clone(), storage.length() + 2 * MIB));
    assert!(Disk::open_for(&executor, cut, Access::Read).is_err());
}
