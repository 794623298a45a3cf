//! The end of a disk: ours, the backend's, and that of one that does not react.

use std::time::Duration;

use block_core::ErrorKind;
use guest::DeviceOptions;
use xenbus::{Outcome, Phase, State};

use crate::{
    backend::{FakeBackend, GOOD, Manners},
    world::World,
};

const SOON: Duration = Duration::from_secs(5);

#[test]
fn a_shutdown_ends_in_time_with_a_backend_that_is_dead() {
    let world = World::new();
    let backend = FakeBackend::start(&world, world.disk.backend_path().unwrap(), Manners { answers: false, ..GOOD });
    world.run(async {
        let guest = world.boot();
        let device = world.device(&guest, DeviceOptions::default()).await;
        device.connected().await.unwrap();
        let asking = {
            let device = device.clone();
            world.executor.spawn(async move { device.read(0, 8).await })
        };
        while backend.seen.requests.get() == 0 {
            world.executor.yield_now().await;
        }
        drop(backend);
        let timeout = Duration::from_millis(300);
        let start = world.executor.now();
        assert_eq!(device.shutdown(timeout).await, Outcome::TimedOut);
        let took = world.executor.now() - start;
        assert!(took < timeout * 10, "it took {took:?}");
        assert_eq!(asking.await.unwrap_err().kind(), ErrorKind::Closed, "nobody waits for ever");
        assert_eq!(guest.account().unwrap().granted, 2, "what the backend may still touch stays: ring and data");
    });
}

#[test]
fn a_shutdown_ends_in_time_without_xenstore() {
    let world = World::new();
    let _backend = FakeBackend::start(&world, world.disk.backend_path().unwrap(), GOOD);
    world.run(async {
        let device = world.device(&world.boot(), DeviceOptions::default()).await;
        device.connected().await.unwrap();
        std::fs::remove_file(world.directory.path().join("socket.7")).unwrap();
        world.sockets.drop_connections();
        assert_eq!(device.shutdown(Duration::from_millis(300)).await, Outcome::TimedOut);
    });
}

#[test]
fn offers_do_not_disturb_a_shutdown() {
    let world = World::new();
    let backend = FakeBackend::start(&world, world.disk.backend_path().unwrap(), GOOD);
    world.run(async {
        let device = world.device(&world.boot(), DeviceOptions::default()).await;
        device.connected().await.unwrap();
        drop(backend);
        let leaving = {
            let device = device.clone();
            world.executor.spawn(async move { device.shutdown(SOON).await })
        };
        world.until_frontend(State::Closing).await;
        for _ in 0..10 {
            world.write(&world.backend("state"), "2").await;
            world.executor.yield_now().await;
            assert_eq!(world.text(&world.frontend("state")).await, "5");
        }
        assert_eq!((device.phase(), device.rings().0), (Phase::Leaving, 1), "no other ring was made");
        world.write(&world.backend("state"), "6").await;
        assert_eq!(leaving.await, Outcome::AtItsStart);
        assert_eq!(world.text(&world.frontend("state")).await, "1");
    });
}

#[test]
fn requests_that_run_end_before_a_shutdown_does() {
    let world = World::new();
    let _backend = FakeBackend::start(&world, world.disk.backend_path().unwrap(), GOOD);
    world.run(async {
        let device = world.device(&world.boot(), DeviceOptions::default()).await;
        device.connected().await.unwrap();
        let writing: Vec<_> = (0..64)
            .map(|sector| {
                let device = device.clone();
                world.executor.spawn(async move { device.write(sector, &[1; 512]).await })
            })
            .collect();
        world.executor.yield_now().await;
        assert!(device.account().in_flight > 0);
        assert_eq!(device.shutdown(SOON).await, Outcome::AtItsStart);
        for write in writing {
            write.await.unwrap();
        }
        assert_eq!(device.write(0, &[1; 512]).await.unwrap_err().kind(), ErrorKind::Closed, "it is left");
    });
}

#[test]
fn a_disk_in_use_is_not_given_up_because_the_backend_says_so() {
    let world = World::new();
    let _backend = FakeBackend::start(&world, world.disk.backend_path().unwrap(), GOOD);
    world.run(async {
        let device = world.device(&world.boot(), DeviceOptions::default()).await;
        device.connected().await.unwrap();
        let hold = device.hold();
        let error = "/local/domain/7/error/device/vbd/51712/error".parse().unwrap();
        let toolstack = world.toolstack();
        let told = world.store("socket");
        let watch = told.watch(&error);
        let disk = world.disk.clone();
        let removing = world.executor.spawn(async move { toolstack.remove_disk(&disk, false, SOON * 6).await });
        while world.text(&error).await.is_empty() {
            watch.next().await;
        }
        assert_eq!(world.text(&error).await, "16 Device in use; refusing to close");
        device.write(0, &[1; 512]).await.unwrap();
        drop(hold);
        // The toolstack may have removed the nodes before we look.
        assert!(matches!(device.left().await, Outcome::Closed | Outcome::Failed));
        assert!(removing.await.unwrap(), "the toolstack sees it end");
    });
}

#[test]
fn a_disk_in_use_is_given_up_when_the_system_goes_down() {
    let world = World::new();
    let _backend = FakeBackend::start(&world, world.disk.backend_path().unwrap(), GOOD);
    world.run(async {
        let device = world.device(&world.boot(), DeviceOptions::default()).await;
        device.connected().await.unwrap();
        let _hold = device.hold();
        assert_eq!(device.shutdown(SOON).await, Outcome::AtItsStart);
    });
}

#[test]
fn a_disk_that_is_taken_away_by_force_is_left() {
    let world = World::new();
    let _backend = FakeBackend::start(&world, world.disk.backend_path().unwrap(), GOOD);
    world.run(async {
        let guest = world.boot();
        let device = world.device(&guest, DeviceOptions::default()).await;
        device.connected().await.unwrap();
        let _hold = device.hold();
        assert!(world.toolstack().remove_disk(&world.disk, true, SOON).await.unwrap());
        assert_eq!(device.left().await, Outcome::Failed);
        assert_eq!(device.read(0, 1).await.unwrap_err().kind(), ErrorKind::Closed);
        assert_eq!(guest.account().unwrap().granted, 0);
        assert_eq!(world.text(&world.frontend("state")).await, "", "it is not made again");
    });
}
