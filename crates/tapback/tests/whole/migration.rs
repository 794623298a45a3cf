//! A guest that moves within its host, as Xen's toolstack does it: suspended, then a second domain with the same disk, and
//! the first is destroyed when the second runs.

use guest::{
    Device, DeviceOptions,
    workload::{Pace, Workload},
};
use xen::hosted::Guest;

use crate::host::{DOMAIN, Disk, LONG, NEXT_DOMAIN, Whole};

const REQUESTS: u64 = 300;

/// The guest has worked, and its toolstack has the second domain ready.
struct Moving {
    disk: Disk,
    device: Device,
    workload: Workload,
    next: Disk,
    guest: Guest,
}

async fn begin(whole: &Whole) -> Moving {
    let disk = whole.attach("xvda").await;
    let device = whole.device(&disk, DeviceOptions::default()).await;
    let workload = Workload::new(7, &device.connected().await.unwrap());
    workload.run(&device, REQUESTS, Pace::default()).await.unwrap();
    whole.toolstack.add_domain(NEXT_DOMAIN, 8192).await.unwrap();
    let next = whole.share_with(NEXT_DOMAIN, &disk, "xvda").await;
    Moving { disk, device, workload, next, guest: whole.next_guest() }
}

/// The guest is suspended, and the host sees it.
async fn suspend(whole: &Whole, disk: &Disk) {
    let wish = format!("/local/domain/{DOMAIN}/control/shutdown").parse().unwrap();
    for value in [b"suspend".as_slice(), b""] {
        whole.store.write(&wish, value).await.unwrap();
    }
    while !whole.shown(disk).rings.iter().any(|ring| ring.settled) {
        whole.text(&wish).await;
    }
}

#[test]
fn a_guest_that_moves_is_served_before_its_first_domain_is_destroyed() {
    for is_told in [true, false] {
        let whole = Whole::new();
        whole.run(async {
            let Moving { disk, device: _stands_still, workload, next, guest } = begin(&whole).await;
            if is_told {
                suspend(&whole, &disk).await;
            }
            let device = whole.next_device(&guest, &next).await;
            device.connected().await.unwrap();
            workload.verify(&device, Pace::default()).await.unwrap();
            workload.run(&device, REQUESTS, Pace::default()).await.unwrap();
            let shown = whole.shown(&disk);
            let of = |domain| shown.rings.iter().find(|ring| ring.domain == domain).unwrap();
            let handover = of(NEXT_DOMAIN.0).handover.unwrap();
            assert!(of(DOMAIN.0).held && handover.domain == DOMAIN.0, "{shown:?}");
            println!("told: {is_told}; nobody was served for {} us", handover.blackout_us.unwrap());
            assert!(whole.toolstack.remove_disk(&disk.spec, true, LONG).await.unwrap());
            workload.run(&device, REQUESTS, Pace::default()).await.unwrap();
            workload.verify(&device, Pace::default()).await.unwrap();
        });
    }
}

#[test]
fn a_migration_that_is_given_up_leaves_the_guest_where_it_was() {
    for is_told in [true, false] {
        let whole = Whole::new();
        whole.run(async {
            let Moving { disk, device, workload, next, guest } = begin(&whole).await;
            if is_told {
                suspend(&whole, &disk).await;
            }
            let second = whole.next_device(&guest, &next).await;
            second.connected().await.unwrap();
            assert!(whole.toolstack.remove_disk(&next.spec, true, LONG).await.unwrap());
            workload.run(&device, REQUESTS, Pace::default()).await.unwrap();
            workload.verify(&device, Pace::default()).await.unwrap();
            assert_eq!((device.account().connections, whole.shown(&disk).rings[0].held), (1, false));
        });
    }
}
