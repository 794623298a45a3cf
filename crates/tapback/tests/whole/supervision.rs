//! Tapdisks that go: what is told, to whom, and what is done about it.

use std::{rc::Rc, time::Duration};

use block_core::ErrorKind;
use control_api::{Minor, native::Command};
use guest::{
    Device, DeviceOptions,
    toolstack::DiskSpec,
    workload::{Pace, Workload},
};
use storage_io::Task;
use tapback::{OnDeath, RunCommand};
use test_support::cycles;

use crate::host::{Disk, LONG, Whole};

/// Requests before something happens, and after it.
const REQUESTS: u64 = 300;

type Load = Task<block_core::Result<()>>;

/// As a kernel that ends nothing by itself.
fn unkind() -> DeviceOptions {
    DeviceOptions { queues: 2, waits_for_answers: true, ..DeviceOptions::default() }
}

/// A guest that asks and asks.
async fn load(whole: &Whole, disk: &Disk) -> (Device, Workload, Load) {
    let device = whole.device(disk, unkind()).await;
    let workload = Workload::new(7, &device.connected().await.unwrap());
    let load = begin(whole, &device, &workload);
    workload.until(REQUESTS).await;
    (device, workload, load)
}

fn begin(whole: &Whole, device: &Device, workload: &Workload) -> Load {
    let (workload, device) = (workload.clone(), device.clone());
    whole.executor.spawn(async move { workload.run(&device, u64::MAX, Pace::default()).await })
}

/// Everything that the guest has asked is answered, and with errors.
async fn fails(load: Load) {
    assert_eq!(load.await.unwrap_err().kind(), ErrorKind::Io);
}

async fn error(whole: &Whole, disk: &Disk) -> Option<String> {
    whole.text(&disk.error_node()).await
}

/// A guest that asks something before that has asked somebody who has gone, for all that anybody knows.
async fn until_told(whole: &Whole, words: &str) {
    while whole.told(words) == 0 {
        whole.text(&"/local".parse().unwrap()).await;
    }
}

#[test]
fn a_guest_whose_tapdisk_is_killed_under_load_is_answered_by_errors() {
    let whole = Whole::new();
    whole.run(async {
        for round in 1..=cycles(3, 100) {
            let disk = whole.attach(&format!("xvd{}", char::from(b'a' + u8::try_from(round % 26).unwrap()))).await;
            let (device, _, load) = load(&whole, &disk).await;
            whole.kill(&disk);
            fails(load).await;
            whole.wait_for(&disk, "5").await;
            let words = format!("19 tapdisk {} has gone", disk.pid);
            assert!(error(&whole, &disk).await.unwrap().starts_with(&words));
            let line = format!("error 19: tapdisk {} has gone", disk.pid);
            assert_eq!(whole.told(&line), 1, "once, and not only when somebody has missed it");
            device.left().await;
            whole.wait_for(&disk, "6").await;
            assert_eq!((device.account().in_flight, whole.used_pages(), whole.ring_records().len()), (0, 0, 0));
            drop(device);
            assert!(whole.toolstack.remove_disk(&disk.spec, false, LONG).await.unwrap());
            whole.run.free_minor(Minor::new(disk.minor).unwrap()).unwrap();
            whole.until_nothing_is_left().await;
        }
    });
}

#[test]
fn a_guest_is_answered_by_errors_whose_tapdisk_is_killed_while_nobody_looks() {
    let whole = Whole::new();
    whole.run(async {
        let disk = whole.attach("xvda").await;
        let (device, _, load) = load(&whole, &disk).await;
        whole.stop_backend();
        whole.kill(&disk);
        whole.restart_backend();
        fails(load).await;
        device.left().await;
        whole.wait_for(&disk, "6").await;
        assert_eq!((whole.used_pages(), whole.ring_records().len()), (0, 0));
    });
}

#[test]
fn a_guest_that_does_not_close_is_not_waited_for() {
    let whole = Whole::new();
    whole.run(async {
        let disk = whole.attach("xvda").await;
        let device = whole.device(&disk, DeviceOptions::default()).await;
        device.connected().await.unwrap();
        let _in_use = device.hold();
        whole.kill(&disk);
        whole.wait_for(&disk, "5").await;
        whole.wait_for(&disk, "6").await;
        device.left().await;
    });
}

#[test]
fn a_tapdisk_that_is_killed_before_there_is_a_ring_is_told_too() {
    let whole = Whole::new();
    whole.run(async {
        let disk = whole.attach("xvda").await;
        let watch = whole.store.watch(&disk.error_node());
        whole.kill(&disk);
        while error(&whole, &disk).await.is_none() {
            watch.next().await;
        }
        assert_eq!(whole.text(&disk.node("state")).await.as_deref(), Some("2"));
    });
}

#[test]
fn a_backend_that_has_started_anew_sees_the_end_of_tapdisks_that_it_never_started() {
    let whole = Whole::new();
    whole.run(async {
        let disk = whole.attach("xvda").await;
        let (device, workload, load) = load(&whole, &disk).await;
        whole.restart_backend();
        workload.until(workload.done().requests() + REQUESTS).await;
        whole.kill(&disk);
        fails(load).await;
        device.left().await;
        whole.wait_for(&disk, "6").await;
        assert!(whole.told("error 19: tapdisk") > 0);
    });
}

