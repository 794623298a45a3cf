//! What a toolstack may ask for a disk besides, as it reaches the guest.

use control_api::native::{RingCounters, RingPages};
use guest::{
    DeviceOptions,
    toolstack::DiskSpec,
    workload::{Pace, Workload},
};
use xenbus::Outcome;

use crate::host::{LONG, Whole};

/// Events of a guest for so many writes, one after the other, on a disk that is polled for so long.
fn kicks_for(polling_us: Option<u32>, writes: u64) -> u64 {
    let whole = Whole::new();
    whole.run(async {
        let disk = whole.attach_with("xvda", |spec| DiskSpec { polling_us, ..spec }).await;
        let device = whole.device(&disk, DeviceOptions::default()).await;
        device.connected().await.unwrap();
        let kicks = || whole.shown(&disk).rings[0].counters.kicks_in;
        device.write(0, &[1; 4096]).await.unwrap();
        let before = kicks();
        for number in 1..=writes {
            device.write(number * 8, &[1; 4096]).await.unwrap();
        }
        let kicks = kicks() - before;
        assert_eq!(device.read(writes * 8, 8).await.unwrap(), [1; 4096]);
        assert_eq!(device.shutdown(LONG).await, Outcome::AtItsStart);
        kicks
    })
}

#[test]
fn a_disk_that_is_polled_takes_requests_without_events() {
    assert!(kicks_for(None, 200) > 150);
    // A machine that stands still for a tenth of a second costs an event.
    let kicks = kicks_for(Some(u32::MAX), 200);
    assert!(kicks < 50, "{kicks} events in spite of polling");
}

/// What a tapdisk tells of a device while it serves: pages and counters; and of its pages when it has gone.
fn used_by(persistent: Option<bool>, agrees: bool) -> (RingPages, RingCounters, RingPages) {
    let whole = Whole::new();
    whole.run(async {
        let disk = whole.attach_with("xvda", |spec| DiskSpec { persistent, ..spec }).await;
        let options = DeviceOptions { persistent: agrees, queues: 2, order: 1, ..DeviceOptions::default() };
        let device = whole.device(&disk, options).await;
        let properties = device.connected().await.unwrap();
        assert_eq!(properties.persistent, persistent == Some(true) && agrees);
        let workload = Workload::new(7, &properties);
        for _ in 0..3 {
            workload.run(&device, 300, Pace::default()).await.unwrap();
        }
        workload.verify(&device, Pace::default()).await.unwrap();
        // The guest has its answer before it is in the account.
        while whole.shown(&disk).rings[0].pages.granted > 0 {
            whole.text(&disk.node("state")).await;
        }
        let shown = whole.shown(&disk).rings.remove(0);
        assert_eq!(u64::from(whole.used_pages()), shown.pages.mapped, "what is used is in the account");
        assert_eq!(device.shutdown(LONG).await, Outcome::AtItsStart);
        let account = device.account();
        assert_eq!((account.stray_pages, account.kept_ring_pages, account.in_flight), (0, 0, 0));
        assert_eq!(whole.used_pages(), 0);
        (shown.pages, shown.counters, whole.shown(&disk).ring_pages)
    })
}

/// Pages of two rings of two pages each.
const RINGS: u64 = 4;

#[test]
fn pages_of_a_guest_that_agrees_stay_mapped_until_its_disk_is_closed() {
    let (pages, counters, after) = used_by(Some(true), true);
    assert!(pages.mapped > RINGS + 16, "{pages:?}");
    assert!(counters.mapped_copies > 0 && counters.grant_copies == 0, "{counters:?}");
    assert_eq!((after.granted, after.mapped, after.leaked), (0, 0, 0));
    assert!(after.peak >= pages.mapped, "{after:?}");
}

#[test]
fn pages_stay_mapped_only_if_toolstack_and_guest_want_it() {
    for (persistent, agrees) in [(None, true), (Some(false), true), (Some(true), false)] {
        let (pages, counters, after) = used_by(persistent, agrees);
        assert_eq!((pages.mapped, counters.mapped_copies), (RINGS, 0), "{persistent:?} {agrees}");
        assert!(counters.grant_copies > 0);
        assert_eq!(after, RingPages { peak: RINGS, ..RingPages::default() });
    }
}
