//! From nodes to a disk.

use std::time::Duration;

use block_core::ErrorKind;
use guest::{Device, DeviceOptions};
use wire::blkif::Abi;
use xenbus::Outcome;

use crate::{
    backend::{FakeBackend, GOOD, Manners},
    world::World,
};

#[test]
fn a_guest_gets_a_disk_with_the_rings_that_it_wants() {
    let world = World::new();
    let backend = FakeBackend::start(&world, world.disk.backend_path().unwrap(), GOOD);
    world.run(async {
        let guest = world.boot();
        let options = DeviceOptions { queues: 3, order: 2, abi: Abi::X86_32, ..DeviceOptions::default() };
        let device = world.device(&guest, options).await;
        let disk = device.connected().await.unwrap();
        assert_eq!((disk.sectors, disk.logical_block_size, disk.flush, disk.read_only), (2048, 512, true, false));
        assert_eq!((device.rings(), backend.seen.abi.get()), ((3, 2), Some(Abi::X86_32)));
        assert_eq!(*backend.seen.connections.borrow(), [[4, 4, 4]]);
        for sector in 0..9 {
            device.write(sector, &[1; 512]).await.unwrap();
        }
        assert_eq!(backend.seen.requests.get(), 9);
        assert_eq!(device.shutdown(Duration::from_secs(5)).await, Outcome::AtItsStart);
        assert_eq!((guest.account().unwrap().granted, guest.account().unwrap().used), (0, 0));
        assert_eq!((device.account().stray_pages, device.account().kept_ring_pages), (0, 0));
    });
}

#[test]
fn a_guest_leaves_its_pages_granted_if_both_sides_want_that_and_takes_them_back_at_the_end() {
    for (persistent, offered) in [(false, true), (true, false), (true, true)] {
        let world = World::new();
        let manners = Manners { persistent: offered, ..GOOD };
        let _backend = FakeBackend::start(&world, world.disk.backend_path().unwrap(), manners);
        world.run(async {
            let guest = world.boot();
            let device = world.device(&guest, DeviceOptions { persistent, ..DeviceOptions::default() }).await;
            device.connected().await.unwrap();
            let said = world.text(&world.frontend("feature-persistent")).await;
            assert_eq!(said, u32::from(persistent).to_string());
            for sector in 0..3 {
                device.write(sector, &[1; 512]).await.unwrap();
            }
            let granted = guest.account().unwrap().granted;
            assert_eq!(
                granted,
                1 + u32::from(persistent && offered),
                "the ring, and a page that is used again and again"
            );
            assert_eq!(device.shutdown(Duration::from_secs(5)).await, Outcome::AtItsStart);
            assert_eq!(guest.account().unwrap().granted, 0);
        });
    }
}

#[test]
fn a_guest_takes_no_more_than_is_offered() {
    let world = World::new();
    let manners = Manners { order_max: 1, queues_max: 2, ..GOOD };
    let backend = FakeBackend::start(&world, world.disk.backend_path().unwrap(), manners);
    world.run(async {
        let options = DeviceOptions { queues: 4, order: 4, ..DeviceOptions::default() };
        let device = world.device(&world.boot(), options).await;
        device.connected().await.unwrap();
        assert_eq!(*backend.seen.connections.borrow(), [[2, 2]]);
    });
}

#[test]
fn what_told_of_the_rings_of_another_kernel_is_swept_away() {
    let world = World::new();
    let backend = FakeBackend::start(&world, world.disk.backend_path().unwrap(), GOOD);
    world.run(async {
        let large = DeviceOptions { queues: 4, order: 3, ..DeviceOptions::default() };
        let first = world.device(&world.boot(), large).await;
        first.connected().await.unwrap();
        assert_eq!(first.shutdown(Duration::from_secs(5)).await, Outcome::AtItsStart);
        let small = world.device(&world.boot(), DeviceOptions::default()).await;
        small.connected().await.unwrap();
        assert_eq!(backend.seen.connections.borrow()[1], [1]);
        assert_eq!(world.text(&world.frontend("queue-0/ring-ref0")).await, "");
    });
}

#[test]
fn a_kernel_that_jumps_says_that_it_is_connected_as_soon_as_it_has_a_ring() {
    let world = World::new();
    world.run(async {
        world.write(&world.backend("state"), "2").await;
        let options = DeviceOptions { jumps: true, ..DeviceOptions::default() };
        let guest = world.boot();
        let device = world.device(&guest, options).await;
        while world.text(&world.frontend("ring-ref")).await.is_empty() {
            world.executor.sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(world.text(&world.frontend("state")).await, "4", "whatever the backend says");
        drop(device);
        world.write(&world.frontend("state"), "1").await;
        let backend = FakeBackend::start(&world, world.disk.backend_path().unwrap(), GOOD);
        let device = world.device(&guest, options).await;
        device.connected().await.unwrap();
        device.write(0, &[1; 512]).await.unwrap();
        assert_eq!(device.shutdown(Duration::from_secs(5)).await, Outcome::AtItsStart);
        assert_eq!((backend.connections(), guest.account().unwrap().used), (1, 0));
    });
}

#[test]
fn a_guest_without_pages_says_so_and_closes() {
    let world = World::new();
    let _backend = FakeBackend::start(&world, world.disk.backend_path().unwrap(), GOOD);
    world.run(async {
        let guest = world.boot();
        while guest.allocate_page().is_ok() {}
        let device = world.device(&guest, DeviceOptions::default()).await;
        assert_eq!(device.connected().await.unwrap_err().kind(), ErrorKind::Closed);
        assert_eq!(device.left().await, Outcome::Failed);
        let told = world.text(&"/local/domain/7/error/device/vbd/51712/error".parse().unwrap()).await;
        assert!(told.starts_with("28 ") && told.contains("no page left"), "{told}");
    });
}

#[test]
fn a_device_that_is_not_there_cannot_be_opened() {
    let world = World::new();
    world.run(async {
        let (guest, store) = (world.boot(), world.store("socket.7"));
        let own = "/local/domain/7/device/vbd/5".parse().unwrap();
        let opened = Device::open(&world.executor, &guest, &store, own, DeviceOptions::default()).await;
        assert_eq!(opened.err().unwrap().kind(), ErrorKind::NotFound);
    });
}

#[test]
fn a_disk_that_grows_is_seen_to_grow() {
    let world = World::new();
    let _backend = FakeBackend::start(&world, world.disk.backend_path().unwrap(), GOOD);
    world.run(async {
        let device = world.device(&world.boot(), DeviceOptions::default()).await;
        let old = device.connected().await.unwrap();
        world.write(&world.backend("sectors"), "4096").await;
        world.write(&world.backend("state"), "4").await;
        assert_eq!(device.changed_from(old).await.unwrap().sectors, 4096);
        assert_eq!(device.account().resizes, 1);
        assert_eq!(device.account().connections, 1, "its rings stay");
    });
}
