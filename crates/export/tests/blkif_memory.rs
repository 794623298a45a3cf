//! Memory that hostile guests can take. A program of its own: it looks at all memory of the process.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "blkif/world.rs"]
mod world;

use guest::{
    FrontOptions, FrontRing,
    hostile::{HostileFront, HostileMode, HostileOptions},
};
use storage_io::{Fault, FaultRule, OperationKind};
use wire::blkif::{Abi, IndirectPages, OperationCode, Request, RequestBody, Segment, Transfer};
use world::{DISK_SECTORS, HOST, World, options};
use xen::{Access, PAGE_BYTES};

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

/// 512 requests of 1 MiB each, and storage that takes none of them: a part of them waits in the ring.
fn ask_for_everything(world: &World) {
    let mut ring = FrontRing::new(&world.guest, HOST, Abi::X86_64, 4).unwrap();
    let channel = world.guest.allocate_unbound(&world.executor, HOST).unwrap();
    let connected = world.connect_with(&options(ring.grants().to_vec(), channel.port(), Abi::X86_64));
    let [data, list] = [0, 1].map(|_| {
        let page = world.guest.allocate_page().unwrap();
        (page, world.guest.grant(page, HOST, Access::Read).unwrap())
    });
    let segments: Vec<u8> = (0..256).flat_map(|_| Segment::page(data.1.0).encode()).collect();
    world.guest.memory().copy_in(list.0 as usize * PAGE_BYTES, &segments);
    world.faults.add(FaultRule::every(Fault::Hang).of(OperationKind::Write));
    let before = memory();
    world.run(async {
        while ring.free() > 0 {
            let pages = IndirectPages::new([list.1.0; 8], 256);
            let body = RequestBody::Indirect { transfer: Transfer::Write, sector: 0, pages };
            let id = u64::from(ring.next_request());
            ring.put(&Request { id, operation: OperationCode::Write, body }.encode(Abi::X86_64, 0));
        }
        ring.push();
        channel.notify();
        while world.faults.hanging() == 0 {
            world.executor.yield_now().await;
        }
        for _ in 0..200 {
            channel.notify();
            world.executor.yield_now().await;
        }
        let (taken, grown) = (connected.counters().requests, memory().saturating_sub(before));
        println!("{taken} of {} requests were taken, for {} MiB", ring.slots(), grown >> 20);
        assert!(grown < 48 * REQUEST_BYTES, "{taken} requests, {} MiB", grown >> 20);
        assert_eq!(taken, 32, "as many as 32 MiB hold, however many come at once");
        world.faults.clear();
        world.faults.release();
        let mut answered = 0;
        while answered < ring.slots() {
            while ring.take().is_some() {
                answered += 1;
            }
            if answered < ring.slots() && !ring.arm() {
                channel.wait().await.unwrap();
            }
        }
        connected.disconnect().await;
    });
    for (page, grant) in [data, list] {
        world.guest.end_access(grant).unwrap();
        world.guest.free_page(page);
    }
    assert_eq!(ring.release().unwrap(), 0);
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

/// Without a bound, the first takes 512 MiB.
#[test]
fn hostile_guests_take_bounded_memory_and_leave_none_behind() {
    let world = World::new();
    let seed = test_support::seed();
    fill_disk(&world);
    ask_for_everything(&world);
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
