//! Which disk is meant, with real tapdisks.

use control_api::Minor;
use guest::{
    toolstack::DiskSpec,
    workload::{Pace, Workload},
};
use xenbus::Outcome;

use crate::host::{Hosted, LONG, OUR_SCRIPT, disk};

/// Disks beside the one that hangs.
const NEIGHBOURS: u8 = 20;

#[test]
fn a_disk_is_found_by_whatever_names_it() {
    let host = Hosted::new(&[]);
    host.run(async {
        let image = format!("aio:{}", host.image("xvda").display());
        let opened = host.open(&image);
        let (pid, minor) = opened;
        let socket = host.run.nbd_socket(pid, minor).display().to_string();
        let marker = host.run.marker(minor).display().to_string();
        let export = format!("nbd:unix:{socket}:exportname=x");
        let (number, device) = (minor.to_string(), format!("0:{:x}", minor.number()));
        let ways: [(&str, &[(&str, &str)]); 6] = [
            (&image, &[]),
            (&export, &[]),
            ("/dev/x", &[("physical-device-path", &socket)]),
            ("/dev/x", &[("physical-device-path", &marker)]),
            ("/dev/x", &[("physical-device", &device)]),
            ("/dev/x", &[("pid", &pid.to_string()), ("minor", &number)]),
        ];
        for (params, nodes) in ways {
            let spec = disk("xvda", params, "block-tap");
            host.attach(&spec, nodes).await;
            let guest = host.device(&spec).await;
            guest.connected().await.unwrap_or_else(|error| panic!("{params} {nodes:?}: {error}"));
            assert_eq!(host.text(&spec, "kthread-pid").await, Some(pid.to_string()), "{params} {nodes:?}");
            assert_eq!(guest.shutdown(LONG).await, Outcome::AtItsStart);
            assert!(host.toolstack.remove_disk(&spec, false, LONG).await.unwrap());
        }
        // A device comes and goes; the disk is its storage manager's.
        assert_eq!(host.disks(pid)[0].image.as_deref(), Some(&*image));
        host.close(opened);
    });
}

#[test]
fn a_disk_that_nobody_has_open_is_told() {
    let host = Hosted::new(&[]);
    host.run(async {
        let readable = host.open(&format!("aio:{}", host.image("other").display()));
        let spec = disk("xvda", "aio:/nonexistent", "block-tap");
        host.attach(&spec, &[]).await;
        assert_eq!(host.error(&spec).await, "2 no tapdisk has aio:/nonexistent, open for writing");
        let left = disk("xvdb", "aio:/nonexistent", OUR_SCRIPT);
        host.attach(&left, &[]).await;
        assert!(host.error(&left).await.contains("--auto was not given"));
        host.close(readable);
    });
}

#[test]
fn a_tapdisk_is_started_for_a_disk_and_goes_with_it() {
    let host = Hosted::new(&["--auto"]);
    host.run(async {
        let image = format!("aio:{}", host.image("xvda").display());
        let spec = disk("xvda", &image, OUR_SCRIPT);
        // Twice: a toolstack that attaches it again finds nothing in its way.
        for _ in 0..2 {
            host.attach(&spec, &[]).await;
            let device = host.device(&spec).await;
            let workload = Workload::new(7, &device.connected().await.unwrap());
            workload.run(&device, 100, Pace::default()).await.unwrap();
            let pid: u32 = host.text(&spec, "pid").await.unwrap().parse().unwrap();
            let minor: u16 = host.text(&spec, "minor").await.unwrap().parse().unwrap();
            let socket = host.run.nbd_socket(pid, Minor::new(minor).unwrap()).display().to_string();
            assert_eq!(host.text(&spec, "physical-device-path").await, Some(socket));
            assert_eq!(host.disks(pid)[0].image.as_deref(), Some(&*image));
            assert!(host.toolstack.remove_disk(&spec, true, LONG).await.unwrap());
            host.until_no_tapdisk_is_left().await;
            drop(device);
        }
    });
    assert!(host.end().success());
    host.place_is_clean();
}

#[test]
fn a_disk_that_may_only_be_read_is_opened_like_that() {
    let host = Hosted::new(&["--auto"]);
    host.run(async {
        let image = format!("aio:{}", host.image("xvda").display());
        let spec = DiskSpec { read_only: true, ..disk("xvda", &image, OUR_SCRIPT) };
        host.attach(&spec, &[]).await;
        let device = host.device(&spec).await;
        device.connected().await.unwrap();
        let pid = host.text(&spec, "pid").await.unwrap().parse().unwrap();
        assert!(host.disks(pid)[0].geometry.unwrap().read_only);
        assert_eq!(host.text(&spec, "info").await.as_deref(), Some("4"));
        assert!(host.toolstack.remove_disk(&spec, true, LONG).await.unwrap());
        host.until_no_tapdisk_is_left().await;
    });
}

