//! A disk over a ring, used by a guest in software on the hosted platform.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod adoption;
mod budget;
mod honest;
mod hostile;
mod neighbour;
mod order;
mod persistent;
mod polling;
mod promises;
mod schedules;
mod session;
mod sessions;
mod world;

use std::{cell::Cell, rc::Rc, sync::Arc, thread, time::Duration};

use export::blkif::{BrokenRing, ConnectedRing, Polling, RingFeatures, RingOptions};
use guest::{Front, FrontOptions, FrontRing};
use storage_io::{Access, Fault, FaultRule, OperationKind};
use wire::blkif::{Abi, OperationCode, Request, RequestBody, SLOT_BYTES_MAX, Segment, Status, Transfer};
use world::{DISK_SECTORS, HOST, World, options, pattern};
use xen::Access as GrantAccess;

#[test]
fn what_was_written_is_read_over_every_kind_of_ring() {
    for (abi, order) in [(Abi::X86_64, 0), (Abi::X86_32, 0), (Abi::X86_64, 4), (Abi::X86_32, 2)] {
        let world = World::new();
        let (front, ring) = world.front(FrontOptions { abi, order, ..FrontOptions::default() });
        world.run(async {
            for (sector, sectors) in [(0, 1), (7, 8), (100, 9), (DISK_SECTORS - 88, 88), (1000, 3)] {
                let bytes = pattern(sectors, u8::try_from(sectors).unwrap());
                front.write(sector, &bytes).await.unwrap();
                assert_eq!(front.read(sector, sectors).await.unwrap(), bytes, "{abi:?} {order} {sector}+{sectors}");
            }
            front.flush().await.unwrap();
            assert_eq!(front.stray_pages(), 0);
            let end = ring.disconnect().await;
            assert_eq!((end.broken, end.counters.requests), (None, 11));
        });
        assert_eq!(front.release_ring().unwrap(), 0);
        world.is_clean();
    }
}

#[test]
fn a_request_may_have_256_segments() {
    let world = World::new();
    let (front, ring) = world.front(FrontOptions { segments_max: 256, ..FrontOptions::default() });
    world.run(async {
        for sectors in [12 * 8, 100 * 8 + 3, 256 * 8] {
            let bytes = pattern(sectors, 3);
            front.write(64, &bytes).await.unwrap();
            assert!(front.read(64, sectors).await.unwrap() == bytes, "{sectors} sectors");
        }
        assert_eq!((front.stray_pages(), ring.counters().refused), (0, 0));
        ring.disconnect().await;
    });
    front.release_ring().unwrap();
    world.is_clean();
}

#[test]
fn discarded_sectors_read_as_zeroes_and_flushes_are_answered() {
    let world = World::new();
    let (front, _ring) = world.front(FrontOptions::default());
    world.run(async {
        front.write(0, &pattern(16, 1)).await.unwrap();
        front.discard(0, 8).await.unwrap();
        front.flush().await.unwrap();
        assert_eq!(front.read(0, 8).await.unwrap(), vec![0; 4096]);
        assert_eq!(front.read(8, 8).await.unwrap(), pattern(16, 1)[4096..]);
    });
}

#[test]
fn a_barrier_comes_after_what_was_before_and_before_what_comes_after() {
    let world = World::new();
    let (front, _ring) = world.front(FrontOptions { order: 2, ..FrontOptions::default() });
    world.run(async {
        for round in 0..20 {
            let spawn = |sector: u64, seed: u8, barrier: bool| {
                let front = front.clone();
                world.executor.spawn(async move {
                    let bytes = pattern(8, seed);
                    if barrier {
                        front.write_barrier(sector, &bytes).await.unwrap();
                    } else {
                        front.write(sector, &bytes).await.unwrap();
                    }
                })
            };
            // All of them to the same place: the last one wins because of the barriers alone.
            let tasks = [
                spawn(0, round, false),
                spawn(0, round + 1, true),
                spawn(0, round + 2, true),
                spawn(8, round, false),
                spawn(0, round + 3, true),
            ];
            for task in tasks {
                task.await;
            }
            assert_eq!(front.read(0, 8).await.unwrap(), pattern(8, round + 3));
        }
    });
}

