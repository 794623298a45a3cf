//! Toolstacks and their scripts, in the order in which libxl and block-tap do things.

use tapback::Guest;
use xenbus::server::Faults;

use crate::world::{GUEST, Vbd, World, XVDA, path};

#[test]
fn it_rests_in_2_until_the_script_has_done_its_work() {
    let world = World::new();
    world.run(async {
        let vbd = world.vbd(GUEST, XVDA).await;
        vbd.wait_for(2).await;
        // On hot attach the guest is faster than the script.
        vbd.show_ring(&[("ring-ref", "8"), ("event-channel", "3")], 3).await;
        assert_eq!((vbd.settled().await.as_str(), world.worker.connected.get()), ("2", 0));
        for (name, value) in [("pid", "4711"), ("minor", "3")] {
            world.store.write(&vbd.node(name), value.as_bytes()).await.unwrap();
        }
        assert_eq!((vbd.settled().await.as_str(), world.opener.opened.get()), ("2", 0));
        vbd.run_script().await;
        vbd.wait_for(4).await;
        world.settle().await;
        assert_eq!(
            (world.opener.opened.get(), world.worker.connected.get()),
            (1, 1),
            "once, however often it was told"
        );
    });
}

#[test]
fn a_script_that_failed_has_made_no_image() {
    let world = World::new();
    world.run(async {
        let vbd = world.vbd(GUEST, XVDA).await;
        vbd.wait_for(2).await;
        world.store.write(&vbd.node("hotplug-error"), b"no such file").await.unwrap();
        world.store.write(&vbd.node("hotplug-status"), b"error").await.unwrap();
        vbd.show_ring(&[("ring-ref", "8"), ("event-channel", "3")], 3).await;
        assert_eq!((vbd.settled().await.as_str(), world.opener.opened.get()), ("2", 0));
    });
}

#[test]
fn an_image_that_cannot_be_opened_is_told_and_tried_again_when_the_nodes_change() {
    let world = World::new();
    world.run(async {
        world.opener.fails.set(true);
        let vbd = world.ready_vbd(GUEST, XVDA).await;
        vbd.show_ring(&[("ring-ref", "8"), ("event-channel", "3")], 3).await;
        assert_eq!(vbd.settled().await, "2");
        assert_eq!(vbd.error().await.unwrap(), "2 no such image");
        world.opener.fails.set(false);
        world.store.write(&vbd.node("physical-device-path"), b"/run/nbd4711.4").await.unwrap();
        vbd.wait_for(4).await;
        world.settle().await;
        assert_eq!(vbd.error().await, None);
    });
}

#[test]
fn a_disk_without_a_script_is_made_ready_by_us() {
    let world = World::new();
    world.run(async {
        let vbd = world.vbd(GUEST, XVDA).await;
        world.store.remove(&vbd.node("script")).await.unwrap();
        vbd.show_ring(&[("ring-ref", "8"), ("event-channel", "3")], 3).await;
        vbd.wait_for(4).await;
        assert_eq!(vbd.read("hotplug-status").await.unwrap(), "connected");
    });
}

#[test]
fn a_disk_is_detached() {
    let world = World::new();
    world.run(async {
        let vbd = world.connected_vbd(GUEST, XVDA).await;
        vbd.detach(false).await;
        assert_eq!(vbd.settled().await, "5", "somebody is alive there");
        assert!(vbd.is_connected());
        vbd.show(6).await;
        vbd.wait_for(6).await;
        assert_eq!(vbd.settled().await, "6", "it rests there");
        assert_eq!((world.opener.open.get(), vbd.is_connected()), (0, false));
        vbd.remove().await;
        world.settle().await;
        assert_eq!(world.summary(XVDA), None);
        assert_eq!(world.read(&path("/local/domain/0/backend")).await, None, "nothing was made anew");
    });
}

#[test]
fn a_disk_is_detached_by_force_or_its_domain_is_destroyed() {
    let world = World::new();
    world.run(async {
        let vbd = world.connected_vbd(GUEST, XVDA).await;
        world.worker.set_slow_to_disconnect(Some(XVDA));
        vbd.detach(true).await;
        assert_eq!(vbd.settled().await, "5", "requests are still under way");
        world.worker.set_slow_to_disconnect(None);
        vbd.wait_for(6).await;
        assert_eq!(vbd.settled().await, "6");
        assert_eq!(world.opener.open.get(), 0);
    });
}

