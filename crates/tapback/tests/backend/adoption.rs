//! A backend that starts where another has ended.

use control_api::native::Geometry;

use crate::{
    worker::Inner,
    world::{GUEST, World, XVDA},
};

#[test]
fn a_ring_that_is_connected_stays_connected_when_the_backend_starts_anew() {
    let world = World::new();
    world.run(async {
        let vbd = world.connected_vbd(GUEST, XVDA).await;
        world.stop();
        let watch = world.store.watch(&vbd.node("state"));
        watch.next().await;
        world.start();
        world.settle().await;
        assert_eq!(watch.take(), [""; 0], "the guest sees nothing of it");
        assert_eq!((world.worker.connected.get(), world.worker.disconnected.get()), (2, 0), "the same ring again");
        vbd.show(5).await;
        vbd.wait_for(5).await;
        vbd.show(6).await;
        vbd.wait_for(6).await;
        assert!(!vbd.is_connected());
    });
}

#[test]
fn a_guest_whose_disk_has_grown_meanwhile_is_told_so() {
    let world = World::new();
    world.run(async {
        let vbd = world.connected_vbd(GUEST, XVDA).await;
        world.stop();
        let watch = world.store.watch(&vbd.node("state"));
        watch.next().await;
        world.worker.geometry.set(Some(Geometry { bytes: 8 << 20, ..Inner::size() }));
        world.start();
        world.settle().await;
        assert_eq!(
            watch.take(),
            [vbd.node("state").to_string()],
            "the same state again: frontends look at the size then"
        );
        assert_eq!(vbd.reads(&["sectors", "state"]).await, ["16384", "4"]);
    });
}

#[test]
fn a_ring_that_was_lost_meanwhile_is_not_begun_anew() {
    let world = World::new();
    world.run(async {
        let vbd = world.connected_vbd(GUEST, XVDA).await;
        world.stop();
        world.worker.die();
        world.start();
        assert_eq!(vbd.settled().await, "5");
        assert!(!vbd.is_connected(), "nobody knows what was answered");
        assert_eq!((vbd.error().await.unwrap().as_str(), world.worker.connected.get()), ("107 it was lost", 1));
        vbd.show(6).await;
        vbd.wait_for(6).await;
        vbd.show(1).await;
        vbd.wait_for(2).await;
        vbd.show_ring(&[("ring-ref", "8")], 3).await;
        vbd.wait_for(4).await;
        assert!(vbd.is_connected(), "a ring that the frontend makes anew is fine");
    });
}

#[test]
fn a_ring_whose_nodes_have_gone_meanwhile_is_let_go_of_before_that_is_said() {
    let world = World::new();
    world.run(async {
        let vbd = world.connected_vbd(GUEST, XVDA).await;
        world.stop();
        vbd.unset("ring-ref").await;
        world.worker.set_slow_to_disconnect(Some(XVDA));
        world.start();
        world.settle().await;
        assert_eq!((vbd.state().await.as_str(), vbd.is_connected()), ("4", true), "it is not let go of yet");
        world.worker.set_slow_to_disconnect(None);
        assert_eq!(vbd.settled().await, "5");
        assert!(!vbd.is_connected());
    });
}

#[test]
fn a_frontend_that_left_while_there_was_no_backend_is_let_go_of() {
    for (shown, expected) in [(6, "6"), (1, "2"), (5, "5")] {
        let world = World::new();
        world.run(async {
            let vbd = world.connected_vbd(GUEST, XVDA).await;
            world.stop();
            vbd.show(shown).await;
            world.start();
            assert_eq!(vbd.settled().await, expected, "frontend in {shown}");
            assert_eq!(vbd.is_connected(), shown == 5);
        });
    }
}

#[test]
fn a_frontend_with_another_ring_than_before_gets_the_new_one() {
    let world = World::new();
    world.run(async {
        let vbd = world.connected_vbd(GUEST, XVDA).await;
        world.stop();
        vbd.show_ring(&[("ring-ref", "99")], 3).await;
        world.start();
        vbd.wait_for(4).await;
        world.settle().await;
        assert_eq!(world.worker.ring(GUEST, XVDA).queues[0].pages, [99]);
    });
}

#[test]
fn a_toolstack_that_ended_the_device_meanwhile_is_answered() {
    for by_force in [false, true] {
        let world = World::new();
        world.run(async {
            let vbd = world.connected_vbd(GUEST, XVDA).await;
            world.stop();
            vbd.detach(by_force).await;
            world.start();
            if !by_force {
                assert_eq!(vbd.settled().await, "5");
                vbd.show(6).await;
            }
            vbd.wait_for(6).await;
            assert!(!vbd.is_connected());
        });
    }
}

#[test]
fn devices_at_rest_stay_at_rest() {
    let world = World::new();
    world.run(async {
        let closed = world.connected_vbd(GUEST, XVDA).await;
        closed.show(6).await;
        closed.wait_for(6).await;
        let waiting = world.ready_vbd(GUEST, 51728).await;
        world.settle().await;
        world.stop();
        let watches = [&closed, &waiting].map(|vbd| world.store.watch(&vbd.node("state")));
        for watch in &watches {
            watch.next().await;
        }
        world.start();
        world.settle().await;
        assert_eq!(watches.each_ref().map(|watch| watch.take().len()), [0, 0], "nothing is written");
        assert_eq!((closed.state().await.as_str(), waiting.state().await.as_str()), ("6", "2"));
        closed.show(1).await;
        closed.wait_for(2).await;
    });
}

#[test]
fn a_frontend_that_closes_before_it_was_ever_connected_is_answered() {
    for shown in [5, 6, 0] {
        let world = World::new();
        world.run(async {
            let vbd = world.ready_vbd(GUEST, XVDA).await;
            vbd.show(1).await;
            world.settle().await;
            world.stop();
            vbd.show(shown).await;
            world.start();
            let expected = if shown == 0 { "2" } else { "6" };
            assert_eq!(vbd.settled().await, expected, "frontend in {shown}");
            vbd.show(1).await;
            vbd.wait_for(2).await;
        });
    }
}
