//! A disk for another kernel, and after a suspension.

use std::{cell::Cell, time::Duration};

use guest::DeviceOptions;
use wire::xenstore::Path;
use xenbus::{Outcome, Phase, State};

use crate::{
    backend::{FakeBackend, GOOD, Manners},
    world::World,
};

/// What the kernel before has left: nothing but nodes and grants.
async fn leave(world: &World, state: &str) {
    let guest = world.boot();
    let device = world.device(&guest, DeviceOptions { queues: 2, ..DeviceOptions::default() }).await;
    device.connected().await.unwrap();
    // Its process goes; the backend still serves what it knows of.
    drop((device, guest));
    if state != "4" {
        world.write(&world.frontend("state"), state).await;
    }
}

#[test]
fn another_kernel_takes_the_disk_over_from_any_state() {
    for state in ["4", "5", "6"] {
        let world = World::new();
        let backend = FakeBackend::start(&world, world.disk.backend_path().unwrap(), GOOD);
        world.run(async {
            leave(&world, state).await;
            let guest = world.boot();
            let device = world.device(&guest, DeviceOptions::default()).await;
            device.connected().await.unwrap();
            device.write(0, &[1; 512]).await.unwrap();
            assert_eq!(backend.connections(), 2, "from {state}");
            assert_eq!(guest.account().unwrap().used, 1, "from {state}: only the new ring is used");
        });
    }
}

#[test]
fn another_kernel_waits_only_so_long_for_a_backend_that_does_not_follow() {
    let world = World::new();
    let backend = FakeBackend::start(&world, world.disk.backend_path().unwrap(), GOOD);
    world.run(async {
        leave(&world, "4").await;
        drop(backend);
        let patience = Duration::from_millis(50);
        let device = world.device(&world.boot(), DeviceOptions { patience, ..DeviceOptions::default() }).await;
        world.until_frontend(State::Initialising).await;
        assert_eq!(device.phase(), Phase::Waiting);
    });
}

#[test]
fn a_resume_on_the_same_host_changes_nothing() {
    let world = World::new();
    let backend = FakeBackend::start(&world, world.disk.backend_path().unwrap(), GOOD);
    world.run(async {
        let (guest, store) = (world.boot(), world.store("socket.7"));
        let own = world.disk.frontend_path().unwrap();
        let device = guest::Device::open(&world.executor, &guest, &store, own, DeviceOptions::default()).await.unwrap();
        let disk = device.connected().await.unwrap();
        store.suspend().await;
        world.write(&world.backend("sectors"), "4096").await;
        world.write(&world.backend("state"), "4").await;
        device.write(0, &[1; 512]).await.unwrap();
        assert_eq!(device.disk(), Some(disk), "nobody watches");
        store.resume().await;
        assert_eq!(device.changed_from(disk).await.unwrap().sectors, 4096, "what was missed is seen");
        device.write(0, &[1; 512]).await.unwrap();
        assert_eq!((backend.connections(), backend.seen.requests.get()), (1, 2), "nothing is done twice");
    });
}

#[test]
fn after_a_resume_elsewhere_what_was_not_answered_is_asked_of_the_new_backend() {
    let world = World::new();
    let old = FakeBackend::start(&world, world.disk.backend_path().unwrap(), Manners { answers: false, ..GOOD });
    world.run(async {
        let (guest, store) = (world.boot(), world.store("socket.7"));
        let own = world.disk.frontend_path().unwrap();
        let device = guest::Device::open(&world.executor, &guest, &store, own, DeviceOptions::default()).await.unwrap();
        device.connected().await.unwrap();
        let asking: Vec<_> = (0..8)
            .map(|sector| {
                let device = device.clone();
                world.executor.spawn(async move { device.write(sector, &[1; 512]).await })
            })
            .collect();
        while old.seen.requests.get() < 8 {
            world.executor.yield_now().await;
        }
        store.suspend().await;
        drop(old);
        // The toolstack of the other host has made everything anew.
        let elsewhere: Path = "/local/domain/0/backend/vbd3/9/51712".parse().unwrap();
        for (name, value) in [("frontend", world.disk.frontend_path().unwrap().as_str()), ("state", "1")] {
            world.write(&elsewhere.join(name).unwrap(), value).await;
        }
        world.write(&world.frontend("backend"), elsewhere.as_str()).await;
        world.write(&world.frontend("state"), "1").await;
        let new = FakeBackend::start(&world, elsewhere, GOOD);
        store.resume().await;
        for ask in asking {
            ask.await.unwrap();
        }
        assert_eq!((new.connections(), new.seen.requests.get()), (1, 8), "each is asked once");
        assert_eq!(device.shutdown(Duration::from_secs(5)).await, Outcome::AtItsStart);
        assert_eq!(guest.account().unwrap().granted, 0);
    });
}

#[test]
fn a_device_survives_a_xenstore_that_is_started_again_and_again() {
    let world = World::new();
    let backend = FakeBackend::start(&world, world.disk.backend_path().unwrap(), GOOD);
    world.run(async {
        let device = world.device(&world.boot(), DeviceOptions::default()).await;
        let mut disk = device.connected().await.unwrap();
        let sectors = Cell::new(4096);
        for _ in 0..5 {
            world.sockets.drop_connections();
            world.write(&world.backend("sectors"), &sectors.get().to_string()).await;
            world.write(&world.backend("state"), "4").await;
            disk = device.changed_from(disk).await.unwrap();
            assert_eq!(disk.sectors, sectors.get());
            sectors.set(sectors.get() + 4096);
        }
        assert_eq!(backend.connections(), 1);
    });
}