#[test]
fn requests_that_make_no_sense_fail_alone() {
    let world = World::new();
    let (front, _ring) = world.front(FrontOptions::default());
    let page = Segment::page(u32::MAX);
    let transfer = |transfer, sector, segments| RequestBody::Transfer { transfer, sector, segments };
    world.run(async {
        use OperationCode::{Read, Write};
        for (operation, body, expected) in [
            (Read, transfer(Transfer::Read, 0, vec![page]), Status::Error),
            (Write, transfer(Transfer::Write, 0, vec![page]), Status::Error),
            (Read, transfer(Transfer::Read, DISK_SECTORS - 7, vec![page]), Status::Error),
            (Read, transfer(Transfer::Read, u64::MAX, vec![page]), Status::Error),
            (Write, transfer(Transfer::Write, 0, vec![]), Status::Error),
            (
                OperationCode::Discard,
                RequestBody::Discard { sector: 0, sectors: u64::MAX, flags: wire::blkif::DiscardFlags::EMPTY },
                Status::Error,
            ),
            (
                OperationCode::Discard,
                RequestBody::Discard { sector: 0, sectors: 8, flags: wire::blkif::DiscardFlags::SECURE },
                Status::Unsupported,
            ),
        ] {
            let words = format!("{body:?}");
            assert_eq!(front.request(operation, body).await.unwrap(), expected, "{words}");
        }
        front.write(0, &pattern(8, 1)).await.unwrap();
        assert_eq!(front.read(0, 8).await.unwrap(), pattern(8, 1));
    });
}

#[test]
fn a_read_only_disk_refuses_writes_and_serves_reads() {
    let world = World::with(Access::Read);
    let (front, _ring) = world.front(FrontOptions::default());
    world.run(async {
        assert!(front.write(0, &pattern(8, 1)).await.is_err());
        assert_eq!(front.read(0, 8).await.unwrap(), vec![0; 4096]);
    });
}

#[test]
fn a_failure_of_storage_is_answered_once_and_others_go_on() {
    let world = World::new();
    let (front, ring) = world.front(FrontOptions::default());
    world.faults.add(FaultRule::once_after(3, Fault::error(5)).of(OperationKind::Write));
    world.run(async {
        let mut failed = 0;
        for number in 0..10 {
            failed += u32::from(front.write(number * 8, &pattern(8, 1)).await.is_err());
        }
        assert_eq!((failed, ring.counters().requests), (1, 10));
    });
}

#[test]
fn disconnecting_waits_for_what_storage_holds() {
    let world = World::new();
    let (front, ring) = world.front(FrontOptions::default());
    world.faults.add(FaultRule::every(Fault::Hang).of(OperationKind::Write));
    world.run(async {
        let writing = {
            let front = front.clone();
            world.executor.spawn(async move { front.write(0, &pattern(8, 1)).await })
        };
        while world.faults.hanging() == 0 {
            world.executor.yield_now().await;
        }
        let has_ended = Rc::new(Cell::new(false));
        let ended = has_ended.clone();
        let disconnecting = world.executor.spawn(async move {
            let end = ring.disconnect().await;
            ended.set(true);
            end
        });
        for _ in 0..100 {
            world.executor.yield_now().await;
        }
        assert!(!has_ended.get(), "a request is still under way");
        world.faults.clear();
        world.faults.release();
        writing.await.unwrap();
        assert_eq!(disconnecting.await.counters.requests, 1);
    });
    assert_eq!(front.release_ring().unwrap(), 0);
    world.is_clean();
}

