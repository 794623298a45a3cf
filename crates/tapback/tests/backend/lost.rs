//! A XenStore that crashes takes its tree along; guests and their disks go on.

use std::{rc::Rc, time::Duration};

use tapback::{Host, Offer, Watcher};
use wire::xenstore::Path;

use crate::world::{GUEST, Vbd, World, XVDA};

const WAITS: &str = "its directory has gone with the store; its guest is served until it comes back";

/// All nodes of a directory.
async fn nodes(world: &World, directory: &Path) -> Vec<(Path, String)> {
    let mut nodes = Vec::new();
    for name in world.store.directory(directory).await.unwrap().unwrap() {
        let node = directory.join(&name).unwrap();
        let value = world.read(&node).await.unwrap();
        nodes.push((node, value));
    }
    nodes
}

async fn write(world: &World, nodes: &[(Path, String)]) {
    for (node, value) in nodes {
        world.store.write(node, value.as_bytes()).await.unwrap();
    }
}

fn waits(world: &World) -> usize {
    world.lines.of(XVDA).iter().filter(|line| *line == WAITS).count()
}

#[test]
fn a_directory_that_went_with_its_server_ends_no_io_and_is_taken_up_when_somebody_restores_it() {
    let world = World::new();
    world.run(async {
        let vbd = world.connected_vbd(GUEST, XVDA).await;
        let (back, front) = (nodes(&world, &vbd.back).await, nodes(&world, &vbd.front).await);
        world.forget();
        world.settle().await;
        assert_eq!((waits(&world), vbd.is_connected(), world.worker.disconnected.get()), (1, true, 0));
        // Node by node, and the guest's own last.
        write(&world, &back).await;
        world.settle().await;
        assert!(vbd.is_connected(), "its frontend is still to come");
        write(&world, &front).await;
        world.settle().await;
        assert_eq!(world.lines.of(XVDA).last().unwrap(), "its directory is there again");
        assert_eq!((waits(&world), world.worker.connected.get(), world.worker.disconnected.get()), (1, 1, 0));
        vbd.detach(false).await;
        // Whoever restored it did not give the guest its rights back.
        write(&world, &[(vbd.front.join("state").unwrap(), "6".into())]).await;
        vbd.wait_for(6).await;
        assert!(!vbd.is_connected());
    });
}

#[test]
fn a_directory_that_does_not_come_back_in_time_was_removed() {
    let world = World::without_watcher();
    let offer = Offer { grace: Duration::from_millis(50), ..Offer::default() };
    let host = Rc::new(Host { offer, ..(*world.host).clone() });
    world.watcher.replace(Some(Watcher::start(&host, "vbd3")));
    world.run(async {
        let vbd = world.connected_vbd(GUEST, XVDA).await;
        world.forget();
        while world.summary(XVDA).is_some() {
            world.settle().await;
        }
        assert_eq!((waits(&world), vbd.is_connected(), world.opener.open.get()), (1, false, 0));
    });
}

#[test]
fn a_device_that_is_made_anew_after_the_crash_begins_anew() {
    let world = World::new();
    world.run(async {
        let vbd = world.connected_vbd(GUEST, XVDA).await;
        world.forget();
        world.settle().await;
        vbd.create().await;
        vbd.wait_for(2).await;
        assert!(!vbd.is_connected());
        vbd.run_script().await;
        vbd.show_ring(&[("ring-ref", "8"), ("event-channel", "3")], 3).await;
        vbd.wait_for(4).await;
    });
}

#[test]
fn what_is_removed_from_a_server_that_came_back_with_everything_was_removed() {
    let world = World::new();
    world.run(async {
        let vbd = world.connected_vbd(GUEST, XVDA).await;
        world.sockets.drop_connections();
        world.settle().await;
        vbd.remove().await;
        world.settle().await;
        assert_eq!((world.summary(XVDA), vbd.is_connected(), waits(&world)), (None, false, 0));
    });
}

#[test]
fn a_disk_that_was_being_taken_away_when_the_store_crashed_is_let_go_of() {
    let world = World::new();
    world.run(async {
        let vbd = world.connected_vbd(GUEST, XVDA).await;
        // The toolstack's half of a removal by force came through; it is seen on the next connection only.
        world.sockets.drop_connections();
        let store = Vbd::new(&world, GUEST, XVDA);
        store.detach(true).await;
        vbd.wait_for(6).await;
        assert!(!vbd.is_connected());
    });
}
