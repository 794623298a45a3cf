//! Disks that are held back, and storage that fails to order.

use std::{
    fs,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use export::nbd::client::Client;
use serde_json::Value;
use test_support::RunDirectory;

use crate::tapdisk::{Tapdisk, json, oxtap, refused, succeed};

/// A hang limit.
const LIMIT: Duration = Duration::from_secs(60);

fn connect(disk: &Tapdisk<'_>) -> Client {
    Client::connect_unix(&disk.socket(), "").unwrap()
}

#[test]
fn limits_are_set_shown_and_lifted_one_by_one() {
    let place = RunDirectory::new();
    let disk = Tapdisk::start(&place, "a.vhd");
    assert_eq!(oxtap(&place, &["limit", "0"]), "no limits\n");
    let set = oxtap(&place, &["limit", "0", "--iops", "500:2000", "--write-bandwidth", "10M", "--burst", "2"]);
    let expected = "LIMITED           RATE            BURST\n\
                    reads and writes  500 requests/s  2000 requests\n\
                    writes            10 MiB/s        20 MiB\n";
    assert_eq!(set, expected);
    assert_eq!(oxtap(&place, &["limit", "0"]), expected);
    let table = oxtap(&place, &["ls"]);
    assert!(table.contains("  500 IOPS, writes 10 MiB/s  "), "{table}");
    let metrics = oxtap(&place, &["metrics"]);
    assert!(metrics.contains(",scope=\"write\"} 10485760\n"), "{metrics}");
    let left = json(&place, &["limit", "0", "--iops", "none"]);
    assert_eq!((&left["total"]["requests"], &left["write"]["bytes"]["burst"]), (&Value::Null, &(20 << 20).into()));
    assert_eq!(oxtap(&place, &["limit", "0", "--none"]), "no limits\n");
    disk.destroy();
    place.assert_nothing_left();
}

#[test]
fn a_request_that_waits_for_its_limit_goes_on_when_that_is_lifted() {
    let place = RunDirectory::new();
    let disk = Tapdisk::start(&place, "a.vhd");
    oxtap(&place, &["limit", "0", "--write-bandwidth", "1:1"]);
    let mut nbd = connect(&disk);
    // The first may go into debt; at this rate the second would wait for more than a day.
    nbd.write(0, &[1; 128 << 10]).unwrap();
    let writing = thread::spawn(move || nbd.write(1 << 20, &[2; 4096]).map(|()| nbd));
    let begun = Instant::now();
    while json(&place, &["stats", "0"])["queues"][0]["throttled"] != 1 {
        assert!(begun.elapsed() < LIMIT, "nothing waits for the limit");
        thread::sleep(Duration::from_millis(10));
    }
    connect(&disk).read(0, &mut [0; 4096]).unwrap();
    // Nobody who wants the disk to rest waits for the limit.
    oxtap(&place, &["pause", "0", "--deadline", "60"]);
    oxtap(&place, &["resume", "0"]);
    oxtap(&place, &["limit", "0", "--none"]);
    writing.join().unwrap().unwrap();
    let statistics = json(&place, &["stats", "0"]);
    assert_eq!(statistics["throttled"]["requests"], 1);
    assert!(oxtap(&place, &["stats", "0"]).contains("\n  held back  1 request, for "));
    disk.destroy();
}

#[test]
fn a_service_whose_budget_is_shared_is_named_and_forgotten() {
    let place = RunDirectory::new();
    let disk = Tapdisk::start(&place, "a.vhd");
    oxtap(&place, &["budget", "0", "./gold"]);
    let expected = place.scratch().join("gold").display().to_string();
    assert_eq!(json(&place, &["stats", "0"])["valve"], expected);
    succeed(&mut disk.qemu_io(&["write 0 4k"]));
    // As a snapshot does: the images get another name, and it is still the same disk.
    oxtap(&place, &["pause", "0"]);
    fs::hard_link(&disk.image, place.scratch().join("b.vhd")).unwrap();
    oxtap(&place, &["resume", "0", "--image", "vhd:b.vhd"]);
    assert_eq!(json(&place, &["stats", "0"])["valve"], expected);
    oxtap(&place, &["budget", "0", "--none"]);
    assert_eq!(json(&place, &["stats", "0"])["valve"], Value::Null);
    let nothing = crate::tapdisk::run(&place, &["budget", "0"]);
    assert!(!nothing.status.success());
    disk.destroy();
}

#[test]
fn failures_are_shown_with_their_names_and_causes() {
    let place = RunDirectory::new();
    let disk = Tapdisk::with_faults(&place, "a.vhd");
    oxtap(&place, &["faults", "a.vhd", "write=ENOSPC"]);
    let output = disk.qemu_io(&["write 0 4k"]).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    assert!(!output.success());
    let stats = oxtap(&place, &["stats", "a.vhd"]);
    assert!(stats.contains("\nENOSPC  1      No space left on device\n  1 x write, "), "{stats}");
    let metrics = oxtap(&place, &["metrics"]);
    assert!(metrics.contains(",errno=\"ENOSPC\"} 1\n"), "{metrics}");
    oxtap(&place, &["faults", "a.vhd", "--none"]);
    succeed(&mut disk.qemu_io(&["write 0 4k"]));
    let (status, said) = refused(&place, &["faults", "a.vhd", "write=nonsense"]);
    assert_eq!(status, 22, "{said}");
    disk.destroy();
}

#[test]
fn a_disk_without_the_layer_does_not_fail_to_order() {
    let place = RunDirectory::new();
    let disk = Tapdisk::start(&place, "a.vhd");
    let (status, said) = refused(&place, &["faults", "a.vhd", "read=EIO"]);
    assert!(status > 1 && said.lines().count() == 1, "{status}: {said}");
    disk.destroy();
}
