//! Guests that leave their pages granted: what stays mapped, how much of it, and that all of it comes back.

use export::blkif::RingPages;
use guest::{Front, FrontOptions};
use wire::blkif::{OperationCode, RequestBody, Segment, Status, Transfer};
use xen::{Access, hosted::EndAccess};

use crate::world::{HOST, World, pattern};

const PERSISTENT: FrontOptions =
    FrontOptions { backend: HOST, abi: wire::blkif::Abi::X86_64, order: 0, segments_max: 256, persistent: true };
/// As many as the backend keeps for one ring.
const KEPT_PAGES_MAX: u32 = 1056;

#[test]
fn pages_are_mapped_once_and_given_back_at_the_end() {
    let world = World::new();
    let (front, ring) = world.front(PERSISTENT);
    world.run(async {
        for round in 0..20_u8 {
            // Eleven pages, and one that names more than eleven.
            for sectors in [88, 120] {
                let bytes = pattern(sectors, round);
                front.write(8, &bytes).await.unwrap();
                assert!(front.read(8, sectors).await.unwrap() == bytes, "round {round}: {sectors} sectors");
            }
        }
        let (counters, pages) = (ring.counters(), ring.pages());
        assert_eq!((counters.grant_copies, counters.mapped_copies), (0, 20 * 2 * (11 + 15 + 1)));
        assert_eq!(pages, RingPages { granted: 0, mapped: 1 + 16, peak: 1 + 16, leaked: 0 });
        assert_eq!(world.guest.account().unwrap().used, 17, "what the platform says of it");
        let end = ring.disconnect().await;
        assert_eq!(end.pages, RingPages { granted: 0, mapped: 0, peak: 17, leaked: 0 });
    });
    assert_eq!(front.release_ring().unwrap(), 0, "pages are in use after the end");
    world.is_clean();
}

#[test]
fn a_ring_that_did_not_agree_maps_nothing_but_itself() {
    let world = World::new();
    let front = Front::new(&world.executor, &world.guest, PERSISTENT).unwrap();
    let ring = world.connect(&front, PERSISTENT.abi);
    world.run(async {
        front.write(0, &pattern(120, 1)).await.unwrap();
        assert_eq!((ring.counters().grant_copies, ring.counters().mapped_copies), (16, 0));
        assert_eq!((ring.pages().peak, world.guest.account().unwrap().used), (1, 1));
        ring.disconnect().await;
    });
    assert_eq!(front.release_ring().unwrap(), 0);
}

#[test]
fn a_page_that_was_granted_for_reading_is_never_written() {
    let world = World::new();
    let (front, ring) = world.front(PERSISTENT);
    let page = world.guest.allocate_page().unwrap();
    let grant = world.guest.grant(page, HOST, Access::Read).unwrap();
    let at = page as usize * 4096;
    world.guest.memory().copy_in(at, &[7; 4096]);
    world.run(async {
        let request = |transfer: Transfer| {
            let segments = vec![Segment::page(grant.0)];
            front.request(transfer.operation(), RequestBody::Transfer { transfer, sector: 0, segments })
        };
        assert_eq!(request(Transfer::Write).await.unwrap(), Status::Okay, "a write reads it");
        front.write(0, &[9; 4096]).await.unwrap();
        assert_eq!(request(Transfer::Read).await.unwrap(), Status::Error);
        let mut bytes = [0; 4096];
        world.guest.memory().copy_out(at, &mut bytes);
        assert_eq!(bytes, [7; 4096]);
        assert_eq!(world.guest.end_access(grant).unwrap(), EndAccess::Ended, "it is not kept");
        ring.disconnect().await;
    });
}

#[test]
fn a_guest_that_uses_more_pages_than_are_kept_is_served() {
    let world = World::new();
    let (front, ring) = world.front(FrontOptions { order: 1, ..PERSISTENT });
    world.run(async {
        for round in 0..3_u8 {
            // Together more pages than are kept, in another order each time.
            let writing: Vec<_> = (0..8_u8)
                .map(|number| {
                    let front = front.clone();
                    world.executor.spawn(async move {
                        let (sector, bytes) = (u64::from(number) * 2048, pattern(2048, number + round));
                        front.write(sector, &bytes).await.unwrap();
                        assert!(front.read(sector, 2048).await.unwrap() == bytes, "{number} in round {round}");
                    })
                })
                .collect();
            for writing in writing {
                writing.await;
            }
        }
        let (counters, pages) = (ring.counters(), ring.pages());
        assert!(counters.grant_copies > 0 && counters.mapped_copies > 1000, "{counters:?}");
        assert_eq!((pages.mapped, pages.peak), (2 + KEPT_PAGES_MAX, 2 + KEPT_PAGES_MAX), "all that may be kept");
        assert_eq!(world.guest.account().unwrap().used, pages.mapped);
        assert_eq!(ring.disconnect().await.pages.leaked, 0);
    });
    assert_eq!(front.release_ring().unwrap(), 0);
    world.is_clean();
}

#[test]
fn a_ring_that_is_dropped_gives_its_pages_back() {
    let world = World::new();
    let (front, ring) = world.front(PERSISTENT);
    world.run(front.write(0, &pattern(88, 1))).unwrap();
    assert_eq!(world.guest.account().unwrap().used, 12);
    drop(ring);
    assert_eq!(world.guest.account().unwrap().used, 0);
    assert_eq!(front.end().unwrap(), 0);
}

#[test]
fn a_page_that_is_named_twice_is_mapped_once() {
    let world = World::new();
    let (front, ring) = world.front(PERSISTENT);
    let page = world.guest.allocate_page().unwrap();
    let grant = world.guest.grant(page, HOST, Access::Write).unwrap();
    world.guest.memory().copy_in(page as usize * 4096, &pattern(8, 5));
    world.run(async {
        let segments = vec![Segment::page(grant.0), Segment::new(grant.0, 2, 3).unwrap(), Segment::page(grant.0)];
        let body = RequestBody::Transfer { transfer: Transfer::Write, sector: 0, segments };
        assert_eq!(front.request(OperationCode::Write, body).await.unwrap(), Status::Okay);
        let expected = [&pattern(8, 5)[..], &pattern(8, 5)[1024..2048], &pattern(8, 5)[..]].concat();
        assert_eq!(ring.pages().mapped, 2);
        assert!(front.read(0, 18).await.unwrap() == expected);
        ring.disconnect().await;
    });
}
