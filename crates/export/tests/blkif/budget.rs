//! Rings that wait until the host has room for their pages.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::Arc,
    task::{Poll, Waker},
    time::Duration,
};

use export::blkif::ConnectedRing;
use futures_util::future::{Either, select};
use guest::{Front, FrontOptions};
use storage_io::{Fault, FaultRule, OperationKind, Task};
use virtual_disk::DiskState;
use xen::budget::{Budget, BudgetAccount, BudgetedGrants, Limits, MapPurpose, Permit, REQUEST_PAGES_MAX, Share};

use crate::world::{World, of_front, pattern};

/// A host with the smallest budget that there can be, and a disk on it.
struct Tight {
    world: World,
    budget: Budget,
    somebody: Share,
}

impl Tight {
    fn new() -> Tight {
        let world = World::new();
        let limits = Limits::new(REQUEST_PAGES_MAX).unwrap();
        let budget = Budget::open(&world.directory.path().join("budget"), Some(limits)).unwrap();
        let somebody = budget.share().unwrap();
        Tight { world, budget, somebody }
    }

    fn front(&self, made: FrontOptions) -> (Front, ConnectedRing) {
        let front = Front::new(&self.world.executor, &self.world.guest, made).unwrap();
        let grants = Arc::new(BudgetedGrants::new(self.world.grants.clone(), self.budget.share().unwrap()));
        let (queue, options) = (self.world.disk.queue(), of_front(&front, made));
        let ring = ConnectedRing::connect(&queue, grants, &self.world.channels, &options).unwrap();
        (front, ring)
    }

    /// Somebody else on this host has taken everything.
    fn take_all(&self) -> Permit {
        match self.somebody.waiter().poll(REQUEST_PAGES_MAX, Waker::noop()) {
            Poll::Ready(permit) => permit,
            Poll::Pending => panic!("nobody else uses it"),
        }
    }

    fn spawn<T: 'static>(&self, front: &Front, ask: impl AsyncFnOnce(Front) -> T + 'static) -> Task<T> {
        let front = front.clone();
        self.world.executor.spawn(async move { ask(front).await })
    }

    /// Until so many disks stand in line.
    async fn in_line(&self, count: u32) {
        self.until(|| self.budget.account().waiting == count).await;
    }

    async fn until(&self, is_so: impl Fn() -> bool) {
        for _ in 0..10_000 {
            if is_so() {
                return;
            }
            self.world.executor.sleep(Duration::from_millis(1)).await;
        }
        panic!("{:?}", self.budget.account());
    }

    async fn in_time<T>(&self, ends: impl Future<Output = T>) -> T {
        let late = self.world.executor.sleep(Duration::from_secs(20));
        match select(pin!(ends), pin!(late)).await {
            Either::Left((value, _)) => value,
            Either::Right(_) => panic!("it hangs: {:?}", self.budget.account()),
        }
    }

    fn is_unused(&self) -> bool {
        let BudgetAccount { copied, waiting, .. } = self.budget.account();
        (copied, waiting) == (0, 0)
    }
}

#[test]
fn a_ring_that_waits_holds_up_no_other() {
    let tight = Tight::new();
    let (waiting, ring) = tight.front(FrontOptions::default());
    let (other, _unlimited) = tight.world.front(FrontOptions::default());
    let held = tight.take_all();
    tight.world.run(async {
        let write = tight.spawn(&waiting, async |front| front.write(0, &pattern(8, 1)).await);
        tight.in_line(1).await;
        other.write(8, &pattern(8, 2)).await.unwrap();
        assert_eq!(other.read(0, 8).await.unwrap(), [0; 4096], "it has not been written");
        drop(held);
        write.await.unwrap();
        assert_eq!(other.read(0, 8).await.unwrap(), pattern(8, 1));
        let counters = ring.counters();
        assert_eq!((counters.throttled, counters.throttled_ns > 0), (1, true));
        let BudgetAccount { waits, waited, .. } = tight.budget.account();
        assert_eq!((waits, waited.as_nanos()), (1, counters.throttled_ns.into()), "all are told the same");
    });
    assert!(tight.is_unused());
}

#[test]
fn the_largest_request_has_room_in_the_smallest_budget() {
    let tight = Tight::new();
    let (front, ring) = tight.front(FrontOptions { segments_max: 256, ..FrontOptions::default() });
    tight.world.run(async {
        let bytes = pattern(2048, 3);
        front.write(64, &bytes).await.unwrap();
        assert!(front.read(64, 2048).await.unwrap() == bytes);
        let all: Vec<_> = (0..4_u8)
            .map(|seed| {
                tight.spawn(&front, async move |front| front.write(u64::from(seed) * 2048, &pattern(2048, seed)).await)
            })
            .collect();
        for write in all {
            write.await.unwrap();
        }
        for seed in 0..4_u8 {
            assert!(front.read(u64::from(seed) * 2048, 2048).await.unwrap() == pattern(2048, seed), "{seed}");
        }
        assert_eq!((ring.counters().throttled, front.stray_pages()), (0, 0));
    });
    assert!(tight.is_unused());
}

