//! A backend in a domain that may watch only so much: what it is not told of, it looks at.

use std::rc::Rc;

use tapback::{Host, Watcher};
use wire::xenstore::{Path, Permission};
use xenbus::server::Quotas;

use crate::world::{GUEST, Vbd, World, XVDA, path};

/// The domain of the backend, which has no rights but those that it is given.
const BACKEND: u16 = 5;

fn may_watch(world: &World, watches: usize) {
    world.sockets.with_store(|server| server.set_quotas(Quotas { watches, ..server.quotas() }));
}

/// The backend's domain may read and write a node.
async fn let_in(world: &World, owner: u16, node: &Path) {
    let permissions = [format!("n{owner}"), "r0".into(), format!("r{GUEST}"), format!("b{BACKEND}")];
    let permissions: Vec<Permission> = permissions.iter().map(|text| text.parse().unwrap()).collect();
    world.store.set_permissions(node, &permissions).await.unwrap();
}

/// A disk of a guest that the backend's domain may serve.
async fn vbd(world: &World) -> Vbd<'_> {
    let vbd = world.vbd(GUEST, XVDA).await;
    for (owner, directory) in [(0, &vbd.back), (GUEST, &vbd.front)] {
        let_in(world, owner, directory).await;
        for name in world.store.directory(directory).await.unwrap().unwrap() {
            let_in(world, owner, &directory.join(&name).unwrap()).await;
        }
    }
    for directory in ["/local/domain/0/backend/vbd3/7", "/local/domain/0/backend/vbd3", "/local/domain/0"] {
        let_in(world, 0, &path(directory)).await;
    }
    vbd
}

fn start(world: &World) {
    let host = Rc::new(Host { store: world.guest_store(BACKEND), ..(*world.host).clone() });
    world.watcher.replace(Some(Watcher::start(&host, "vbd3")));
}

fn about_watches(lines: &[String]) -> Vec<&str> {
    lines.iter().filter(|line| line.contains("watched")).map(|line| line.split(", and").next().unwrap()).collect()
}

#[test]
fn a_frontend_that_cannot_be_watched_is_looked_at_and_told_once() {
    let world = World::without_watcher();
    may_watch(&world, 1);
    world.run(async {
        let vbd = vbd(&world).await;
        start(&world);
        vbd.wait_for(2).await;
        vbd.run_script().await;
        vbd.show_ring(&[("ring-ref", "8"), ("event-channel", "3")], 3).await;
        // It is refused again and again; it is served all the same.
        vbd.wait_for(4).await;
        vbd.show(5).await;
        vbd.wait_for(5).await;
        let refused = format!("{}/state cannot be watched", vbd.front);
        assert_eq!(about_watches(&world.lines.of(XVDA)), [refused.as_str()]);
        may_watch(&world, 2);
        let again = format!("{}/state is watched again", vbd.front);
        while about_watches(&world.lines.of(XVDA)).len() < 2 {
            world.settle().await;
        }
        assert_eq!(about_watches(&world.lines.of(XVDA)), [refused, again]);
    });
}

#[test]
fn a_directory_of_devices_that_cannot_be_watched_is_looked_at_and_told_once() {
    let world = World::without_watcher();
    may_watch(&world, 0);
    world.run(async {
        let vbd = vbd(&world).await;
        start(&world);
        vbd.wait_for(2).await;
        let directory = "/local/domain/0/backend/vbd3";
        assert_eq!(about_watches(&world.lines.of_kind()), [format!("{directory} cannot be watched")]);
        may_watch(&world, 10);
        while about_watches(&world.lines.of_kind()).len() < 2 {
            world.settle().await;
        }
        assert_eq!(about_watches(&world.lines.of_kind())[1], format!("{directory} is watched again"));
        vbd.run_script().await;
        vbd.show_ring(&[("ring-ref", "8"), ("event-channel", "3")], 3).await;
        vbd.wait_for(4).await;
    });
}
