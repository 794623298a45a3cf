//! What a guest is told of its disk is so, and goes on being so.

use std::{cell::RefCell, rc::Rc, sync::Arc};

use export::blkif::{BrokenRing, ConnectedRing, RingChange, RingOptions};
use guest::{Front, FrontOptions, FrontRing};
use storage_io::{Access, Fault, FaultRule, MemoryStorage, OperationKind};
use wire::blkif::{Abi, DiscardFlags, IndirectPages, OperationCode, RequestBody, Segment, Status, Transfer};

use crate::world::{DISK_SECTORS, HOST, World, of_front, options, pattern};

/// A page of the guest's, granted for writing.
fn page(world: &World) -> u32 {
    let page = world.guest.allocate_page().unwrap();
    world.guest.grant(page, HOST, xen::Access::Write).unwrap().0
}

/// Asks for some sectors of a granted page each.
async fn transfer(front: &Front, transfer: Transfer, sector: u64, segments: &[Segment]) -> Status {
    let body = RequestBody::Transfer { transfer, sector, segments: segments.to_vec() };
    front.request(transfer.operation(), body).await.unwrap()
}

#[test]
fn sectors_have_512_bytes_on_a_disk_whose_sectors_have_4096() {
    let storage = MemoryStorage::new(usize::try_from(DISK_SECTORS * 512).unwrap());
    let storage = storage.with_limits(|limits| (limits.logical_block_size, limits.physical_block_size) = (4096, 4096));
    let bytes = storage.clone();
    let world = World::on(Arc::new(storage), Access::Write);
    let (front, _ring) = world.front(FrontOptions::default());
    let grant = page(&world);
    world.run(async {
        front.write(16, &pattern(8, 1)).await.unwrap();
        assert!(bytes.to_vec()[16 * 512..24 * 512] == pattern(8, 1), "sector 16 is at 8192");
        front.write(DISK_SECTORS - 8, &pattern(8, 2)).await.unwrap();
        assert_eq!(front.read(DISK_SECTORS - 8, 8).await.unwrap(), pattern(8, 2));
        let half = Segment::new(grant, 0, 3).unwrap();
        for (sector, segments) in [(1, vec![Segment::page(grant)]), (0, vec![half]), (0, vec![half, half])] {
            for way in [Transfer::Read, Transfer::Write] {
                let status = transfer(&front, way, sector, &segments).await;
                assert_eq!(status, Status::Error, "{way:?} {} segments at {sector}", segments.len());
            }
        }
        assert!(front.discard(4, 8).await.is_err() && front.discard(8, 4).await.is_err());
        front.discard(8, 16).await.unwrap();
        assert_eq!(front.read(16, 8).await.unwrap(), vec![0; 4096]);
    });
}

#[test]
fn a_guest_that_may_only_read_changes_nothing_of_a_disk_that_can_be_written() {
    let world = World::new();
    let (writer, _ring) = world.front(FrontOptions::default());
    let front = Front::new(&world.executor, &world.guest, FrontOptions::default()).unwrap();
    let made = FrontOptions::default();
    let ring = world.connect_with(&RingOptions { read_only: true, ..of_front(&front, made) });
    world.run(async {
        writer.write(0, &pattern(104, 1)).await.unwrap_err();
        writer.write(0, &pattern(88, 1)).await.unwrap();
        assert!(front.write(0, &pattern(8, 2)).await.is_err());
        assert!(front.write_barrier(0, &pattern(8, 2)).await.is_err());
        assert!(front.discard(0, 8).await.is_err());
        let segments = vec![Segment::page(page(&world))];
        let flush = |segments| RequestBody::Flush { sector: 0, segments };
        assert_eq!(front.request(OperationCode::FlushDiskCache, flush(segments)).await.unwrap(), Status::Error);
        assert_eq!(ring.counters().refused, 4);
        front.flush().await.unwrap();
        assert_eq!(front.read(0, 88).await.unwrap(), pattern(88, 1));
    });
}

#[test]
fn the_answer_to_an_indirect_request_names_what_it_carries() {
    let world = World::new();
    let (front, _ring) = world.front(FrontOptions { segments_max: 256, ..FrontOptions::default() });
    world.run(async {
        // A frontend in software panics at any other answer.
        front.write(0, &pattern(256, 1)).await.unwrap();
        assert!(front.read(0, 256).await.unwrap() == pattern(256, 1));
        for way in [Transfer::Read, Transfer::Write] {
            let pages = IndirectPages::new([u32::MAX; 8], 20);
            let body = RequestBody::Indirect { transfer: way, sector: 0, pages };
            assert_eq!(front.request(way.operation(), body).await.unwrap(), Status::Error);
        }
    });
}

#[test]
fn a_disk_that_gives_no_room_back_says_so() {
    for discards in [true, false] {
        let storage = MemoryStorage::new(1 << 20).with_limits(|limits| limits.discards = discards);
        let world = World::on(Arc::new(storage), Access::Write);
        assert_eq!(world.disk.status().geometry().unwrap().can_discard, discards);
        let (front, _ring) = world.front(FrontOptions::default());
        world.run(front.discard(0, 8)).unwrap();
    }
}

