//! Guests that mean harm: their rings are stopped, their requests refused, and nobody else notices.

use export::blkif::{BrokenRing, ConnectedRing, RingOptions};
use guest::FrontRing;
use wire::blkif::{Abi, OperationCode, Request, RequestBody, Segment, Transfer};
use xen::{Access, hosted::GuestChannel};

use crate::world::{GUEST, HOST, OFFER, World};

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
        let (pages, port) = (front.grants().to_vec(), channel.port());
        let options = RingOptions { domain: GUEST, pages, port, abi: Abi::X86_64, offer: OFFER };
        let queue = world.disk.queue();
        let connected = ConnectedRing::connect(&queue, world.grants.clone(), &world.channels, &options).unwrap();
        RawRing { front, channel, connected }
    }
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
}