#[test]
fn what_was_read_reaches_the_guest_also_when_its_ring_is_let_go_of() {
    let tight = Tight::new();
    let (front, ring) = tight.front(FrontOptions::default());
    tight.world.run(async {
        front.write(0, &pattern(8, 5)).await.unwrap();
        let held = tight.take_all();
        let read = tight.spawn(&front, async |front| front.read(0, 8).await);
        tight.in_line(1).await;
        let mut ending = pin!(ring.disconnect());
        let is_ended = poll_fn(|cx| Poll::Ready(ending.as_mut().poll(cx).is_ready())).await;
        assert!(!is_ended, "a response is outstanding");
        drop(held);
        let end = ending.await;
        assert_eq!((end.counters.throttled, end.pages.leaked), (1, 0));
        assert_eq!(read.await.unwrap(), pattern(8, 5));
    });
    assert_eq!((tight.budget.account().shares, tight.budget.account().mapped), (1, 0), "its share has gone with it");
}

/// Its source has ended, and is not asked for requests any more; what it holds for the guest must not wait for those that
/// storage does not answer, nor stand in the line where others wait.
#[test]
fn what_was_read_does_not_wait_for_a_write_that_hangs_when_its_ring_is_let_go_of() {
    let tight = Tight::new();
    let (front, ring) = tight.front(FrontOptions::default());
    let faults = &tight.world.faults;
    faults.add(FaultRule::every(Fault::Hang).of(OperationKind::Write));
    tight.world.run(async {
        let write = tight.spawn(&front, async |front| front.write(8, &pattern(8, 1)).await);
        tight.until(|| faults.hanging() == 1).await;
        let held = tight.take_all();
        let read = tight.spawn(&front, async |front| front.read(0, 8).await);
        tight.in_line(1).await;
        let ending = tight.world.executor.spawn(ring.disconnect());
        for _ in 0..10 {
            tight.world.executor.yield_now().await;
        }
        drop(held);
        assert_eq!(tight.in_time(read).await.unwrap(), [0; 4096]);
        assert!(tight.is_unused(), "nobody stands in the line");
        assert_eq!(faults.hanging(), 1);
        faults.clear();
        faults.release();
        write.await.unwrap();
        tight.in_time(ending).await;
    });
}

/// Its write has asked for room first, and then its disk is paused: nobody asks for the write again, and the answer of
/// its read must not wait behind it.
#[test]
fn a_write_that_a_paused_disk_does_not_take_is_in_no_reads_way() {
    for is_disconnected in [false, true] {
        let tight = Tight::new();
        let (front, ring) = tight.front(FrontOptions::default());
        let faults = &tight.world.faults;
        faults.add(FaultRule::every(Fault::Hang).of(OperationKind::Read));
        tight.world.run(async {
            let read = tight.spawn(&front, async |front| front.read(0, 8).await);
            tight.until(|| faults.hanging() == 1).await;
            let held = tight.take_all();
            let write = tight.spawn(&front, async |front| front.write(0, &pattern(8, 1)).await);
            tight.in_line(1).await;
            let disk = tight.world.disk.clone();
            let pausing = tight.world.executor.spawn(async move { disk.pause(None).await });
            tight.until(|| tight.world.disk.status().state() == DiskState::Pausing).await;
            faults.clear();
            faults.release();
            pausing.await.unwrap();
            if is_disconnected {
                let ending = tight.world.executor.spawn(ring.disconnect());
                tight.world.executor.yield_now().await;
                drop(held);
                let end = tight.in_time(ending).await;
                assert_eq!(read.await.unwrap(), [0; 4096]);
                assert!(tight.in_time(write).await.is_err(), "it was not written, and the guest is told so");
                assert_eq!(end.counters.refused, 1);
            } else {
                drop(held);
                assert_eq!(tight.in_time(read).await.unwrap(), [0; 4096]);
                tight.world.disk.resume(None).await.unwrap();
                write.await.unwrap();
            }
        });
        assert!(tight.is_unused());
    }
}

#[test]
fn a_ring_that_is_dropped_leaves_the_line() {
    let tight = Tight::new();
    let (front, ring) = tight.front(FrontOptions::default());
    let _held = tight.take_all();
    tight.world.run(async {
        let _write = tight.spawn(&front, async |front| front.write(0, &pattern(8, 1)).await);
        tight.in_line(1).await;
        drop(ring);
        tight.in_line(0).await;
    });
}

#[test]
fn pages_that_cannot_stay_mapped_are_copied() {
    let tight = Tight::new();
    let all = tight.budget.account().limits.mapped;
    let held = tight.somebody.map(all - all / 8 - 4, MapPurpose::Data).unwrap();
    let (front, ring) = tight.front(FrontOptions { persistent: true, ..FrontOptions::default() });
    tight.world.run(async {
        front.write(0, &pattern(88, 1)).await.unwrap();
        assert_eq!(front.read(0, 88).await.unwrap(), pattern(88, 1));
        assert_eq!(ring.pages().peak, 4, "the ring's own page, and three of data");
    });
    drop(held);
    let refused = tight.somebody.map(all, MapPurpose::Ring).unwrap_err();
    assert_eq!(refused.kind(), block_core::ErrorKind::LimitReached);
}
