//! A guest's disk, from its first request to its last.

use control_api::native::{Command, Grow};
use guest::{
    DeviceOptions,
    hostile::{HostileFront, HostileMode, HostileOptions},
    workload::{Pace, Workload},
};
use wire::blkif::Abi;
use xen::DomainId;
use xenbus::Outcome;

use crate::host::{DISK_BYTES, LONG, Whole};

/// Requests of each kernel.
const REQUESTS: u64 = 300;

#[test]
fn kernels_of_all_sorts_use_a_disk_one_after_the_other() {
    let whole = Whole::new();
    whole.run(async {
        let disk = whole.attach("xvda").await;
        let mut workload = None;
        for (abi, order, queues) in [(Abi::X86_32, 0, 1), (Abi::X86_64, 4, 1), (Abi::X86_64, 2, 4), (Abi::X86_32, 1, 2)]
        {
            let options = DeviceOptions { abi, order, queues, ..DeviceOptions::default() };
            let device = whole.device(&disk, options).await;
            let properties = device.connected().await.unwrap();
            assert_eq!(properties.sectors, DISK_BYTES / 512);
            assert_eq!(device.rings(), (queues as usize, order));
            let workload = workload.get_or_insert_with(|| Workload::new(7, &properties));
            workload.run(&device, REQUESTS, Pace::default()).await.unwrap();
            workload.verify(&device, Pace::default()).await.unwrap();
            assert_eq!(device.shutdown(LONG).await, Outcome::AtItsStart);
            let account = device.account();
            assert_eq!((account.stray_pages, account.kept_ring_pages, account.in_flight), (0, 0, 0));
            assert_eq!(whole.used_pages(), 0, "{options:?}");
        }
        assert!(whole.toolstack.remove_disk(&disk.spec, false, LONG).await.unwrap());
        whole.until_all_is_forgotten().await;
    });
}

#[test]
fn a_disk_that_grows_is_larger_for_its_guest() {
    let whole = Whole::new();
    whole.run(async {
        let disk = whole.attach("xvda").await;
        let device = whole.device(&disk, DeviceOptions::default()).await;
        let before = device.connected().await.unwrap();
        let bytes = Some(2 * DISK_BYTES);
        whole.client(&disk).ask(Command::Grow(Grow { minor: disk.minor, bytes })).unwrap();
        let after = device.changed_from(before).await.unwrap();
        assert_eq!(after.sectors, 2 * before.sectors);
        device.write(before.sectors, &[7; 4096]).await.unwrap();
        assert_eq!(device.read(before.sectors, 8).await.unwrap(), [7; 4096]);
    });
}

#[test]
fn a_disk_grows_while_its_guest_works_and_every_byte_stays() {
    let whole = Whole::new();
    whole.run(async {
        let disk = whole.attach("xvda").await;
        let device = whole.device(&disk, DeviceOptions { queues: 2, order: 2, ..DeviceOptions::default() }).await;
        let mut properties = device.connected().await.unwrap();
        let workload = Workload::new(7, &properties);
        let load = {
            let (workload, device) = (workload.clone(), device.clone());
            whole.executor.spawn(async move { workload.run(&device, 6 * REQUESTS, Pace::default()).await })
        };
        for factor in [2, 3] {
            let (bytes, done) = (factor * DISK_BYTES, workload.done().requests());
            while workload.done().requests() < done + REQUESTS {
                whole.text(&disk.node("state")).await;
            }
            whole.client(&disk).ask(Command::Grow(Grow { minor: disk.minor, bytes: Some(bytes) })).unwrap();
            properties = device.changed_from(properties).await.unwrap();
            assert_eq!(properties.sectors, bytes / 512);
            assert_eq!(whole.text(&disk.node("sectors")).await, Some((bytes / 512).to_string()));
            assert_eq!(device.read(properties.sectors - 8, 8).await.unwrap(), [0; 4096], "what is new is empty");
            device.write(properties.sectors - 8, &[u8::try_from(factor).unwrap(); 4096]).await.unwrap();
            assert!(device.write(properties.sectors, &[1; 512]).await.is_err(), "it ends there");
        }
        load.await.unwrap();
        workload.verify(&device, Pace::default()).await.unwrap();
        assert_eq!((device.account().resizes, device.account().connections), (2, 1));
        assert_eq!(device.shutdown(LONG).await, Outcome::AtItsStart);
        // Another kernel finds all of it.
        let device = whole.device(&disk, DeviceOptions::default()).await;
        assert_eq!(device.connected().await.unwrap().sectors, properties.sectors);
        workload.verify(&device, Pace::default()).await.unwrap();
        for factor in [2, 3] {
            let end = factor * DISK_BYTES / 512;
            assert_eq!(device.read(end - 8, 8).await.unwrap(), [u8::try_from(factor).unwrap(); 4096]);
        }
    });
}