#[test]
fn the_data_of_a_guest_whose_device_was_taken_away_is_let_alone() {
    let world = World::new();
    world.run(async {
        let told = async |vbd: &Vbd<'_>| {
            vbd.remove().await;
            world.settle().await;
            world.worker.parted.take()
        };
        let vbd = world.connected_vbd(GUEST, XVDA).await;
        vbd.detach(false).await;
        vbd.show(6).await;
        vbd.wait_for(6).await;
        assert_eq!(told(&vbd).await, [Guest::Waits], "it has closed its disk, and keeps its pages until we have");
        let vbd = world.connected_vbd(GUEST, XVDA).await;
        vbd.detach(true).await;
        vbd.wait_for(6).await;
        assert_eq!(told(&vbd).await, [Guest::MayHaveGone]);
        // While the last answers are waited for.
        let vbd = world.connected_vbd(GUEST, XVDA).await;
        world.worker.set_slow_to_disconnect(Some(XVDA));
        vbd.detach(false).await;
        vbd.show(6).await;
        world.settle().await;
        assert_eq!(*world.worker.parted.borrow(), [Guest::Waits]);
        world.store.remove(&vbd.front).await.unwrap();
        world.settle().await;
        assert_eq!(*world.worker.parted.borrow(), [Guest::Waits, Guest::MayHaveGone]);
        assert!(vbd.is_connected(), "they are waited for all the same");
        world.worker.set_slow_to_disconnect(None);
        vbd.wait_for(6).await;
        told(&vbd).await;
        assert!(!vbd.is_connected());
    });
}

#[test]
fn a_toolstack_that_loses_patience_leaves_nothing_behind() {
    let world = World::new();
    world.run(async {
        let vbd = world.connected_vbd(GUEST, XVDA).await;
        world.worker.set_slow_to_disconnect(Some(XVDA));
        vbd.detach(true).await;
        world.settle().await;
        vbd.remove().await;
        world.settle().await;
        assert!(world.summary(XVDA).is_some() && vbd.is_connected(), "the drain goes on");
        world.worker.set_slow_to_disconnect(None);
        world.settle().await;
        assert_eq!((world.summary(XVDA), vbd.is_connected(), world.opener.open.get()), (None, false, 0));
        assert_eq!(world.read(&path("/local/domain/0/backend")).await, None, "nothing was made anew");
    });
}

#[test]
fn nothing_is_written_into_a_directory_that_has_gone_unseen() {
    let world = World::new();
    world.run(async {
        let vbd = world.connected_vbd(GUEST, XVDA).await;
        world.worker.set_slow_to_disconnect(Some(XVDA));
        vbd.detach(true).await;
        world.settle().await;
        let hold_events = Faults { hold_events: true, ..Faults::default() };
        world.sockets.with_store(|server| server.set_faults(hold_events));
        vbd.remove().await;
        world.worker.set_slow_to_disconnect(None);
        world.settle().await;
        assert!(!vbd.is_connected(), "it would like to say that it is closed");
        assert_eq!(world.read(&path("/local/domain/0/backend")).await, None);
        world.sockets.with_store(|server| {
            server.set_faults(Faults::default());
            server.let_go_of_events();
        });
        world.settle().await;
        assert_eq!(world.summary(XVDA), None);
    });
}

#[test]
fn servers_may_be_as_awkward_as_they_like() {
    let usual = Faults::default();
    let faults = [
        Faults { again_every: 2, ..usual },
        Faults { duplicate_events: true, keep_equal_events: true, ..usual },
        Faults { events_first: true, ..usual },
        Faults { directory_bytes_max: 1, ..usual },
    ];
    for faults in faults {
        let world = World::new();
        world.sockets.with_store(|server| server.set_faults(faults));
        world.run(async {
            for by_force in [false, true] {
                let vbd = world.connected_vbd(GUEST, XVDA).await;
                vbd.detach(by_force).await;
                if !by_force {
                    vbd.show(6).await;
                }
                vbd.wait_for(6).await;
                vbd.remove().await;
                world.settle().await;
            }
            assert_eq!((world.worker.connected.get(), world.opener.open.get()), (2, 0), "{faults:?}");
        });
    }
}

#[test]
fn a_disk_that_nobody_uses_closes_when_the_toolstack_says_so() {
    let world = World::new();
    world.run(async {
        for has_script_run in [false, true] {
            let vbd = world.vbd(GUEST, XVDA).await;
            vbd.wait_for(2).await;
            if has_script_run {
                vbd.run_script().await;
            }
            world.settle().await;
            vbd.detach(false).await;
            vbd.wait_for(6).await;
            assert_eq!((vbd.settled().await.as_str(), world.opener.open.get()), ("6", 0));
            vbd.remove().await;
            world.settle().await;
        }
    });
}