#[test]
fn a_guest_that_waits_for_nothing_does_not_notice_that_it_has_another_tapdisk() {
    let whole = Whole::that_restarts();
    whole.run(async {
        let mut disk = whole.attach("xvda").await;
        let device = whole.device(&disk, DeviceOptions { queues: 2, ..DeviceOptions::default() }).await;
        let workload = Workload::new(7, &device.connected().await.unwrap());
        for round in 1..=2 {
            workload.run(&device, REQUESTS, Pace::default()).await.unwrap();
            whole.kill(&disk);
            disk = whole.successor(&disk).await;
            let served = format!("tapdisk {} serves its ring now", disk.pid);
            until_told(&whole, &served).await;
            workload.verify(&device, Pace::default()).await.unwrap();
            assert_eq!((device.account().connections, whole.told("tapdisk ")), (1, 2 * round));
        }
        while error(&whole, &disk).await.is_some() {}
        device.shutdown(LONG).await;
        assert_eq!(whole.used_pages(), 0);
    });
}

/// Tapdisks of a guest under load are killed, one after the other. Says how many requests were repeated.
async fn killed_again_and_again(whole: &Whole, mut disk: Disk, rounds: u64) -> u64 {
    let (device, workload, load) = load(whole, &disk).await;
    let mut repeated = 0;
    for round in 1..=rounds {
        while whole.shown(&disk).in_flight == 0 {
            whole.executor.yield_now().await;
        }
        whole.kill(&disk);
        disk = whole.successor(&disk).await;
        // Each at another moment.
        workload.until(workload.done().requests() + 50 + 7 * (round % 16)).await;
        repeated += whole.repeated(&disk);
    }
    workload.stop();
    load.await.unwrap();
    workload.verify(&device, Pace::default()).await.unwrap();
    assert_eq!((device.account().connections, device.account().in_flight), (1, 0));
    device.shutdown(LONG).await;
    assert_eq!((whole.used_pages(), whole.ring_records().len()), (0, 0));
    repeated
}

#[test]
fn a_guest_under_load_does_not_notice_that_its_tapdisk_is_killed() {
    let whole = Whole::that_restarts();
    whole.run(async {
        let disk = whole.attach("xvda").await;
        killed_again_and_again(&whole, disk, cycles(4, 100)).await;
    });
}

#[test]
fn what_storage_had_when_a_tapdisk_was_killed_is_done_again() {
    let whole = Whole::that_restarts();
    whole.run(async {
        let delayed = |spec: DiskSpec| DiskSpec { image: format!("delay:50ms:{}", spec.image), ..spec };
        let disk = whole.attach_with("xvda", delayed).await;
        let repeated = killed_again_and_again(&whole, disk, cycles(4, 100)).await;
        assert!(repeated > 0, "nothing was under way when they were killed");
    });
}

#[test]
fn a_tapdisk_that_was_told_to_close_is_not_replaced() {
    let whole = Whole::that_restarts();
    whole.run(async {
        let disk = whole.attach("xvda").await;
        let device = whole.device(&disk, DeviceOptions::default()).await;
        device.connected().await.unwrap();
        let mut client = whole.client(&disk);
        client.ask(Command::Close { minor: disk.minor, force: false, deadline_ms: None }).unwrap();
        client.ask(Command::Detach { minor: disk.minor }).unwrap();
        device.left().await;
        whole.wait_for(&disk, "6").await;
        assert_eq!((whole.pid(&disk).await, whole.told("tapdisk ")), (None, 0));
    });
}

#[test]
fn a_disk_that_was_paused_is_not_opened_by_itself() {
    let whole = Whole::that_restarts();
    whole.run(async {
        let disk = whole.attach("xvda").await;
        let device = whole.device(&disk, DeviceOptions::default()).await;
        device.connected().await.unwrap();
        whole.client(&disk).ask(Command::Pause { minor: disk.minor, deadline_ms: None }).unwrap();
        let minor = Minor::new(disk.minor).unwrap();
        assert_eq!(whole.run.minor_record(minor).opened, None, "others may put another image there");
        whole.kill(&disk);
        whole.wait_for(&disk, "5").await;
        assert_eq!(whole.pid(&disk).await, None);
        assert!(error(&whole, &disk).await.unwrap().contains("nobody knows"));
    });
}

#[test]
fn a_command_may_hold_the_guest_until_another_disk_is_named() {
    let whole = Whole::with(|executor, _, _| {
        OnDeath::Help(Rc::new(RunCommand::new(executor, "exit 0", Duration::from_secs(100))))
    });
    whole.run(async {
        let disk = whole.attach("xvda").await;
        let device = whole.device(&disk, DeviceOptions::default()).await;
        let workload = Workload::new(7, &device.connected().await.unwrap());
        workload.run(&device, REQUESTS, Pace::default()).await.unwrap();
        whole.kill(&disk);
        until_told(&whole, "somebody takes care of it").await;
        assert_eq!(whole.text(&disk.node("state")).await.as_deref(), Some("4"));
        whole.replace(&disk).await;
        until_told(&whole, "tapdisk ").await;
        workload.verify(&device, Pace::default()).await.unwrap();
        assert_eq!(device.account().connections, 1);
    });
}

#[test]
fn a_command_that_fails_does_not_keep_the_guest_waiting() {
    let whole = Whole::with(|executor, _, _| {
        OnDeath::Help(Rc::new(RunCommand::new(executor, "exit 3", Duration::from_secs(100))))
    });
    whole.run(async {
        let disk = whole.attach("xvda").await;
        let (device, _, load) = load(&whole, &disk).await;
        whole.kill(&disk);
        fails(load).await;
        device.left().await;
        whole.wait_for(&disk, "6").await;
        assert!(error(&whole, &disk).await.unwrap().contains("status 3"));
    });
}