#[test]
fn what_was_started_for_an_image_that_cannot_be_opened_goes_again() {
    let host = Hosted::new(&["--auto"]);
    host.run(async {
        let spec = disk("xvda", "vhd:/nonexistent/a.vhd", OUR_SCRIPT);
        host.attach(&spec, &[]).await;
        let told = host.error(&spec).await;
        assert!(told.starts_with("2 ") && told.contains("/nonexistent/a.vhd"), "{told}");
        host.until_no_tapdisk_is_left().await;
        assert!(host.toolstack.remove_disk(&spec, true, LONG).await.unwrap());
    });
}

#[test]
fn another_script_than_ours_starts_nothing() {
    let host = Hosted::new(&["--auto"]);
    host.run(async {
        let spec = disk("xvda", &format!("aio:{}", host.image("xvda").display()), "/etc/xen/scripts/block");
        host.attach(&spec, &[]).await;
        assert!(host.error(&spec).await.starts_with("2 no tapdisk has aio:/"));
        assert_eq!(host.run.minors().unwrap(), []);
    });
}

#[test]
fn two_devices_share_a_disk_until_the_last_has_gone() {
    let host = Hosted::new(&["--auto"]);
    host.run(async {
        let image = format!("aio:{}", host.image("shared").display());
        let specs = ["xvda", "xvdb"].map(|name| DiskSpec { read_only: true, ..disk(name, &image, OUR_SCRIPT) });
        let mut pids = Vec::new();
        for spec in &specs {
            host.attach(spec, &[]).await;
            host.device(spec).await.connected().await.unwrap();
            pids.push(host.text(spec, "pid").await.unwrap());
        }
        assert_eq!(pids[0], pids[1]);
        assert!(host.toolstack.remove_disk(&specs[0], true, LONG).await.unwrap());
        // A backend that starts now knows whose it is, too.
        host.kill();
        host.start(&["--auto"]);
        assert_eq!(host.disks(pids[0].parse().unwrap()).len(), 1);
        assert!(host.toolstack.remove_disk(&specs[1], true, LONG).await.unwrap());
        host.until_no_tapdisk_is_left().await;
    });
}

#[test]
fn a_disk_that_a_guest_may_write_to_is_no_other_guests() {
    let host = Hosted::new(&["--auto"]);
    host.run(async {
        let other = xen::DomainId(8);
        host.toolstack.add_domain(other, 4096).await.unwrap();
        let vm = |domain| format!("/local/domain/{domain}/vm").parse().unwrap();
        host.store.write(&vm(7), b"/vm/a").await.unwrap();
        host.store.write(&vm(8), b"/vm/b").await.unwrap();
        let image = format!("aio:{}", host.image("xvda").display());
        let spec = disk("xvda", &image, OUR_SCRIPT);
        host.attach(&spec, &[]).await;
        host.device(&spec).await.connected().await.unwrap();
        let thief = DiskSpec { domain: other, read_only: true, ..spec.clone() };
        host.attach(&thief, &[]).await;
        assert_eq!(host.error(&thief).await, "16 its image is in use by domain 7");
        assert!(host.toolstack.remove_disk(&thief, true, LONG).await.unwrap());
        // A guest that moves within its host is another domain, and the same machine.
        host.store.write(&vm(8), b"/vm/a").await.unwrap();
        let moved = DiskSpec { read_only: false, ..thief };
        host.attach(&moved, &[]).await;
        let watch = host.store.watch(&host.node(&moved, "pid"));
        while host.text(&moved, "pid").await.is_none() {
            watch.next().await;
        }
        assert_eq!(host.text(&moved, "pid").await, host.text(&spec, "pid").await);
        for spec in [&moved, &spec] {
            assert!(host.toolstack.remove_disk(spec, true, LONG).await.unwrap());
        }
        host.until_no_tapdisk_is_left().await;
    });
}

#[test]
fn a_tapdisk_that_does_not_answer_is_in_nobodys_way() {
    let host = Hosted::new(&["--auto"]);
    host.run(async {
        let stuck = host.open(&format!("aio:{}", host.image("stuck").display()));
        let process = host.process(stuck.0);
        process.stop().unwrap();
        let spec = disk("xvda", "/dev/x", "block-tap");
        let socket = host.run.nbd_socket(stuck.0, stuck.1).display().to_string();
        host.attach(&spec, &[("physical-device-path", &socket)]).await;
        let waiting = host.device(&spec).await;
        let names = (1..=NEIGHBOURS).map(|index| format!("xvd{}", char::from(b'a' + index)));
        let neighbours: Vec<DiskSpec> =
            names.map(|name| disk(&name, &format!("aio:{}", host.image(&name).display()), OUR_SCRIPT)).collect();
        for spec in &neighbours {
            host.attach(spec, &[]).await;
        }
        for spec in &neighbours {
            host.device(spec).await.connected().await.unwrap();
        }
        assert_eq!(host.text(&spec, "state").await.as_deref(), Some("2"), "it waits, and nobody with it");
        for spec in &neighbours {
            assert!(host.toolstack.remove_disk(spec, true, LONG).await.unwrap());
        }
        process.signal(rustix::process::Signal::CONT).unwrap();
        waiting.connected().await.unwrap();
        assert!(host.toolstack.remove_disk(&spec, true, LONG).await.unwrap());
        host.close(stuck);
        process.release();
    });
}
