//! What a ring promises its guest: pages are its own again with the answer, a write is one write, and what was flushed is
//! there.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use block_core::{FileOffset, FileRange, Origin};
use futures_util::future::join3;
use guest::{Front, FrontOptions};
use storage_io::{
    Access, Completion, Executor, Fault, FaultRule, Hold, Limits, MemoryStorage, OperationKind, Pending, Storage,
    StorageExt, StorageOperation, TracedOperation, TracedStorage,
};
use wire::blkif::{OperationCode, RequestBody, Segment, Status, Transfer};
use xen::Access as GrantAccess;

use crate::world::{DISK_BYTES, DISK_SECTORS, GUEST, HOST, World, pattern};

#[test]
fn a_request_is_listed_with_its_guest_and_its_grants_until_it_is_answered() {
    let world = World::new();
    let (front, _ring) = world.front(FrontOptions { segments_max: 256, ..FrontOptions::default() });
    let listed = || -> Vec<String> {
        let operations = world.executor.operations().into_iter().map(|operation| operation.what);
        operations.filter(|what| what.starts_with(&format!("domain {GUEST}: request "))).collect()
    };
    let page = world.guest.allocate_page().unwrap();
    let grant = world.guest.grant(page, HOST, GrantAccess::Read).unwrap();
    world.faults.add(FaultRule::every(Fault::Hang).of(OperationKind::Write));
    world.run(async {
        let direct = {
            let front = front.clone();
            let segments = vec![Segment::page(grant.0), Segment::page(grant.0)];
            let body = RequestBody::Transfer { transfer: Transfer::Write, sector: 8, segments };
            world.executor.spawn(async move { front.request(OperationCode::Write, body).await })
        };
        while world.faults.hanging() < 1 {
            world.executor.yield_now().await;
        }
        let named = format!("request 0x1: Write at sector 8, grants [{grant}, {grant}]");
        assert_eq!(listed(), [format!("domain {GUEST}: {named}")]);
        let indirect = {
            let front = front.clone();
            world.executor.spawn(async move { front.write(64, &pattern(12 * 8, 1)).await })
        };
        while world.faults.hanging() < 2 {
            world.executor.yield_now().await;
        }
        // The guest has used one page for the direct one, then twelve in a row, and one that names them.
        let of_indirect = listed().into_iter().find(|what| what.contains("request 0x2")).unwrap();
        let all: Vec<u32> = (1..=12).map(|behind| grant.0 + behind).collect();
        assert!(of_indirect.ends_with(&format!("at sector 64, grants {all:?} named by [{}]", grant.0 + 13)));
        world.faults.clear();
        world.faults.release();
        assert_eq!(direct.await.unwrap(), Status::Okay);
        indirect.await.unwrap();
        assert_eq!(listed(), Vec::<String>::new());
    });
}

#[test]
fn a_guest_that_was_told_to_forget_its_disk_has_its_pages_to_itself() {
    let world = World::new();
    let (front, ring) = world.front(FrontOptions::default());
    let [to_read, to_write] = [(); 2].map(|()| {
        let page = world.guest.allocate_page().unwrap();
        (page, world.guest.grant(page, HOST, GrantAccess::Write).unwrap())
    });
    let put = |page: u32, byte| world.guest.memory().copy_in(page as usize * 4096, &[byte; 4096]);
    put(to_write.0, 1);
    world.faults.add(FaultRule::every(Fault::Hang).of(OperationKind::Read));
    world.faults.add(FaultRule::every(Fault::Hang).of(OperationKind::Write));
    world.run(async {
        let ask = |transfer: Transfer, grant: xen::GrantRef| {
            let body = RequestBody::Transfer { transfer, sector: 8, segments: vec![Segment::page(grant.0)] };
            let front = front.clone();
            world.executor.spawn(async move { front.request(transfer.operation(), body).await })
        };
        let (reading, writing) = (ask(Transfer::Read, to_read.1), ask(Transfer::Write, to_write.1));
        while world.faults.hanging() < 2 {
            world.executor.yield_now().await;
        }
        ring.cut();
        // Grants that somebody else has got by now, for one.
        [to_read, to_write].iter().for_each(|(page, _)| put(*page, 2));
        world.faults.clear();
        world.faults.release();
        ring.disconnect().await;
        assert_eq!((reading.await.unwrap(), writing.await.unwrap()), (Status::Error, Status::Okay));
        let mut bytes = [0; 4096];
        world.guest.memory().copy_out(to_read.0 as usize * 4096, &mut bytes);
        assert_eq!(bytes, [2; 4096], "nobody has written to it");
        let (after, _ring) = world.front(FrontOptions::default());
        assert_eq!(after.read(8, 8).await.unwrap(), [1; 4096], "what was taken in time is there");
    });
}