#[test]
fn a_ring_with_more_requests_than_slots_is_not_looked_at_any_more() {
    let world = World::new();
    let (good, _good_ring) = world.front(FrontOptions::default());
    let bad = FrontRing::new(&world.guest, HOST, Abi::X86_64, 0).unwrap();
    let channel = world.guest.allocate_unbound(&world.executor, HOST).unwrap();
    let options = options(bad.grants().to_vec(), channel.port(), Abi::X86_64);
    let ring = ConnectedRing::connect(&world.disk.queue(), world.grants.clone(), &world.channels, &options).unwrap();
    world.run(async {
        bad.set_produced(33);
        channel.notify();
        while ring.broken().is_none() {
            world.executor.yield_now().await;
        }
        assert_eq!(ring.broken(), Some(BrokenRing::TooManyRequests { count: 33, slots: 32 }));
        good.write(0, &pattern(8, 1)).await.unwrap();
        assert_eq!(ring.disconnect().await.counters.requests, 0);
    });
    assert_eq!(bad.release().unwrap(), 0);
}

#[test]
fn rings_that_are_none_are_refused() {
    let world = World::new();
    let front =
        Front::new(&world.executor, &world.guest, FrontOptions { order: 2, ..FrontOptions::default() }).unwrap();
    let connect = |pages: Vec<_>| {
        let options = options(pages, front.port(), Abi::X86_64);
        ConnectedRing::connect(&world.disk.queue(), world.grants.clone(), &world.channels, &options)
    };
    let pages = front.ring_grants();
    for wrong in [vec![], pages[..3].to_vec(), vec![xen::GrantRef(9999)], vec![pages[0]; 17]] {
        assert!(connect(wrong).is_err());
    }
    assert_eq!(world.guest.account().unwrap().used, 0, "nothing of them stays mapped");
    connect(pages).unwrap();
}

#[test]
fn whatever_is_in_the_slots_each_is_answered_once() {
    let polling = Some(Polling { window: Duration::from_micros(20) });
    for features in [RingFeatures::default(), RingFeatures { persistent: true, polling }] {
        answers_whatever_is_in_the_slots(features);
    }
}

fn answers_whatever_is_in_the_slots(features: RingFeatures) {
    let world = World::new();
    let seed = test_support::seed();
    println!("seed {seed:#x}");
    let mut state = seed | 1;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let (page, grant) = {
        let page = world.guest.allocate_page().unwrap();
        (page, world.guest.grant(page, HOST, GrantAccess::Write).unwrap())
    };
    let mut ring = FrontRing::new(&world.guest, HOST, Abi::X86_64, 0).unwrap();
    let channel = world.guest.allocate_unbound(&world.executor, HOST).unwrap();
    let options = options(ring.grants().to_vec(), channel.port(), Abi::X86_64);
    let connected = world.connect_with(&RingOptions { features, ..options });
    let rounds = test_support::cycles(200, 20_000);
    world.run(async {
        for round in 0..rounds {
            for _ in 0..32 {
                let mut slot: [u8; SLOT_BYTES_MAX] = std::array::from_fn(|_| random().to_le_bytes()[0]);
                slot[0] %= 8;
                if random() % 2 == 0 {
                    // Nearer to what makes sense.
                    slot[1] = random().to_le_bytes()[0] % 13;
                    slot[2..4].copy_from_slice(&u16::from(random().to_le_bytes()[0]).to_le_bytes());
                    slot[16..24].copy_from_slice(&(random() % DISK_SECTORS).to_le_bytes());
                    for segment in slot[24..].chunks_exact_mut(8) {
                        let segment_bytes = Segment::new(grant.0, 0, 7).unwrap().encode();
                        segment.copy_from_slice(&segment_bytes);
                    }
                    slot[28..32].copy_from_slice(&grant.0.to_le_bytes());
                }
                ring.put(&slot);
            }
            // The page with segments and data holds anything.
            let bytes: Vec<u8> = (0..512).flat_map(|_| Segment::page(grant.0).encode()).collect();
            world.guest.memory().copy_in(page as usize * 4096, &bytes);
            if ring.push() {
                channel.notify();
            }
            let mut answered = 0;
            while answered < 32 {
                while ring.take().is_some() {
                    answered += 1;
                }
                if answered < 32 && !ring.arm() {
                    channel.wait().await.unwrap();
                }
            }
            assert_eq!(answered, 32, "round {round}");
        }
        let end = connected.disconnect().await;
        assert_eq!((end.broken, end.counters.requests), (None, rounds * 32));
        println!("{} of {} requests were refused", end.counters.refused, end.counters.requests);
    });
    assert_eq!(ring.release().unwrap(), 0);
}

