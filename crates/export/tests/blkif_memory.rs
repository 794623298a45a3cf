//! Memory that hostile guests can take. A program of its own: it looks at all memory of the process.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "blkif/world.rs"]
mod world;

use std::sync::Arc;

use export::blkif::{ConnectedRing, DeviceAccount};
use guest::{
    FrontOptions, FrontRing,
    hostile::{HostileFront, HostileMode, HostileOptions},
};
use storage_io::{Fault, FaultRule, OperationKind};
use wire::blkif::{Abi, IndirectPages, OperationCode, Request, RequestBody, Segment, Transfer};
use world::{DISK_SECTORS, HOST, World, options};
use xen::{Access, GrantRef, PAGE_BYTES, hosted::GuestChannel};

const REQUEST_BYTES: usize = 256 * PAGE_BYTES;

/// Memory of this process alone, in bytes: not that of guests, which it shares.
fn memory() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() << 10
}

/// The disk is memory of this process, too: all of it is there from now on.
fn fill_disk(world: &World) {
    let (front, ring) = world.front(FrontOptions { segments_max: 256, ..FrontOptions::default() });
    world.run(async {
        for sector in (0..DISK_SECTORS).step_by(REQUEST_BYTES / 512) {
            front.write(sector, &vec![0x5a; REQUEST_BYTES]).await.unwrap();
        }
        ring.disconnect().await;
    });
    front.release_ring().unwrap();
}

/// A ring of the guest with requests of 1 MiB each in it.
struct FullRing {
    ring: FrontRing,
    channel: GuestChannel,
    connected: ConnectedRing,
}

impl FullRing {
    fn new(world: &World, device: &Arc<DeviceAccount>, list: GrantRef, requests: u32) -> FullRing {
        let mut ring = FrontRing::new(&world.guest, HOST, Abi::X86_64, 4).unwrap();
        let channel = world.guest.allocate_unbound(&world.executor, HOST).unwrap();
        let options = options(ring.grants().to_vec(), channel.port(), Abi::X86_64);
        let connected = world.connect_one_of(device, &options);
        while ring.next_request() < requests {
            let pages = IndirectPages::new([list.0; 8], 256);
            let body = RequestBody::Indirect { transfer: Transfer::Write, sector: 0, pages };
            let id = u64::from(ring.next_request());
            ring.put(&Request { id, operation: OperationCode::Write, body }.encode(Abi::X86_64, 0));
        }
        ring.push();
        FullRing { ring, channel, connected }
    }

    /// Takes the answers to all requests.
    async fn end(mut self) {
        let mut answered = 0;
        while answered < self.ring.next_request() {
            while self.ring.take().is_some() {
                answered += 1;
            }
            if answered < self.ring.next_request() && !self.ring.arm() {
                self.channel.wait().await.unwrap();
            }
        }
        self.connected.disconnect().await;
        assert_eq!(self.ring.release().unwrap(), 0);
    }
}

/// In each ring of a device so many requests of 1 MiB each, and storage that takes none of them: a part of them waits in
/// the rings.
fn ask_for_everything(world: &World, rings: u64, requests: u32) {
    let [data, list] = [0, 1].map(|_| {
        let page = world.guest.allocate_page().unwrap();
        (page, world.guest.grant(page, HOST, Access::Read).unwrap())
    });
    let segments: Vec<u8> = (0..256).flat_map(|_| Segment::page(data.1.0).encode()).collect();
    world.guest.memory().copy_in(list.0 as usize * PAGE_BYTES, &segments);
    world.faults.add(FaultRule::every(Fault::Hang).of(OperationKind::Write));
    let before = memory();
    let device = Arc::default();
    let full: Vec<FullRing> = (0..rings).map(|_| FullRing::new(world, &device, list.1, requests)).collect();
    world.run(async {
        let taken = || full.iter().map(|full| full.connected.counters().requests).collect::<Vec<_>>();
        for _ in 0..10_000 {
            full.iter().for_each(|full| full.channel.notify());
            world.executor.yield_now().await;
            if world.faults.hanging() > 0 && !taken().contains(&0) {
                break;
            }
        }
        for _ in 0..200 {
            full.iter().for_each(|full| full.channel.notify());
            world.executor.yield_now().await;
        }
        let (taken, grown) = (taken(), memory().saturating_sub(before));
        println!("{taken:?} requests were taken, for {} MiB", grown >> 20);
        let (all, most) = (taken.iter().sum::<u64>(), 31 + rings);
        assert!(grown < (16 + usize::try_from(most).unwrap()) * REQUEST_BYTES, "{taken:?}, {} MiB", grown >> 20);
        assert!(!taken.contains(&0), "{taken:?}: each ring may take one, whatever others have");
        assert!((32..=most).contains(&all), "{taken:?}: as many as 32 MiB hold, and one of each other ring");
        world.faults.clear();
        world.faults.release();
        for full in full {
            full.end().await;
        }
    });
    for (page, grant) in [data, list] {
        world.guest.end_access(grant).unwrap();
        world.guest.free_page(page);
    }
}

/// Every mode once.
fn do_all_harm(world: &World, seed: u64, rounds: u64) {
    for (mode, _) in HostileMode::ALL {
        let sectors = DISK_SECTORS;
        let options = HostileOptions { backend: HOST, abi: Abi::X86_64, order: 1, sectors, seed };
        let mut hostile = HostileFront::new(&world.executor, &world.guest, options).unwrap();
        let ring = world.connect_with(&self::options(hostile.ring_grants(), hostile.port(), Abi::X86_64));
        world.run(async {
            hostile.act(mode, rounds).await.unwrap();
            ring.disconnect().await;
        });
        hostile.release().unwrap();
    }
}

/// Without a bound, the first takes 512 MiB for each ring.
#[test]
fn hostile_guests_take_bounded_memory_and_leave_none_behind() {
    let world = World::new();
    let seed = test_support::seed();
    fill_disk(&world);
    for (rings, requests) in [(1, 512), (4, 64), (64, 3)] {
        ask_for_everything(&world, rings, requests);
    }
    do_all_harm(&world, seed, 4);
    let before = memory();
    for round in 1..=test_support::cycles(6, 300) {
        do_all_harm(&world, seed ^ round, 4);
    }
    world.is_clean();
    let grown = memory().saturating_sub(before);
    println!("{} KiB more than after the first round", grown >> 10);
    assert!(grown < 8 << 20, "{} KiB stay behind", grown >> 10);
}
