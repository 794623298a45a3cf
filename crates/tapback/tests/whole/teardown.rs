//! The end of a device, with somebody killed at every step of it: nothing is left, whoever it was.

use std::time::Duration;

use guest::{
    DeviceOptions,
    toolstack::DiskSpec,
    workload::{Pace, Workload},
};
use test_support::cycles;

use crate::host::{LONG, Whole};

const SCRIPT_TIME: Duration = Duration::from_millis(200);
/// Between two instants at which somebody is killed: from before requests are refused until everything has gone.
const INSTANT: Duration = Duration::from_millis(15);

/// Storage takes its time for each request: so long a disk drains.
fn delayed(spec: DiskSpec) -> DiskSpec {
    DiskSpec { image: format!("delay:40ms:{}", spec.image), ..spec }
}

/// Who is killed.
#[derive(Clone, Copy, Debug)]
enum Victim {
    Tapdisk,
    Backend,
    Both,
}

/// A device is taken away under load, and somebody is killed so much later.
async fn take_away(whole: &Whole, victim: Victim, instant: u32, by_force: bool) {
    let disk = whole.attach_with("xvda", delayed).await;
    whole.own(&disk);
    let device = whole.device(&disk, DeviceOptions { queues: 2, ..DeviceOptions::default() }).await;
    let workload = Workload::new(7, &device.connected().await.unwrap());
    let load = (workload.clone(), device.clone());
    let load = whole.executor.spawn(async move { load.0.run(&load.1, u64::MAX, Pace::default()).await });
    workload.until(10).await;
    let removing = {
        let (toolstack, spec) = (whole.toolstack.clone(), disk.spec.clone());
        whole.executor.spawn(async move { toolstack.remove_disk(&spec, by_force, LONG).await })
    };
    whole.executor.sleep(INSTANT * instant).await;
    if matches!(victim, Victim::Tapdisk | Victim::Both) {
        whole.kill_if_there(&disk);
    }
    if matches!(victim, Victim::Backend | Victim::Both) {
        whole.restart_backend();
    }
    let _keeper = whole.keeper(SCRIPT_TIME);
    assert!(removing.await.unwrap(), "{victim:?} at {instant}: it had ended in time");
    drop(load);
    whole.until_all_is_forgotten().await;
    assert_eq!(whole.used_pages(), 0, "{victim:?} at {instant}");
    whole.until_nothing_is_left().await;
    assert_eq!(whole.text(&disk.node("state")).await, None, "{victim:?} at {instant}: nothing was made anew");
    assert_eq!(whole.text(&disk.error_node()).await, None, "{victim:?} at {instant}");
}

#[test]
fn each_step_is_logged_and_they_come_in_one_order() {
    let whole = Whole::new();
    whole.run(async {
        let disk = whole.attach_with("xvda", delayed).await;
        whole.own(&disk);
        let device = whole.device(&disk, DeviceOptions::default()).await;
        let workload = Workload::new(7, &device.connected().await.unwrap());
        let load = (workload.clone(), device.clone());
        let load = whole.executor.spawn(async move { load.0.run(&load.1, u64::MAX, Pace::default()).await });
        workload.until(10).await;
        assert!(whole.toolstack.remove_disk(&disk.spec, true, LONG).await.unwrap());
        // It goes with its process; lines come there when they can.
        let logged = || std::fs::read_to_string(whole.run.log_file(disk.pid)).unwrap();
        let steps = ["takes no more requests", "disconnected: ", "what it was answered is durable"];
        while !logged().contains(steps[2]) {
            whole.executor.sleep(INSTANT).await;
        }
        assert_in_order(&logged(), &steps);
        let _keeper = whole.keeper(SCRIPT_TIME);
        whole.until_nothing_is_left().await;
        let steps = [
            "disconnecting",
            "Closed",
            "forgotten",
            "is nobody's any more",
            ": closing",
            ": detaching",
            ": waiting for tapdisk",
            "is free",
        ];
        assert_in_order(&whole.log(), &steps);
        drop(load);
    });
}

fn assert_in_order(log: &str, steps: &[&str]) {
    let mut rest = log;
    for step in steps {
        let at = rest.find(step);
        rest = &rest[at.unwrap_or_else(|| panic!("'{step}' does not come in its turn:\n{log}"))..];
    }
}

fn at_every_instant(victim: Victim) {
    let whole = Whole::new();
    whole.run(async {
        let instants = u32::try_from(cycles(6, 40)).unwrap();
        for instant in 0..instants {
            take_away(&whole, victim, instant, instant % 2 == 0).await;
        }
        // What a killed one has left in the run directory goes with the next.
        let last = whole.attach("xvdz").await;
        whole.own(&last);
        assert!(whole.toolstack.remove_disk(&last.spec, true, LONG).await.unwrap());
        let _keeper = whole.keeper(SCRIPT_TIME);
        whole.until_nothing_is_left().await;
        assert_eq!(whole.run.tapdisks().unwrap(), [0; 0], "nor a socket");
    });
}

#[test]
fn with_the_tapdisk_killed_at_every_instant() {
    at_every_instant(Victim::Tapdisk);
}

#[test]
fn with_the_backend_killed_at_every_instant() {
    at_every_instant(Victim::Backend);
}

#[test]
fn with_both_killed_at_every_instant() {
    at_every_instant(Victim::Both);
}