#[test]
fn a_guest_that_scribbles_on_its_pages_never_tears_a_write() {
    for persistent in [false, true] {
        scribble(FrontOptions { persistent, ..FrontOptions::default() });
    }
}

fn scribble(options: FrontOptions) {
    let world = World::new();
    let (front, ring) = world.front(options);
    let page = world.guest.allocate_page().unwrap();
    let grant = world.guest.grant(page, HOST, GrantAccess::Write).unwrap();
    let scribbler = {
        let (guest, at) = (world.guest.clone(), page as usize * 4096);
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            let mut value = 0_u8;
            while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
                value = value.wrapping_add(1);
                guest.memory().copy_in(at, &[value; 4096]);
            }
        });
        (stop, thread)
    };
    world.run(async {
        for round in 0..200_u64 {
            let body =
                RequestBody::Transfer { transfer: Transfer::Write, sector: 0, segments: vec![Segment::page(grant.0)] };
            assert_eq!(front.request(OperationCode::Write, body).await.unwrap(), Status::Okay);
            let (first, second) = (front.read(0, 8).await.unwrap(), front.read(0, 8).await.unwrap());
            assert!(first == second, "round {round}: what was written goes on changing");
        }
        assert_eq!(ring.counters().grant_copies > 0, !options.persistent);
    });
    scribbler.0.store(true, std::sync::atomic::Ordering::Relaxed);
    scribbler.1.join().unwrap();
}

#[test]
fn requests_that_are_in_the_ring_before_it_is_connected_are_served() {
    let world = World::new();
    let front = Front::new(&world.executor, &world.guest, FrontOptions::default()).unwrap();
    world.run(async {
        let reading = {
            let front = front.clone();
            world.executor.spawn(async move { front.read(0, 8).await })
        };
        world.executor.yield_now().await;
        let _ring = world.connect(&front, Abi::X86_64);
        assert_eq!(reading.await.unwrap(), vec![0; 4096]);
    });
}

#[test]
fn two_rings_and_a_paused_disk_see_the_same_bytes() {
    let world = World::new();
    let (first, _one) = world.front(FrontOptions::default());
    let (second, _other) = world.front(FrontOptions::default());
    world.run(async {
        first.write(0, &pattern(8, 1)).await.unwrap();
        assert_eq!(second.read(0, 8).await.unwrap(), pattern(8, 1));
        world.disk.pause(None).await.unwrap();
        let held = {
            let second = second.clone();
            world.executor.spawn(async move { second.write(8, &pattern(8, 2)).await })
        };
        for _ in 0..50 {
            world.executor.yield_now().await;
        }
        assert_eq!(second.in_flight(), 1, "it waits in the ring");
        world.disk.resume(None).await.unwrap();
        held.await.unwrap();
        assert_eq!(first.read(8, 8).await.unwrap(), pattern(8, 2));
    });
}

#[test]
fn encoding_for_hostile_tests_is_what_the_backend_reads() {
    let body = RequestBody::Flush { sector: 0, segments: vec![] };
    let slot = Request { id: 7, operation: OperationCode::FlushDiskCache, body }.encode(Abi::X86_64, 0);
    assert_eq!(wire::blkif::RawRequest::new(Abi::X86_64, slot).id(), 7);
}
