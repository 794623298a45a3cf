//! Directories that come, go and are none.

use std::rc::Rc;

use tapback::{Host, Watcher};
use wire::xenstore::Path;

use crate::world::{GUEST, Vbd, World, XVDA, path};

#[test]
fn a_guest_that_cannot_be_listed_holds_up_no_other() {
    let world = World::without_watcher();
    world.run(async {
        let (hidden, other) = (world.vbd(GUEST, XVDA).await, world.vbd(GUEST + 1, XVDA).await);
        let directory = |vbd: &Vbd<'_>| vbd.back.parent().unwrap();
        let kind = directory(&hidden).parent().unwrap();
        let show = async |path: &Path, reader: &str| {
            let permissions = ["n0".parse().unwrap(), reader.parse().unwrap()];
            world.store.transaction(async |all| all.set_permissions(path, &permissions).await).await.unwrap();
        };
        show(&directory(&hidden), "n5").await;
        for path in [kind, directory(&other)] {
            show(&path, "r5").await;
        }
        for vbd in [&hidden, &other] {
            for name in ["frontend", "state"] {
                show(&vbd.node(name), "r5").await;
            }
        }
        // One that may not read everything.
        let host = Rc::new(Host { store: world.guest_store(5), ..(*world.host).clone() });
        world.watcher.replace(Some(Watcher::start(&host, "vbd3")));
        let known = || world.watcher.borrow().as_ref().unwrap().devices().len();
        world.settle().await;
        assert_eq!(known(), 1, "the one that can be listed");
        show(&directory(&hidden), "r5").await;
        while known() < 2 {
            world.settle().await;
        }
    });
}

#[test]
fn the_directory_of_all_devices_goes_and_comes_back_and_backend_with_it() {
    let world = World::new();
    world.run(async {
        for _ in 0..3 {
            let vbd = world.connected_vbd(GUEST, XVDA).await;
            vbd.detach(true).await;
            vbd.wait_for(6).await;
            vbd.remove().await;
            assert_eq!(world.read(&path("/local/domain/0/backend")).await, None);
        }
        let vbd = world.connected_vbd(GUEST, XVDA).await;
        // All at once, with a device in use.
        world.store.remove(&path("/local/domain/0/backend")).await.unwrap();
        world.settle().await;
        assert_eq!((world.summary(XVDA), vbd.is_connected(), world.opener.open.get()), (None, false, 0));
        assert_eq!(world.read(&path("/local/domain/0/backend")).await, None, "nothing was made anew");
        world.connected_vbd(GUEST, XVDA).await;
    });
}

#[test]
fn what_scripts_leave_behind_is_no_device() {
    let world = World::new();
    world.run(async {
        let vbd = world.connected_vbd(GUEST, XVDA).await;
        vbd.detach(true).await;
        vbd.wait_for(6).await;
        vbd.remove().await;
        world.settle().await;
        // The script's second run for a device that two have removed.
        for (name, value) in [("hotplug-error", "failed"), ("hotplug-status", "error")] {
            world.store.write(&vbd.node(name), value.as_bytes()).await.unwrap();
            world.settle().await;
        }
        assert_eq!((world.summary(XVDA), vbd.read("state").await), (None, None));
        assert_eq!(vbd.read("hotplug-status").await.unwrap(), "error", "it is not ours to remove");
        let again = world.connected_vbd(GUEST, XVDA).await;
        assert_eq!(again.settled().await, "4");
    });
}

#[test]
fn a_directory_whose_frontend_is_not_its_guests_is_no_device() {
    let world = World::new();
    world.run(async {
        let vbd = Vbd::new(&world, GUEST, XVDA);
        let node = vbd.node("frontend");
        for wrong in ["/local/domain/8/device/vbd/51712", "not a path", "/local/domain/7"] {
            vbd.create().await;
            world.store.write(&node, wrong.as_bytes()).await.unwrap();
            world.settle().await;
            assert_eq!(world.summary(XVDA), None, "{wrong}");
        }
        let strange = ["/local/domain/0/backend/vbd3/7/xvda/frontend", "/local/domain/0/backend/vbd3/x/1/frontend"];
        for node in strange {
            world.store.write(&path(node), b"/local/domain/7/device/vbd/1").await.unwrap();
        }
        world.settle().await;
        assert!(world.watcher.borrow().as_ref().unwrap().devices().is_empty());
    });
}

#[test]
fn devices_that_are_there_already_are_found() {
    let world = World::without_watcher();
    world.run(async {
        let vbds = [world.vbd(GUEST, XVDA).await, world.vbd(GUEST, 51728).await, world.vbd(8, XVDA).await];
        world.start();
        for vbd in &vbds {
            vbd.wait_for(2).await;
        }
        assert_eq!(world.watcher.borrow().as_ref().unwrap().devices().len(), 3);
    });
}

#[test]
fn a_server_that_comes_back_finds_everything_as_it_was() {
    let world = World::new();
    world.run(async {
        let vbd = world.connected_vbd(GUEST, XVDA).await;
        world.sockets.drop_connections();
        vbd.show(5).await;
        vbd.wait_for(5).await;
        world.sockets.drop_connections();
        vbd.show(6).await;
        vbd.wait_for(6).await;
        assert_eq!(world.worker.connected.get(), 1);
        let other = world.vbd(GUEST, 51728).await;
        other.wait_for(2).await;
    });
}

#[test]
fn a_store_that_has_lost_everything_ends_no_io() {
    let world = World::new();
    world.run(async {
        let vbd = world.connected_vbd(GUEST, XVDA).await;
        world.store.remove(&path("/local")).await.unwrap();
        for _ in 0..200 {
            world.store.directory(&path("/")).await.unwrap();
        }
        assert!(vbd.is_connected(), "it is the store that has gone, not the device");
        world.store.write(&path("/local/domain/0/name"), b"Domain-0").await.unwrap();
    });
}

#[test]
fn many_disks_at_once() {
    let world = World::new();
    world.run(async {
        let count = 40;
        let mut vbds = Vec::new();
        for index in 0..count {
            vbds.push(world.vbd(GUEST + u16::try_from(index % 5).unwrap(), 51712 + index).await);
        }
        for vbd in &vbds {
            vbd.wait_for(2).await;
            vbd.run_script().await;
            vbd.show_ring(&[("ring-ref", "8"), ("event-channel", "3")], 3).await;
        }
        for vbd in &vbds {
            vbd.wait_for(4).await;
            vbd.detach(true).await;
        }
        for vbd in &vbds {
            vbd.wait_for(6).await;
            vbd.remove().await;
        }
        world.settle().await;
        assert!(world.watcher.borrow().as_ref().unwrap().devices().is_empty());
        assert_eq!((world.opener.open.get(), world.worker.rings.borrow().len()), (0, 0));
    });
}
