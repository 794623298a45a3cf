//! Each I/O of a workload is made to fail once. Whatever fails, what was answered stays readable, survives the process,
//! and the image opens for writing.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;

use block_core::{FileOffset, FileRange};
use common::{Disk, MIB, SPB, Seen, child_options, create, simulated};
use futures_util::future::{Either, select};
use storage_io::{
    CrashStorage, Effect, Executor, Fault, FaultRule, FaultScript, FaultyStorage, OperationKind, Storage, StorageKind,
};

const EIO: i32 = 5;

/// What each sector may hold.
type May = BTreeMap<u64, Vec<Seen>>;

/// A sector may hold what was answered last, and what failed since.
fn note(may: &mut May, sector: u64, value: Seen, is_done: bool) {
    let values = may.entry(sector).or_insert_with(|| vec![Seen::Hole]);
    if is_done {
        values.clear();
    }
    values.push(value);
}

async fn workload(disk: &Disk, may: &mut May) {
    for step in 0..24 {
        let block = step % 7;
        let sector = block * SPB + step * 3 % 8;
        let is_done = disk.write(sector, 2, step + 1).await.is_ok();
        note(may, sector, Seen::Tag(step + 1), is_done);
        note(may, sector + 1, Seen::Tag(step + 1), is_done);
        if step % 5 == 4 {
            let _ = disk.flush().await;
        }
        if step % 6 == 5 {
            let is_done = disk.discard(step % 4).await.is_ok();
            for (&sector, _) in may.clone().range(step % 4 * SPB..(step % 4 + 1) * SPB) {
                note(may, sector, Seen::Hole, is_done);
            }
        }
        if step % 8 == 7 {
            let is_done = disk.write((8 + step) * SPB, SPB, 100 + step).await.is_ok();
            note(may, (8 + step) * SPB, Seen::Tag(100 + step), is_done);
            note(may, (9 + step) * SPB - 1, Seen::Tag(100 + step), is_done);
        }
    }
}

fn hold(disk: &Disk, executor: &Executor, may: &May, when: &str) {
    for (&sector, values) in may {
        // The one failure may strike this very read; the next one succeeds.
        let first = executor.block_on(disk.see(sector));
        let seen = first.or_else(|_| executor.block_on(disk.see(sector))).unwrap();
        assert!(values.contains(&seen), "{when}: sector {sector} is {seen:?}, may be {values:?}");
    }
}

/// The workload with the `skip`-th operation failing. Whether there was such an operation.
fn fail_once(storage: CrashStorage, skip: u64, effect: Effect, kind: Option<OperationKind>) -> bool {
    let script = FaultScript::new();
    let executor = simulated(skip);
    let faulty = Arc::new(FaultyStorage::new(Arc::new(storage.clone()), script.clone()));
    let disk = Disk::open(&executor, faulty).unwrap();
    let rule = FaultRule::once_after(skip, Fault::Fail { errno: EIO, effect });
    script.add(match kind {
        Some(kind) => rule.of(kind),
        None => rule,
    });
    let mut may = May::new();
    executor.block_on(workload(&disk, &mut may));
    let when = format!("operation {skip} fails ({effect:?}, {kind:?})");
    hold(&disk, &executor, &may, &when);

    // The process dies here, or it closes the image.
    let died = storage.crash_point().killed(skip);
    let survivor = Disk::open(&executor, Arc::new(died)).unwrap_or_else(|error| panic!("{when}: {error}"));
    hold(&survivor, &executor, &may, &format!("{when}, died"));
    executor.block_on(survivor.write(3 * SPB, 1, 77)).unwrap();
    executor.block_on(survivor.close()).unwrap();

    // A second failure cannot come, so closing fails only if a sync did: then nothing is known to be durable.
    let is_closed = executor.block_on(disk.close()).is_ok();
    assert!(is_closed || script.struck() == 1);
    let reopened = Disk::open(&executor, Arc::new(storage)).unwrap_or_else(|error| panic!("{when}: {error}"));
    hold(&reopened, &executor, &may, &format!("{when}, closed"));
    script.struck() == 1
}

fn new_file() -> CrashStorage {
    let storage = CrashStorage::new(0);
    create(Arc::new(storage.clone()), &child_options(128 * MIB));
    storage
}

#[test]
fn every_operation_on_a_file_may_fail_once() {
    for effect in [Effect::None, Effect::Torn, Effect::All] {
        let count = (0..).take_while(|&skip| fail_once(new_file(), skip, effect, None)).count();
        assert!(count > 100, "the workload has {count} operations");
    }
}

#[test]
fn every_operation_on_a_device_may_fail_once() {
    let new = || {
        let device = CrashStorage::new(100 * MIB).with_limits(|limits| limits.kind = StorageKind::BlockDevice);
        create(Arc::new(device.clone()), &child_options(128 * MIB));
        device
    };
    let count = (0..).take_while(|&skip| fail_once(new(), skip, Effect::All, None)).count();
    assert!(count > 100, "the workload has {count} operations");
}

#[test]
fn after_a_failed_sync_every_flush_fails_until_the_image_is_opened_again() {
    let storage = new_file();
    let script = FaultScript::new();
    let executor = simulated(1);
    let faulty: Arc<dyn Storage> = Arc::new(FaultyStorage::new(Arc::new(storage), script.clone()));
    let disk = Disk::open(&executor, faulty.clone()).unwrap();
    executor.block_on(disk.write(0, 1, 1)).unwrap();
    script.add(FaultRule::once_after(0, Fault::error(EIO)).of(OperationKind::Sync));
    for _ in 0..3 {
        assert_eq!(executor.block_on(disk.flush()).unwrap_err().os_error(), Some(EIO));
    }
    executor.block_on(disk.write(0, 1, 2)).unwrap();
    assert!(executor.block_on(disk.close()).is_err());
    let disk = Disk::open(&executor, faulty).unwrap();
    executor.block_on(disk.flush()).unwrap();
}