#[test]
fn a_discard_that_must_be_for_good_is_not_promised() {
    let world = World::new();
    let (front, ring) = world.front(FrontOptions::default());
    world.run(async {
        front.write(0, &pattern(8, 1)).await.unwrap();
        let body = RequestBody::Discard { sector: 0, sectors: 8, flags: DiscardFlags::SECURE };
        assert_eq!(front.request(OperationCode::Discard, body).await.unwrap(), Status::Unsupported);
        assert_eq!(front.read(0, 8).await.unwrap(), pattern(8, 1), "it is not done by halves either");
        front.discard(0, 8).await.unwrap();
        assert_eq!(ring.counters().refused, 1);
    });
}

#[test]
fn what_turns_out_not_to_be_possible_is_told_once_and_refused_from_then_on() {
    for (kind, operation) in
        [(OperationKind::Discard, OperationCode::Discard), (OperationKind::Sync, OperationCode::FlushDiskCache)]
    {
        let world = World::new();
        let (front, ring) = world.front(FrontOptions::default());
        world.faults.add(FaultRule::every(Fault::error(rustix::io::Errno::OPNOTSUPP.raw_os_error())).of(kind));
        let body = match operation {
            OperationCode::Discard => RequestBody::Discard { sector: 0, sectors: 8, flags: DiscardFlags::EMPTY },
            _ => RequestBody::Flush { sector: 0, segments: vec![] },
        };
        let (told, following) = follow(&world, &ring);
        world.run(async {
            front.write(0, &pattern(8, 1)).await.unwrap();
            let (first, second) = (front.request(operation, body.clone()), front.request(operation, body.clone()));
            let both = futures_util::future::join(first, second).await;
            assert_eq!((both.0.unwrap(), both.1.unwrap()), (Status::Unsupported, Status::Unsupported), "{operation:?}");
            world.faults.clear();
            let refused = ring.counters().refused;
            assert_eq!(front.request(operation, body).await.unwrap(), Status::Unsupported, "{operation:?}");
            assert_eq!(ring.counters().refused, refused + 1, "storage is not asked again");
            assert_eq!(front.read(0, 8).await.unwrap(), pattern(8, 1), "the rest goes on");
            assert_eq!(*told.borrow(), [RingChange::Unsupported(operation)]);
            ring.disconnect().await;
            following.await;
            assert_eq!(told.borrow().len(), 1);
        });
    }
}

/// Follows a ring: what it was told, and whether it still waits for more.
fn follow(world: &World, ring: &ConnectedRing) -> (Rc<RefCell<Vec<RingChange>>>, storage_io::Task<()>) {
    let (mut changes, told) = (ring.changes(), Rc::<RefCell<Vec<RingChange>>>::default());
    let seen = told.clone();
    let following = world.executor.spawn(async move {
        while let Some(change) = changes.next().await {
            seen.borrow_mut().push(change);
        }
    });
    (told, following)
}

#[test]
fn a_disk_that_grows_is_told_and_used() {
    let world = World::new();
    let (front, ring) = world.front(FrontOptions::default());
    let (told, following) = follow(&world, &ring);
    world.run(async {
        assert!(front.write(DISK_SECTORS, &pattern(8, 1)).await.is_err());
        let geometry = world.disk.grow(Some(DISK_SECTORS * 1024)).await.unwrap();
        assert_eq!(geometry.sectors, 2 * DISK_SECTORS);
        for _ in 0..100 {
            world.executor.yield_now().await;
        }
        assert_eq!(*told.borrow(), [RingChange::Resized(geometry)]);
        let mut late = ring.changes();
        assert_eq!(late.next().await, Some(RingChange::Resized(geometry)), "whoever comes late is told, too");
        front.write(2 * DISK_SECTORS - 8, &pattern(8, 1)).await.unwrap();
        assert!(front.write(2 * DISK_SECTORS - 7, &pattern(8, 1)).await.is_err());
        assert_eq!(front.read(2 * DISK_SECTORS - 8, 8).await.unwrap(), pattern(8, 1));
        ring.disconnect().await;
        following.await;
        assert_eq!(told.borrow().len(), 1);
        assert_eq!(late.next().await, None);
    });
}

#[test]
fn a_broken_ring_is_told_before_it_is_disconnected() {
    let world = World::new();
    let front = FrontRing::new(&world.guest, HOST, Abi::X86_64, 0).unwrap();
    let channel = world.guest.allocate_unbound(&world.executor, HOST).unwrap();
    let ring = world.connect_with(&options(front.grants().to_vec(), channel.port(), Abi::X86_64));
    world.run(async {
        front.set_produced(1000);
        channel.notify();
        let mut changes = ring.changes();
        let broken = BrokenRing::TooManyRequests { count: 1000, slots: 32 };
        assert_eq!(changes.next().await, Some(RingChange::Broken(broken)));
        let mut end = Box::pin(changes.next());
        assert!(futures_util::poll!(&mut end).is_pending());
        drop(end);
        drop(ring);
        assert_eq!(changes.next().await, None);
    });
}
