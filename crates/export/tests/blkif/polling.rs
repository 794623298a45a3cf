//! Rings that are looked at for a while before the guest is asked to tell.

use std::{sync::atomic::Ordering, time::Duration};

use export::blkif::{ConnectedRing, Polling, RingFeatures, RingOptions};
use guest::{Front, FrontOptions, FrontRing};
use storage_io::{Fault, FaultRule, OperationKind};
use wire::blkif::{Abi, OperationCode, Request, RequestBody};

use crate::world::{HOST, World, of_front, options, pattern};

fn polled(world: &World, window: Option<Duration>) -> (Front, ConnectedRing) {
    let front = Front::new(&world.executor, &world.guest, FrontOptions::default()).unwrap();
    let features = RingFeatures { persistent: false, polling: window.map(|window| Polling { window }) };
    let ring = world.connect_with(&RingOptions { features, ..of_front(&front, FrontOptions::default()) });
    (front, ring)
}

/// Events that a guest sends for so many writes, one after the other.
fn kicks_for(window: Option<Duration>, writes: u64) -> u64 {
    let world = World::new();
    let (front, ring) = polled(&world, window);
    world.run(async {
        // What a channel brings when it is bound, and the first request.
        front.write(0, &pattern(8, 1)).await.unwrap();
        let before = ring.counters().kicks_in;
        for number in 0..writes {
            front.write(number * 8, &pattern(8, 1)).await.unwrap();
        }
        let kicks = ring.counters().kicks_in - before;
        ring.disconnect().await;
        kicks
    })
}

#[test]
fn a_guest_that_is_looked_at_need_not_tell() {
    assert!(kicks_for(None, 200) >= 190);
    let kicks = kicks_for(Some(Duration::from_secs(600)), 200);
    assert!(kicks <= 2, "{kicks} events in spite of polling");
}

#[test]
fn a_guest_is_asked_to_tell_after_a_while() {
    let world = World::new();
    let (front, ring) = polled(&world, Some(Duration::from_micros(100)));
    world.run(async {
        front.write(0, &pattern(8, 1)).await.unwrap();
        let before = ring.counters().kicks_in;
        // Each time it is asked again after a while, however long that takes on a busy machine.
        while ring.counters().kicks_in < before + 3 {
            world.executor.sleep(Duration::from_millis(2)).await;
            front.write(0, &pattern(8, 2)).await.unwrap();
        }
        ring.disconnect().await;
    });
}

#[test]
fn a_paused_disk_is_not_looked_at_and_a_stopped_ring_ends() {
    let world = World::new();
    let (front, ring) = polled(&world, Some(Duration::from_secs(600)));
    world.run(async {
        front.write(0, &pattern(8, 1)).await.unwrap();
        world.disk.pause(None).await.unwrap();
        let reading = {
            let front = front.clone();
            world.executor.spawn(async move { front.read(0, 8).await })
        };
        for _ in 0..50 {
            world.executor.yield_now().await;
        }
        assert_eq!(front.in_flight(), 1);
        world.disk.resume(None).await.unwrap();
        assert_eq!(reading.await.unwrap(), pattern(8, 1));
        assert_eq!(ring.disconnect().await.counters.requests, 2);
    });
    assert_eq!(front.release_ring().unwrap(), 0);
}

#[test]
fn a_guest_that_is_answered_is_looked_at_even_if_it_was_asked_to_tell_meanwhile() {
    let world = World::new();
    let window = Some(Polling { window: Duration::from_millis(50) });
    let features = RingFeatures { persistent: false, polling: window };
    let mut front = FrontRing::new(&world.guest, HOST, Abi::X86_64, 0).unwrap();
    let channel = world.guest.allocate_unbound(&world.executor, HOST).unwrap();
    let made = options(front.grants().to_vec(), channel.port(), Abi::X86_64);
    let ring = world.connect_with(&RingOptions { features, ..made });
    let flush = |id| {
        let body = RequestBody::Flush { sector: 0, segments: vec![] };
        Request { id, operation: OperationCode::FlushDiskCache, body }.encode(Abi::X86_64, 0)
    };
    world.faults.add(FaultRule::every(Fault::Hang).of(OperationKind::Sync));
    world.run(async {
        let is_asked = |front: &FrontRing, next: u32| front.memory().word(4).load(Ordering::SeqCst) == next;
        let mut need_not_tell = false;
        // A machine that stands still for as long as the guest is looked at may spoil a round, but not ten.
        for round in 0..10 {
            front.put(&flush(round));
            if front.push() {
                channel.notify();
            }
            let next = u32::try_from(round).unwrap() + 2;
            while world.faults.hanging() == 0 || !is_asked(&front, next) {
                world.executor.sleep(Duration::from_millis(1)).await;
            }
            world.faults.release();
            while front.take().is_none() {
                world.executor.yield_now().await;
            }
            need_not_tell |= !is_asked(&front, next);
        }
        assert!(need_not_tell, "it is asked to tell although it is looked at");
        world.faults.clear();
        ring.disconnect().await;
    });
    assert_eq!(front.release().unwrap(), 0);
}
