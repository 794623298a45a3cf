//! Early signs that a guest goes on somewhere else.

use crate::world::{GUEST, World, XVDA, path};

async fn wish(world: &World, value: &[u8]) {
    world.store.write(&path("/local/domain/7/control/shutdown"), value).await.unwrap();
    world.settle().await;
}

async fn domain_shuts_down(world: &World) {
    world.sockets.with_store(|server| server.domain_changed());
    world.settle().await;
}

fn settled(world: &World) -> usize {
    assert!(world.worker.settled.borrow().iter().all(|device| *device == (GUEST, XVDA)));
    world.worker.settled.borrow().len()
}

#[test]
fn a_guest_that_takes_the_wish_to_be_suspended_is_settled_and_once_more_when_it_stands_still() {
    let world = World::new();
    world.run(async {
        let vbd = world.connected_vbd(GUEST, XVDA).await;
        domain_shuts_down(&world).await;
        wish(&world, b"suspend").await;
        domain_shuts_down(&world).await;
        assert_eq!(settled(&world), 0, "it has much to ask before it stands still");
        wish(&world, b"").await;
        assert_eq!(settled(&world), 1);
        domain_shuts_down(&world).await;
        assert_eq!((settled(&world), vbd.state().await.as_str()), (2, "4"), "its ring stays: it may go on here");
        assert!(vbd.is_connected());
    });
}

#[test]
fn a_guest_that_ends_or_has_no_ring_is_not_settled() {
    let world = World::new();
    world.run(async {
        let vbd = world.connected_vbd(GUEST, XVDA).await;
        for end in [b"poweroff".as_slice(), b"reboot"] {
            wish(&world, end).await;
            wish(&world, b"").await;
            domain_shuts_down(&world).await;
        }
        vbd.show(6).await;
        vbd.wait_for(6).await;
        wish(&world, b"suspend").await;
        wish(&world, b"").await;
        assert_eq!(settled(&world), 0);
    });
}

#[test]
fn a_word_that_is_gone_before_it_is_read_counts() {
    let world = World::new();
    world.run(async {
        let _vbd = world.connected_vbd(GUEST, XVDA).await;
        wish(&world, b"").await;
        assert_eq!(settled(&world), 1);
    });
}

#[test]
fn a_backend_that_starts_while_a_guest_is_suspended_sees_it() {
    let world = World::new();
    world.run(async {
        let _vbd = world.connected_vbd(GUEST, XVDA).await;
        world.stop();
        wish(&world, b"suspend").await;
        world.start();
        world.settle().await;
        wish(&world, b"").await;
        assert_eq!(settled(&world), 1);
    });
}