#[test]
fn a_table_that_cannot_be_written_fails_its_writes_and_no_others() {
    let storage = new_file();
    let script = FaultScript::new();
    let executor = simulated(1);
    let disk = Disk::open(&executor, Arc::new(FaultyStorage::new(Arc::new(storage.clone()), script.clone()))).unwrap();
    executor.block_on(disk.write(0, 1, 1)).unwrap();
    let table = FileRange::new(FileOffset::new(1536), 512);
    script.add(FaultRule::every(Fault::error(EIO)).of(OperationKind::Write).touching(table));
    assert_eq!(executor.block_on(disk.write(SPB, 1, 2)).unwrap_err().os_error(), Some(EIO));
    executor.block_on(disk.write(1, 1, 3)).unwrap();
    script.clear();
    executor.block_on(disk.write(SPB, 1, 4)).unwrap();
    executor.block_on(disk.close()).unwrap();
    let disk = Disk::open(&executor, Arc::new(storage)).unwrap();
    assert_eq!(executor.block_on(disk.see(SPB)).unwrap(), Seen::Tag(4));
    assert_eq!(executor.block_on(disk.see(1)).unwrap(), Seen::Tag(3));
}

#[test]
fn a_full_file_system_fails_new_blocks_and_heals() {
    const ENOSPC: i32 = 28;
    let storage = new_file();
    let script = FaultScript::new();
    let executor = simulated(1);
    let disk = Disk::open(&executor, Arc::new(FaultyStorage::new(Arc::new(storage.clone()), script.clone()))).unwrap();
    script.add(FaultRule::every(Fault::error(ENOSPC)).of(OperationKind::Allocate));
    let error = executor.block_on(disk.write(0, 1, 1)).unwrap_err();
    assert_eq!((error.kind(), error.os_error()), (block_core::ErrorKind::NoSpace, Some(ENOSPC)));
    assert_eq!(storage.to_vec().len(), 5120, "the file is as it was");
    script.clear();
    executor.block_on(disk.write(0, 1, 2)).unwrap();
    executor.block_on(disk.close()).unwrap();
}

/// Whoever hears of a failure may give up the file's lock next: nothing of ours may still be on its way.
#[test]
fn room_that_could_not_be_made_leaves_no_write_behind() {
    let storage = new_file();
    let script = FaultScript::new();
    let executor = simulated(1);
    let faulty = Arc::new(FaultyStorage::new(Arc::new(storage.clone()), script.clone()));
    let disk = std::rc::Rc::new(Disk::open(&executor, faulty).unwrap());
    // The footer behind the new room, then the bitmaps of the new blocks: the first fails, the others take long.
    script.add(FaultRule::once_after(1, Fault::error(EIO)).of(OperationKind::Write));
    let others = FaultRule::every(Fault::Hang).touching(FileRange::new(FileOffset::new(MIB), u64::MAX / 2));
    script.add(FaultRule { skip: 1, ..others.of(OperationKind::Write) });
    let (ours, ended) = (disk.clone(), std::rc::Rc::new(std::cell::Cell::new(false)));
    let end = ended.clone();
    let write = executor.spawn(async move {
        let result = ours.write(0, 1, 1).await;
        end.set(true);
        result
    });
    while executor.step() {}
    assert!(script.hanging() > 0, "nothing else is on its way, or nobody waited for it");
    assert!(!ended.get(), "the failure was told while {} writes were on their way", script.hanging());
    script.clear();
    script.release();
    assert_eq!(executor.block_on(write).unwrap_err().os_error(), Some(EIO));
    executor.block_on(disk.close()).unwrap();
    assert_eq!(storage.to_vec().len(), 5120, "the file is as it was");
}

#[test]
fn a_write_that_fails_leaves_no_zeroing_on_its_way() {
    let image = create(Arc::new(CrashStorage::new(0)), &common::options(64 * MIB));
    let executor = simulated(7);
    let disk = Disk::open(&executor, image.clone()).unwrap();
    executor.block_on(async {
        disk.write(100, 1, 1).await.unwrap();
        disk.write(200, 1, 1).await.unwrap();
        disk.close().await.unwrap();
    });
    // What an earlier writer left in the block is zeroed in front of the first write to it: around two sectors.
    let script = FaultScript::new();
    let disk = Disk::open(&executor, Arc::new(FaultyStorage::new(image, script.clone()))).unwrap();
    script.add(FaultRule::once_after(0, Fault::error(EIO)).of(OperationKind::WriteZeroes));
    script.add(FaultRule::once_after(0, Fault::Hang).of(OperationKind::WriteZeroes));
    executor.block_on(async {
        let mut write = pin!(disk.write(150, 1, 2));
        let a_while = pin!(async {
            for _ in 0..100 {
                executor.yield_now().await;
            }
        });
        let first = select(write.as_mut(), a_while).await;
        assert_eq!(script.hanging(), 1);
        assert!(matches!(first, Either::Right(_)), "a zeroing is on its way, and nobody waits for it");
        script.release();
        assert!(write.await.is_err());
        disk.write(150, 1, 3).await.unwrap();
        assert_eq!(disk.see(150).await.unwrap(), Seen::Tag(3));
        disk.close().await.unwrap();
    });
}
