//! Guests that mean harm: their rings are stopped, their requests refused, and nobody else notices.

use std::time::Duration;

use export::blkif::{BrokenRing, ConnectedRing, Polling, RingFeatures, RingOptions};
use guest::{
    FrontRing,
    hostile::{HostileFront, HostileMode, HostileOptions},
};
use wire::blkif::{Abi, OperationCode, Request, RequestBody, Segment, Transfer};
use xen::{Access, hosted::GuestChannel};

use crate::{
    neighbour::Neighbour,
    world::{DISK_SECTORS, HOST, World, options},
};

/// A ring whose indices and slots the test writes itself.
struct RawRing {
    front: FrontRing,
    channel: GuestChannel,
    connected: ConnectedRing,
}

impl RawRing {
    fn new(world: &World) -> RawRing {
        let front = FrontRing::new(&world.guest, HOST, Abi::X86_64, 0).unwrap();
        let channel = world.guest.allocate_unbound(&world.executor, HOST).unwrap();
        let connected = world.connect_with(&options(front.grants().to_vec(), channel.port(), Abi::X86_64));
        RawRing { front, channel, connected }
    }
}

/// A guest in this mode beside a neighbour: the ring that it has had, and what it says of it.
fn beside_a_neighbour(mode: HostileMode, abi: Abi, order: u32, features: RingFeatures, rounds: u64) {
    let world = World::new();
    let seed = test_support::seed();
    let hostile = HostileOptions { backend: HOST, abi, order, sectors: DISK_SECTORS, seed };
    let mut hostile = HostileFront::new(&world.executor, &world.guest, hostile).unwrap();
    let options = RingOptions { features, ..options(hostile.ring_grants(), hostile.port(), abi) };
    let ring = world.connect_with(&options);
    world.run(async {
        let neighbour = Neighbour::new(&world);
        while neighbour.rounds() == 0 {
            world.executor.yield_now().await;
        }
        let before = neighbour.rounds();
        hostile.act(mode, rounds).await.unwrap();
        if mode.breaks_the_ring() {
            is_left_alone(&world, &mut hostile, &ring).await;
        }
        let made = neighbour.rounds() - before;
        let words =
            format!("{mode:?} {abi:?} {order}: {:?}, {:?}, neighbour {made}", hostile.report(), ring.counters());
        println!("{words}");
        assert!(hostile.report().complaints.is_empty(), "{words}");
        if !hostile.has_overwritten_its_ring() {
            assert_eq!(ring.broken().is_some(), mode.breaks_the_ring(), "{words}");
        }
        // Pages that stay mapped are the backend's until it gives them back.
        assert!(features.persistent || hostile.report().stray_pages == 0, "{words}");
        assert!(made >= rounds / 4, "the neighbour stands still: {words}");
        neighbour.end().await;
        let pages = ring.disconnect().await.pages;
        assert_eq!((pages.granted, pages.mapped, pages.leaked), (0, 0, 0), "{words}");
    });
    assert_eq!(hostile.release().unwrap(), 0);
    world.is_clean();
}

/// A ring that was broken is not looked at any more, whatever stands in it.
async fn is_left_alone(world: &World, hostile: &mut HostileFront, ring: &ConnectedRing) {
    while ring.broken().is_none() {
        world.executor.yield_now().await;
    }
    let before = (ring.counters().requests, hostile.answered());
    for _ in 0..8 {
        hostile.go_on_regardless();
        for _ in 0..50 {
            world.executor.yield_now().await;
        }
    }
    assert_eq!((ring.counters().requests, hostile.answered()), before, "a broken ring is looked at again");
}

macro_rules! modes {
    ($($name:ident: $mode:ident, $rounds:literal, $long:literal;)*) => {$(
        #[test]
        fn $name() {
            let rounds = test_support::cycles($rounds, $long);
            let polling = Some(Polling { window: Duration::from_micros(100) });
            let usual = RingFeatures::default();
            let all = RingFeatures { persistent: true, polling };
            beside_a_neighbour(HostileMode::$mode, Abi::X86_64, 0, usual, rounds);
            beside_a_neighbour(HostileMode::$mode, Abi::X86_32, 2, all, rounds / 4);
        }
    )*};
}

modes! {
    random_slots_hurt_nobody: RandomSlots, 40, 4000;
    memory_that_changes_while_it_is_looked_at_hurts_nobody: FlippingMemory, 40, 4000;
    more_requests_than_slots_stop_the_ring: Overrun, 1, 1;
    requests_that_are_taken_back_stop_the_ring: TakeBack, 1, 1;
    data_over_the_indices_stops_the_ring: RingAsData, 1, 1;
    requests_of_one_name_are_each_answered: DuplicateIds, 40, 4000;
    numbers_of_segments_that_make_no_sense_are_refused: SegmentCounts, 40, 4000;
    sectors_outside_of_anything_are_refused: SectorAbuse, 40, 4000;
    indirect_pages_that_hold_nothing_are_refused: IndirectPages, 40, 4000;
    grants_that_are_taken_back_under_way_leave_nothing: RevokedGrants, 100, 10000;
    grants_that_are_none_are_refused: ForeignGrants, 40, 4000;
    events_without_requests_are_no_more_than_that: KickStorm, 20, 2000;
}

#[test]
fn a_guest_that_takes_requests_back_loses_its_ring() {
    let world = World::new();
    let mut ring = RawRing::new(&world);
    let page = world.guest.allocate_page().unwrap();
    let grant = world.guest.grant(page, HOST, Access::Read).unwrap();
    world.faults.add(storage_io::FaultRule::every(storage_io::Fault::Hang).of(storage_io::OperationKind::Write));
    world.run(async {
        for id in 0..5 {
            let segments = vec![Segment::page(grant.0)];
            let body = RequestBody::Transfer { transfer: Transfer::Write, sector: id * 8, segments };
            ring.front.put(&Request { id, operation: OperationCode::Write, body }.encode(Abi::X86_64, 0));
        }
        ring.front.push();
        ring.channel.notify();
        while world.faults.hanging() < 5 {
            world.executor.yield_now().await;
        }
        ring.front.set_produced(2);
        ring.channel.notify();
        while ring.connected.broken().is_none() {
            world.executor.yield_now().await;
        }
        assert_eq!(ring.connected.broken(), Some(BrokenRing::TakenBack { count: 3 }));
        world.faults.clear();
        world.faults.release();
        assert_eq!(ring.connected.disconnect().await.counters.requests, 5);
    });
    assert_eq!(ring.front.release().unwrap(), 0);
}