#[test]
fn closing_written_by_the_toolstack_is_not_written_over() {
    let world = World::new();
    world.run(async {
        let vbd = world.ready_vbd(GUEST, XVDA).await;
        world.worker.set_slow_to_connect(true);
        vbd.show_ring(&[("ring-ref", "8"), ("event-channel", "3")], 3).await;
        world.settle().await;
        // Both happen before the backend looks: it is told that the ring is connected first.
        vbd.detach(false).await;
        world.worker.set_slow_to_connect(false);
        assert_eq!(vbd.settled().await, "5");
        vbd.show(6).await;
        vbd.wait_for(6).await;
        assert!(!vbd.is_connected());
    });
}

#[test]
fn a_directory_that_is_replaced_before_anybody_looks_begins_anew() {
    let world = World::new();
    world.run(async {
        let vbd = world.connected_vbd(GUEST, XVDA).await;
        world.worker.set_slow_to_disconnect(Some(XVDA));
        // Removed and made again in one transaction: the gap cannot be seen.
        vbd.create().await;
        assert_eq!((vbd.settled().await.as_str(), vbd.is_connected()), ("1", true), "the old ring first");
        world.worker.set_slow_to_disconnect(None);
        vbd.wait_for(2).await;
        assert!(!vbd.is_connected());
        assert_eq!(vbd.settled().await, "2", "the old image is not taken for the new one");
        vbd.run_script().await;
        vbd.show_ring(&[("ring-ref", "9"), ("event-channel", "3")], 3).await;
        vbd.wait_for(4).await;
        assert_eq!((world.opener.opened.get(), world.opener.open.get()), (2, 1));
    });
}

#[test]
fn a_directory_that_goes_and_comes_back_while_the_ring_is_drained_begins_anew() {
    let world = World::new();
    world.run(async {
        let vbd = world.connected_vbd(GUEST, XVDA).await;
        world.worker.set_slow_to_disconnect(Some(XVDA));
        vbd.detach(true).await;
        vbd.remove().await;
        world.settle().await;
        vbd.create().await;
        world.settle().await;
        world.worker.set_slow_to_disconnect(None);
        vbd.wait_for(2).await;
        vbd.run_script().await;
        vbd.show_ring(&[("ring-ref", "9"), ("event-channel", "3")], 3).await;
        vbd.wait_for(4).await;
        assert_eq!(world.worker.ring(GUEST, XVDA).queues[0].pages, [9]);
    });
}

#[test]
fn a_toolstack_that_detaches_while_the_image_is_being_opened_does_not_wait_for_it() {
    let world = World::new();
    world.run(async {
        world.opener.set_slow(true);
        let vbd = world.ready_vbd(GUEST, XVDA).await;
        world.settle().await;
        vbd.detach(true).await;
        vbd.wait_for(6).await;
        vbd.remove().await;
        world.settle().await;
        world.opener.set_slow(false);
        world.settle().await;
        assert_eq!((world.opener.opened.get(), world.opener.open.get()), (1, 0), "what was opened too late is closed");
    });
}

#[test]
fn a_disk_for_reading_is_connected_and_told_as_one() {
    let world = World::new();
    world.run(async {
        let vbd = world.vbd(GUEST, XVDA).await;
        world.store.write(&vbd.node("mode"), b"r").await.unwrap();
        world.store.write(&vbd.node("device-type"), b"cdrom").await.unwrap();
        vbd.wait_for(2).await;
        vbd.run_script().await;
        vbd.show_ring(&[("ring-ref", "8"), ("event-channel", "3")], 3).await;
        vbd.wait_for(4).await;
        assert!(world.worker.ring(GUEST, XVDA).read_only);
        assert_eq!(vbd.reads(&["info", "feature-discard", "discard-granularity"]).await, ["5", "0", "-"]);
    });
}

#[test]
fn discard_enable_is_enforced_where_requests_are_served() {
    for (value, expected) in [("0", true), ("1", false)] {
        let world = World::new();
        world.run(async {
            let vbd = world.vbd(GUEST, XVDA).await;
            world.store.write(&vbd.node("discard-enable"), value.as_bytes()).await.unwrap();
            vbd.wait_for(2).await;
            vbd.run_script().await;
            vbd.show_ring(&[("ring-ref", "8"), ("event-channel", "3")], 3).await;
            vbd.wait_for(4).await;
            assert_eq!(world.worker.ring(GUEST, XVDA).no_discard, expected, "discard-enable {value}");
        });
    }
}

#[test]
fn what_happens_is_logged_in_the_order_of_its_happening() {
    let world = World::new();
    world.run(async {
        let vbd = world.connected_vbd(GUEST, XVDA).await;
        vbd.detach(true).await;
        vbd.wait_for(6).await;
        vbd.remove().await;
        world.settle().await;
    });
    assert_eq!(world.lines.of(XVDA), ["offered", "connected", "disconnecting", "Closed", "forgotten"]);
}
