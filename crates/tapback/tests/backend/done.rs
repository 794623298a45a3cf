//! `shutdown-done`, as somebody sees it who polls: no node is not done, no directory is done.

use control_api::native::RingEvent;

use crate::world::{GUEST, Vbd, World, XVDA};

/// What there is to be seen: the state, and the node.
async fn seen(vbd: &Vbd<'_>) -> (String, Option<String>) {
    vbd.world.settle().await;
    (vbd.state().await, vbd.read("shutdown-done").await)
}

fn done(state: &str) -> (String, Option<String>) {
    (state.to_owned(), Some("1".to_owned()))
}

fn not_done(state: &str) -> (String, Option<String>) {
    (state.to_owned(), None)
}

#[test]
fn it_is_told_when_the_ring_has_been_let_go_of_and_not_before() {
    for by_force in [false, true] {
        let world = World::new();
        world.run(async {
            let vbd = world.connected_vbd(GUEST, XVDA).await;
            world.worker.set_slow_to_disconnect(Some(XVDA));
            vbd.detach(by_force).await;
            if !by_force {
                vbd.show(6).await;
            }
            assert_eq!(seen(&vbd).await, not_done("5"), "storage still holds requests");
            world.worker.set_slow_to_disconnect(None);
            assert_eq!(seen(&vbd).await, done("6"));
            vbd.remove().await;
            assert_eq!(seen(&vbd).await, not_done("-"), "a directory that has gone is not made anew");
        });
    }
}

#[test]
fn a_guest_that_comes_back_takes_it_away() {
    let world = World::new();
    world.run(async {
        let vbd = world.connected_vbd(GUEST, XVDA).await;
        vbd.show(6).await;
        assert_eq!(seen(&vbd).await, done("6"));
        vbd.show(1).await;
        assert_eq!(seen(&vbd).await, not_done("2"));
    });
}

#[test]
fn a_device_that_never_had_a_ring_is_done_when_it_is_closed() {
    let world = World::new();
    world.run(async {
        let vbd = world.ready_vbd(GUEST, XVDA).await;
        vbd.detach(true).await;
        assert_eq!(seen(&vbd).await, done("6"));
    });
}

#[test]
fn a_ring_that_a_toolstack_has_released_is_done_before_its_guest_has_closed() {
    let world = World::new();
    world.run(async {
        let vbd = world.connected_vbd(GUEST, XVDA).await;
        world.worker.die();
        assert_eq!(seen(&vbd).await, done("5"), "the frontend is not asked: it may stand still");
        vbd.detach(true).await;
        assert_eq!(seen(&vbd).await, done("6"));
    });
}

#[test]
fn what_is_not_durable_is_not_done_and_says_why() {
    let world = World::new();
    world.run(async {
        let vbd = world.connected_vbd(GUEST, XVDA).await;
        world.worker.not_durable.replace(Some("/a.img: syncing: EIO".into()));
        vbd.detach(true).await;
        assert_eq!(seen(&vbd).await, not_done("6"));
        assert_eq!(vbd.error().await.unwrap(), "5 not all that was written is durable: /a.img: syncing: EIO");
        assert!(world.lines.of(XVDA).iter().any(|line| line.contains("not all that was written is durable")));
    });
}

#[test]
fn nobody_says_it_for_a_process_that_has_gone() {
    let world = World::new();
    world.run(async {
        let vbd = world.connected_vbd(GUEST, XVDA).await;
        world.worker.report(GUEST, XVDA, RingEvent::Broken { reason: "as the test wants it".into() });
        world.worker.has_gone.set(true);
        vbd.detach(true).await;
        assert_eq!(seen(&vbd).await, not_done("6"), "storage may still write for it");
    });
}

#[test]
fn only_guests_that_know_that_they_share_a_disk_are_served_together() {
    for (mode, expected) in [("w", true), ("w!", false), ("r", false), ("r!", false)] {
        let world = World::new();
        world.run(async {
            let vbd = world.vbd(GUEST, XVDA).await;
            world.store.write(&vbd.node("mode"), mode.as_bytes()).await.unwrap();
            vbd.wait_for(2).await;
            vbd.run_script().await;
            vbd.show_ring(&[("ring-ref", "8"), ("event-channel", "3")], 3).await;
            vbd.wait_for(4).await;
            assert_eq!(world.worker.ring(GUEST, XVDA).exclusive, expected, "{mode}");
        });
    }
}
