//! Guests as they were seen to behave, from their first ring to their last.

use control_api::native::{Geometry, RingAbi, RingEvent, RingOperation};
use xenbus::{Ring, State};

use crate::world::{GUEST, World, XVDA};

const LINUX: [(&str, &str); 4] =
    [("ring-ref", "8"), ("event-channel", "8"), ("protocol", "x86_64-abi"), ("feature-persistent", "1")];

#[test]
fn linux_connects_uses_and_closes_its_disk() {
    let world = World::new();
    world.run(async {
        let vbd = world.ready_vbd(GUEST, XVDA).await;
        assert_eq!(vbd.settled().await, "2");
        assert_eq!(
            vbd.reads(&["max-ring-page-order", "max-ring-pages", "multi-queue-max-queues"]).await,
            ["4", "16", "4"]
        );
        assert_eq!(vbd.read("feature-max-indirect-segments").await.unwrap(), "256");
        assert_eq!(vbd.read("sectors").await, None, "nothing is known of a disk that nobody has connected to");
        vbd.show_ring(&LINUX, 3).await;
        vbd.wait_for(4).await;
        let names =
            ["sectors", "sector-size", "physical-sector-size", "info", "feature-flush-cache", "feature-barrier"];
        assert_eq!(vbd.reads(&names).await, ["8192", "512", "4096", "0", "1", "1"]);
        let names = ["feature-discard", "discard-granularity", "discard-secure", "feature-persistent", "kthread-pid"];
        assert_eq!(vbd.reads(&names).await, ["1", "4096", "0", "0", "4711"]);
        let ring = world.worker.ring(GUEST, XVDA);
        assert_eq!((ring.minor, ring.abi, ring.persistent), (3, RingAbi::X86_64, false));
        assert_eq!((&ring.queues[0].pages[..], ring.queues[0].port), (&[8][..], 8));
        vbd.show(4).await;
        assert_eq!(vbd.settled().await, "4");
        vbd.show(5).await;
        vbd.wait_for(5).await;
        assert!(vbd.is_connected(), "a frontend that closes may still wait for answers");
        vbd.show(6).await;
        vbd.wait_for(6).await;
        assert!(!vbd.is_connected());
        assert_eq!(vbd.settled().await, "6");
        assert_eq!(world.opener.open.get(), 1, "the toolstack keeps the device");
    });
}

#[test]
fn closed_is_published_only_when_the_ring_is_drained() {
    let world = World::new();
    world.run(async {
        let vbd = world.connected_vbd(GUEST, XVDA).await;
        world.worker.set_slow_to_disconnect(Some(XVDA));
        world.worker.failures.set(2);
        vbd.show(5).await;
        vbd.show(6).await;
        assert_ne!(vbd.settled().await, "6", "requests are still under way");
        assert_eq!(world.summary(XVDA).unwrap().ring, Ring::Disconnecting);
        world.worker.set_slow_to_disconnect(None);
        vbd.wait_for(6).await;
        assert_eq!((world.worker.failures.get(), vbd.is_connected()), (0, false), "it is asked until it has let go");
    });
}

#[test]
fn grub_stays_initialised_closes_without_closing_and_linux_follows_with_another_abi() {
    let world = World::new();
    world.run(async {
        let vbd = world.ready_vbd(GUEST, XVDA).await;
        vbd.show_ring(&[("ring-ref", "2"), ("event-channel", "3"), ("protocol", "x86_32-abi")], 3).await;
        vbd.wait_for(4).await;
        assert_eq!(vbd.settled().await, "4", "it never shows 4, and has sent requests already");
        assert_eq!(world.worker.ring(GUEST, XVDA).abi, RingAbi::X86_32);
        vbd.show(6).await;
        vbd.wait_for(6).await;
        vbd.show_ring(&[("ring-ref", ""), ("event-channel", "")], 1).await;
        vbd.wait_for(2).await;
        assert_eq!(vbd.settled().await, "2");
        vbd.show_ring(&LINUX, 3).await;
        vbd.wait_for(4).await;
        assert_eq!(world.worker.ring(GUEST, XVDA).abi, RingAbi::X86_64);
        assert_eq!((world.opener.opened.get(), world.worker.connected.get()), (1, 2));
    });
}

#[test]
fn a_ring_whose_nodes_were_emptied_is_none() {
    let world = World::new();
    world.run(async {
        let vbd = world.ready_vbd(GUEST, XVDA).await;
        vbd.show_ring(&[("ring-ref", ""), ("event-channel", "")], 3).await;
        assert_eq!(vbd.settled().await, "5");
        assert!(vbd.error().await.unwrap().starts_with("22 reading /local/domain/7/device/vbd/51712/event-channel"));
    });
}

#[test]
fn mini_os_jumps_from_its_start_to_connected() {
    let world = World::new();
    world.run(async {
        let vbd = world.ready_vbd(GUEST, XVDA).await;
        vbd.show_ring(&LINUX, 4).await;
        vbd.wait_for(4).await;
        assert!(vbd.is_connected());
        // The hand-over: each step is waited for.
        for (shown, expected) in [(5, 5), (6, 6), (1, 2)] {
            vbd.show(shown).await;
            vbd.wait_for(expected).await;
        }
        assert!(!vbd.is_connected());
    });
}

