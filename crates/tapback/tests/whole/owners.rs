//! Whose disks are, and what becomes of them when toolstacks remove devices without their scripts.

use std::time::Duration;

use control_api::Minor;
use guest::{
    Device, DeviceOptions,
    workload::{Pace, Workload},
};

use tapback::owners::{Ended, end_disk};

use crate::host::{Disk, LONG, Whole};

/// So much time scripts have here.
const SCRIPT_TIME: Duration = Duration::from_millis(300);

/// Removes a device as the end of a domain does when it took too long: no script is run.
async fn remove(whole: &Whole, disk: &Disk) {
    assert!(whole.toolstack.remove_disk(&disk.spec, true, LONG).await.unwrap());
}

#[test]
fn a_disk_of_a_script_that_was_not_run_is_ended() {
    let whole = Whole::new();
    whole.run(async {
        let disk = whole.attach("xvda").await;
        whole.own(&disk);
        let _keeper = whole.keeper(SCRIPT_TIME);
        let device = whole.device(&disk, DeviceOptions::default()).await;
        device.connected().await.unwrap();
        whole.executor.sleep(2 * SCRIPT_TIME).await;
        assert_eq!(whole.left(), (1, 1), "it has an owner");
        remove(&whole, &disk).await;
        whole.until_nothing_is_left().await;
        let lines = ["is nobody's any more", ": closing", ": detaching", ": waiting for tapdisk", "is free"];
        assert_eq!(lines.map(|words| whole.order_of(words)), [Some(0), Some(1), Some(2), Some(3), Some(4)]);
    });
}

#[test]
fn a_disk_whose_process_was_killed_is_ended_too() {
    let whole = Whole::new();
    whole.run(async {
        let disk = whole.attach("xvda").await;
        whole.own(&disk);
        whole.kill(&disk);
        remove(&whole, &disk).await;
        let _keeper = whole.keeper(SCRIPT_TIME);
        whole.until_nothing_is_left().await;
    });
}

#[test]
fn a_disk_of_the_storage_side_stays() {
    let whole = Whole::new();
    whole.run(async {
        let (kept, ended) = (whole.attach("xvda").await, whole.attach("xvdb").await);
        whole.own(&ended);
        let _keeper = whole.keeper(SCRIPT_TIME);
        remove(&whole, &kept).await;
        remove(&whole, &ended).await;
        while whole.left() != (1, 1) {
            whole.executor.sleep(SCRIPT_TIME / 10).await;
        }
        whole.executor.sleep(3 * SCRIPT_TIME).await;
        assert_eq!((whole.left(), whole.run.minors().unwrap()), ((1, 1), vec![Minor::new(kept.minor).unwrap()]));
    });
}

#[test]
fn a_disk_that_another_device_uses_stays_until_that_has_gone() {
    let whole = Whole::new();
    whole.run(async {
        let disk = whole.attach("xvda").await;
        whole.own(&disk);
        let other = whole.share(&disk, "xvdb").await;
        let _keeper = whole.keeper(SCRIPT_TIME);
        let device = whole.device(&other, DeviceOptions::default()).await;
        let workload = Workload::new(7, &device.connected().await.unwrap());
        remove(&whole, &disk).await;
        whole.executor.sleep(3 * SCRIPT_TIME).await;
        workload.run(&device, 100, Pace::default()).await.unwrap();
        assert_eq!(whole.left(), (1, 1));
        remove(&whole, &other).await;
        whole.until_nothing_is_left().await;
    });
}

#[test]
fn a_disk_that_serves_a_guest_is_not_ended() {
    let whole = Whole::new();
    whole.run(async {
        let disk = whole.attach("xvda").await;
        let device = whole.device(&disk, DeviceOptions::default()).await;
        let workload = Workload::new(7, &device.connected().await.unwrap());
        let minor = Minor::new(disk.minor).unwrap();
        assert_eq!(end_disk(&whole.executor, &whole.run, minor, &|_| {}).await.unwrap(), Ended::InUse);
        workload.run(&device, 100, Pace::default()).await.unwrap();
        device.shutdown(LONG).await;
        assert_eq!(end_disk(&whole.executor, &whole.run, minor, &|_| {}).await.unwrap(), Ended::Freed);
        assert_eq!(end_disk(&whole.executor, &whole.run, minor, &|_| {}).await.unwrap(), Ended::Freed, "once more");
        assert_eq!(whole.left(), (0, 0));
    });
}

#[test]
fn a_ring_whose_device_went_while_no_backend_ran_is_let_go_of() {
    let whole = Whole::new();
    whole.run(async {
        let (disk, other) = (whole.attach("xvda").await, whole.attach("xvdb").await);
        whole.own(&disk);
        let device = whole.device(&disk, DeviceOptions::default()).await;
        let neighbour = whole.device(&other, DeviceOptions::default()).await;
        device.connected().await.unwrap();
        let workload = Workload::new(7, &neighbour.connected().await.unwrap());
        whole.stop_backend();
        whole.store.remove(&disk.spec.backend_path().unwrap()).await.unwrap();
        whole.restart_backend();
        let _keeper = whole.keeper(SCRIPT_TIME);
        while whole.left() != (1, 1) {
            whole.executor.sleep(SCRIPT_TIME / 10).await;
        }
        // That of the neighbour was never touched.
        workload.run(&neighbour, 100, Pace::default()).await.unwrap();
        assert_eq!(neighbour.account().connections, 1);
        drop(device);
    });
}

#[test]
fn all_devices_that_vanish_at_once_are_drained_let_go_of_and_their_disks_ended() {
    let whole = Whole::new();
    whole.run(async {
        let _keeper = whole.keeper(SCRIPT_TIME);
        let mut loads = Vec::new();
        let mut devices: Vec<Device> = Vec::new();
        for name in ["xvda", "xvdb", "xvdc"] {
            let disk = whole.attach(name).await;
            whole.own(&disk);
            let device = whole.device(&disk, DeviceOptions::default()).await;
            let workload = Workload::new(7, &device.connected().await.unwrap());
            let load = (workload.clone(), device.clone());
            loads.push(whole.executor.spawn(async move { load.0.run(&load.1, u64::MAX, Pace::default()).await }));
            workload.until(100).await;
            devices.push(device);
        }
        whole.store.remove(&"/local/domain/0/backend".parse().unwrap()).await.unwrap();
        whole.until_all_is_forgotten().await;
        assert_eq!(whole.used_pages(), 0, "nothing of a guest is held when a device is forgotten");
        whole.until_nothing_is_left().await;
        assert_eq!(whole.text(&"/local/domain/0/backend".parse().unwrap()).await, None, "nothing was made anew");
        drop((loads, devices));
    });
}