#[test]
fn no_page_is_in_use_once_its_request_is_answered() {
    let world = World::new();
    let (front, _ring) = world.front(FrontOptions { order: 2, segments_max: 256, ..FrontOptions::default() });
    let rounds = test_support::cycles(100, 10_000);
    // Some fail, which is answered too.
    world.faults.add(FaultRule::every(Fault::error(5)).touching(FileRange::new(FileOffset::new(0), 4096)));
    world.run(async {
        for round in 0..rounds {
            // The guest takes each page back with the answer, and looks whether somebody still has it.
            let work = |number: u64, front: Front| async move {
                let sector = (round * 31 + number * 256) % (DISK_SECTORS - 256);
                let sectors = [1, 8, 88, 256][usize::try_from(number % 4).unwrap()];
                let _ = front.write(sector, &pattern(sectors, 1)).await;
                let _ = front.read(sector, sectors).await;
            };
            let tasks: Vec<_> = (0..8).map(|number| world.executor.spawn(work(number, front.clone()))).collect();
            for task in tasks {
                task.await;
            }
        }
        assert_eq!(front.stray_pages(), 0);
    });
}

#[test]
fn storage_that_hangs_holds_no_page_of_a_guest() {
    let world = World::new();
    let (front, ring) = world.front(FrontOptions::default());
    world.faults.add(FaultRule::every(Fault::Hang));
    world.run(async {
        let _writing = {
            let front = front.clone();
            world.executor.spawn(async move { front.write(0, &pattern(88, 1)).await })
        };
        let _reading = {
            let front = front.clone();
            world.executor.spawn(async move { front.read(88, 88).await })
        };
        while world.faults.hanging() < 2 {
            world.executor.yield_now().await;
        }
        assert_eq!(world.guest.account().unwrap().used, 1, "the page of the ring, and none of the data");
        drop(ring);
        world.executor.yield_now().await;
        assert_eq!(world.guest.account().unwrap().used, 0, "whatever storage has");
        world.faults.clear();
        world.faults.release();
    });
}

/// Two storages that shall hold the same: each write goes to one, and when it has ended, to the other.
#[derive(Debug)]
struct Mirror([Arc<MemoryStorage>; 2]);

impl Storage for Mirror {
    fn submit(&self, executor: &Executor, operation: StorageOperation, hold: Option<Hold>) -> Pending {
        let StorageOperation::Write { offset, durable, .. } = operation else {
            return self.0[0].submit(executor, operation, hold);
        };
        let (executor, second) = (executor.clone(), self.0[1].clone());
        let first = self.0[0].submit(&executor, operation, None);
        Pending::spawn(&executor.clone(), hold, async move {
            let Completion { buffer, result } = first.await;
            let (Some(buffer), Ok(())) = (buffer, result) else { panic!("memory takes any write") };
            for _ in 0..20 {
                executor.yield_now().await;
            }
            second.submit(&executor, StorageOperation::Write { offset, buffer, durable }, None).await
        })
    }

    fn length(&self) -> u64 {
        self.0[0].length()
    }

    fn limits(&self) -> Limits {
        self.0[0].limits()
    }

    fn origin(&self) -> Origin {
        self.0[0].origin()
    }
}