#[test]
fn a_guest_does_not_notice_that_its_backend_starts_anew() {
    let whole = Whole::new();
    whole.run(async {
        let disk = whole.attach("xvda").await;
        let device = whole.device(&disk, DeviceOptions { queues: 2, ..DeviceOptions::default() }).await;
        let workload = Workload::new(7, &device.connected().await.unwrap());
        for _ in 0..3 {
            whole.restart_backend();
            workload.run(&device, REQUESTS, Pace::default()).await.unwrap();
        }
        workload.verify(&device, Pace::default()).await.unwrap();
        assert_eq!((device.account().connections, device.account().in_flight), (1, 0));
        assert_eq!(device.shutdown(LONG).await, Outcome::AtItsStart);
        assert_eq!(whole.used_pages(), 0);
    });
}

#[test]
fn a_domain_that_is_destroyed_under_load_leaves_nothing_behind() {
    let whole = Whole::new();
    whole.run(async {
        let disk = whole.attach("xvda").await;
        let device = whole.device(&disk, DeviceOptions { queues: 2, ..DeviceOptions::default() }).await;
        let workload = Workload::new(7, &device.connected().await.unwrap());
        let load = {
            let (workload, device) = (workload.clone(), device.clone());
            whole.executor.spawn(async move { workload.run(&device, u64::MAX, Pace::default()).await })
        };
        while workload.done().requests() < REQUESTS {
            whole.text(&disk.node("state")).await;
        }
        assert!(whole.toolstack.remove_disk(&disk.spec, true, LONG).await.unwrap(), "it had ended in time");
        assert_eq!(whole.used_pages(), 0);
        drop(load);
        whole.until_all_is_forgotten().await;
        assert_eq!(whole.text(&disk.node("state")).await, None, "nothing was made anew");
    });
}

#[test]
fn a_ring_that_makes_no_sense_is_told_and_hurts_no_neighbour() {
    let whole = Whole::new();
    whole.run(async {
        let (victim, neighbour) = (whole.attach("xvda").await, whole.attach("xvdb").await);
        let device = whole.device(&neighbour, DeviceOptions::default()).await;
        let workload = Workload::new(7, &device.connected().await.unwrap());
        let options =
            HostileOptions { backend: DomainId(0), abi: Abi::X86_64, order: 0, sectors: DISK_BYTES / 512, seed: 3 };
        let mut front = HostileFront::new(&whole.executor, &whole.guest, options).unwrap();
        let (store, own) = (whole.guest_store(), victim.spec.frontend_path().unwrap());
        let nodes = [
            ("ring-ref", front.ring_grants()[0].to_string()),
            ("event-channel", front.port().to_string()),
            ("protocol", "x86_64-abi".to_owned()),
            ("state", "3".to_owned()),
        ];
        for (name, value) in nodes {
            store.write(&own.join(name).unwrap(), value.as_bytes()).await.unwrap();
        }
        whole.wait_for(&victim, "4").await;
        front.act(HostileMode::Overrun, 1).await.unwrap();
        whole.wait_for(&victim, "5").await;
        let told = whole.text(&victim.error_node()).await.unwrap();
        assert!(told.starts_with("22 "), "{told}");
        workload.run(&device, REQUESTS, Pace::default()).await.unwrap();
        workload.verify(&device, Pace::default()).await.unwrap();
        store.write(&own.join("state").unwrap(), b"6").await.unwrap();
        whole.wait_for(&victim, "6").await;
        assert_eq!(front.release().unwrap(), 0, "its pages have been let go of");
    });
}

#[test]
fn a_tapdisk_that_is_killed_is_told_to_its_guest() {
    let whole = Whole::new();
    whole.run(async {
        let disk = whole.attach("xvda").await;
        let device = whole.device(&disk, DeviceOptions::default()).await;
        device.connected().await.unwrap();
        whole.kill(&disk);
        whole.wait_for(&disk, "5").await;
        assert!(whole.text(&disk.error_node()).await.unwrap().starts_with("19 "));
        device.left().await;
        whole.wait_for(&disk, "6").await;
        assert_eq!(whole.used_pages(), 0);
    });
}