#[test]
fn a_crash_kernel_and_an_old_kernel_start_anew_without_closing() {
    let world = World::new();
    world.run(async {
        let vbd = world.connected_vbd(GUEST, XVDA).await;
        for closing_first in [false, true] {
            if closing_first {
                vbd.show(5).await;
                vbd.wait_for(5).await;
            }
            vbd.show(1).await;
            vbd.wait_for(2).await;
            assert!(!vbd.is_connected(), "the old ring is gone before offers are made");
            vbd.show_ring(&[("ring-ref", "9")], 3).await;
            vbd.wait_for(4).await;
            assert_eq!(world.worker.ring(GUEST, XVDA).queues[0].pages, [9]);
            vbd.show(4).await;
        }
    });
}

#[test]
fn a_frontend_may_leave_while_its_ring_is_being_connected() {
    let world = World::new();
    world.run(async {
        let vbd = world.ready_vbd(GUEST, XVDA).await;
        world.worker.set_slow_to_connect(true);
        vbd.show_ring(&LINUX, 3).await;
        assert_eq!(vbd.settled().await, "2");
        vbd.show(1).await;
        vbd.world.settle().await;
        vbd.show_ring(&[("ring-ref", "77")], 3).await;
        vbd.world.settle().await;
        world.worker.set_slow_to_connect(false);
        vbd.wait_for(4).await;
        assert_eq!(world.worker.ring(GUEST, XVDA).queues[0].pages, [77], "its second ring");
        assert_eq!(world.worker.disconnected.get(), 1);
    });
}

#[test]
fn kernels_one_after_the_other_leave_nothing_behind() {
    let world = World::new();
    world.run(async {
        let vbd = world.ready_vbd(GUEST, XVDA).await;
        let mut nodes = None;
        let kernels = test_support::cycles(20, 100);
        for round in 0..kernels {
            let page = round.to_string();
            vbd.show_ring(&[("ring-ref", &page), ("event-channel", &page)], 3).await;
            vbd.wait_for(4).await;
            vbd.show(4).await;
            for (shown, expected) in [(5, 5), (6, 6), (1, 2)] {
                vbd.show(shown).await;
                vbd.wait_for(expected).await;
            }
            let now = world.sockets.with_store(|store| store.nodes());
            assert_eq!(*nodes.get_or_insert(now), now, "nodes pile up");
        }
        assert_eq!((u64::from(world.worker.connected.get()), world.worker.rings.borrow().len()), (kernels, 0));
        assert_eq!((world.opener.opened.get(), world.opener.open.get()), (1, 1));
    });
}

#[test]
fn a_resized_disk_is_told_by_its_size_and_the_same_state_again() {
    let world = World::new();
    world.run(async {
        let vbd = world.connected_vbd(GUEST, XVDA).await;
        let watch = world.store.watch(&vbd.node("state"));
        watch.next().await;
        let geometry = Geometry { bytes: 8 << 20, ..crate::worker::Inner::size() };
        world.worker.report(GUEST, XVDA, RingEvent::Resized { geometry });
        watch.next().await;
        assert_eq!(
            vbd.reads(&["sectors", "state"]).await,
            ["16384", "4"],
            "the size is there when the state is written"
        );
        world.settle().await;
        watch.take();
        world.worker.report(GUEST, XVDA, RingEvent::Resized { geometry });
        world.settle().await;
        assert_eq!(watch.take(), [""; 0], "what was told already is not told again");
    });
}

#[test]
fn what_turns_out_not_to_be_possible_is_not_offered_any_more() {
    let world = World::new();
    world.run(async {
        let vbd = world.connected_vbd(GUEST, XVDA).await;
        let watch = world.store.watch(&vbd.node("state"));
        watch.next().await;
        let names = ["feature-flush-cache", "feature-barrier", "feature-discard"];
        for operation in [RingOperation::Flush, RingOperation::Barrier, RingOperation::Discard] {
            world.worker.report(GUEST, XVDA, RingEvent::Unsupported { operation });
        }
        assert_eq!(vbd.settled().await, "4");
        assert_eq!(vbd.reads(&names).await, ["0", "0", "0"]);
        assert_eq!(watch.take(), [""; 0], "frontends learn it from a failed request, and need not look again");
    });
}

#[test]
fn a_ring_that_breaks_is_told_and_held_until_its_frontend_has_left() {
    let world = World::new();
    world.run(async {
        let vbd = world.connected_vbd(GUEST, XVDA).await;
        let neighbour = world.connected_vbd(GUEST, 51728).await;
        let reason = "99 requests are in a ring of 32".to_owned();
        world.worker.report(GUEST, XVDA, RingEvent::Broken { reason });
        vbd.wait_for(5).await;
        assert_eq!(vbd.error().await.unwrap(), "22 99 requests are in a ring of 32");
        assert!(vbd.is_connected(), "its pages are held until the frontend has left");
        vbd.show(6).await;
        vbd.wait_for(6).await;
        assert!(!vbd.is_connected());
        vbd.show(1).await;
        vbd.wait_for(2).await;
        vbd.show_ring(&LINUX, 3).await;
        vbd.wait_for(4).await;
        world.settle().await;
        assert_eq!((vbd.error().await, neighbour.state().await.as_str()), (None, "4"));
    });
}

#[test]
fn a_tapdisk_that_goes_away_is_told_to_the_guest() {
    let world = World::new();
    world.run(async {
        let vbd = world.connected_vbd(GUEST, XVDA).await;
        world.worker.die();
        vbd.wait_for(5).await;
        assert!(vbd.error().await.unwrap().starts_with("19 "));
        vbd.show(6).await;
        vbd.wait_for(6).await;
        let summary = world.summary(XVDA).unwrap();
        assert_eq!((summary.own, summary.frontend, summary.ring), (State::Closed, State::Closed, Ring::None));
    });
}