#[test]
fn both_legs_of_a_mirror_hold_the_same_whatever_a_guest_does_to_its_pages() {
    let legs = [(); 2].map(|()| Arc::new(MemoryStorage::new(DISK_BYTES)));
    let world = World::on(Arc::new(Mirror(legs.clone())), Access::Write);
    let (front, _ring) = world.front(FrontOptions { order: 1, ..FrontOptions::default() });
    let pages: Vec<u32> = (0..4).map(|_| world.guest.allocate_page().unwrap()).collect();
    let grants: Vec<_> =
        pages.iter().map(|page| world.guest.grant(*page, HOST, GrantAccess::Write).unwrap().0).collect();
    let (guest, is_over) = (world.guest.clone(), Arc::new(AtomicBool::new(false)));
    let told = is_over.clone();
    let scribbler = thread::spawn(move || {
        for value in (0..=u8::MAX).cycle() {
            pages.iter().for_each(|page| guest.memory().copy_in(*page as usize * 4096, &[value; 4096]));
            if told.load(Ordering::Relaxed) {
                return;
            }
        }
    });
    let rounds = test_support::cycles(50, 2_000);
    world.run(async {
        for round in 0..rounds {
            let write = |number: u64| {
                let segments = grants.iter().map(|grant| Segment::page(*grant)).collect();
                let body = RequestBody::Transfer { transfer: Transfer::Write, sector: number * 32, segments };
                let front = front.clone();
                world.executor.spawn(async move { front.request(OperationCode::Write, body).await })
            };
            let tasks: Vec<_> = (0..16).map(write).collect();
            for task in tasks {
                assert_eq!(task.await.unwrap(), Status::Okay);
            }
            let read = async |leg: usize| {
                legs[leg].read_bytes(&world.executor, FileOffset::new(0), 16 * 4 * 4096).await.unwrap()
            };
            assert!(read(0).await == read(1).await, "round {round}");
        }
    });
    is_over.store(true, Ordering::Relaxed);
    scribbler.join().unwrap();
}

/// What reached a storage, in letters: a write as the number of its 4 KiB block, a sync as an S.
fn letters(trace: &[TracedOperation]) -> String {
    let letter = |operation: &TracedOperation| match operation {
        TracedOperation::Write { range, .. } => (range.start().get() / 4096).to_string(),
        TracedOperation::Sync => "S".to_owned(),
        other => panic!("{other:?}"),
    };
    trace.iter().map(letter).collect()
}

#[test]
fn a_flush_is_answered_after_a_sync_and_a_barrier_stands_between_two() {
    let storage = TracedStorage::new(Arc::new(MemoryStorage::new(DISK_BYTES)));
    let world = World::on(Arc::new(storage.clone()), Access::Write);
    let (front, _ring) = world.front(FrontOptions::default());
    storage.take();
    world.run(async {
        front.write(0, &pattern(8, 1)).await.unwrap();
        front.flush().await.unwrap();
        assert_eq!(letters(&storage.take()), "0S");
        let bytes = pattern(8, 2);
        // Into the ring in this order, and all at once.
        let ended = join3(front.write(8, &bytes), front.write_barrier(16, &bytes), front.write(24, &bytes)).await;
        assert!(matches!(ended, (Ok(()), Ok(()), Ok(()))), "{ended:?}");
        assert_eq!(letters(&storage.take()), "1S2S3");
    });
}

#[test]
fn a_sync_that_fails_is_a_flush_and_a_barrier_that_failed() {
    let world = World::new();
    let (front, _ring) = world.front(FrontOptions::default());
    world.faults.add(FaultRule::every(Fault::error(5)).of(OperationKind::Sync));
    world.run(async {
        front.write(0, &pattern(8, 1)).await.unwrap();
        assert!(front.flush().await.is_err());
        assert!(front.write_barrier(8, &pattern(8, 1)).await.is_err());
        assert_eq!(front.read(0, 8).await.unwrap(), pattern(8, 1), "the disk goes on");
    });
}
