//! `oxtap doctor` and `oxtap ls`: disks, processes and devices, and what is left of them when somebody was killed.

use std::{
    fs::{self, File},
    os::unix::fs::FileTypeExt,
    path::Path,
    process::Command,
    time::{Duration, SystemTime},
};

use control_api::{RingRecordName, RingRecords, RunDir, make_directory};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
use serde_json::{Value, json};
use test_support::{ProcessGuard, RunDirectory};

use crate::{doctor::Xenstored, served::text};

/// Older than anything that somebody is still at work on.
const OLD: Duration = Duration::from_secs(16);

fn tap_ctl(place: &RunDirectory, words: &[&str]) -> String {
    let output = place.program("tap-ctl").args(words).output().unwrap();
    assert!(output.status.success(), "tap-ctl {words:?}: {output:?}");
    text(&output).trim().to_owned()
}

fn allocate(place: &RunDirectory) -> String {
    tap_ctl(place, &["allocate"]).rsplit('-').next().unwrap().to_owned()
}

/// An open disk of the storage side; its process and number.
fn disk(place: &RunDirectory, image: &str) -> (String, String) {
    let path = place.scratch().join(image);
    File::create(&path).unwrap().set_len(1 << 20).unwrap();
    let (minor, pid) = (allocate(place), tap_ctl(place, &["spawn"]));
    tap_ctl(place, &["attach", "-p", &pid, "-m", &minor]);
    tap_ctl(place, &["open", "-p", &pid, "-m", &minor, "-a", &format!("aio:{}", path.display())]);
    (pid, minor)
}

/// What was made last was made long ago.
fn grow_old(place: &RunDirectory) {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let then = Timespec { tv_sec: i64::try_from((now - OLD).as_secs()).unwrap(), tv_nsec: 0 };
    let times = Timestamps { last_access: then, last_modification: then };
    let files = |directory: &Path| fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    for path in files(place.path()).chain(files(&place.path().join("tapdisk"))) {
        utimensat(CWD, &path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
}

/// What the doctor says to programs, and its status.
fn examine(command: &mut Command) -> (Value, Option<i32>) {
    let output = command.output().unwrap();
    (serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}")), output.status.code())
}

fn doctor(place: &RunDirectory, words: &[&str]) -> (Value, Option<i32>) {
    examine(place.program("oxtap").args(["doctor", "--json"]).args(words).env("XENSTORED_PATH", "/nowhere"))
}

/// Kinds of what was found, and what has become of each.
fn fates(told: &Value) -> Vec<(String, Value)> {
    let orphans = told["orphans"].as_array().unwrap().iter();
    let mut fates: Vec<_> =
        orphans.map(|orphan| (orphan["kind"].as_str().unwrap().to_owned(), orphan["fate"].clone())).collect();
    fates.sort_by(|one, other| one.0.cmp(&other.0));
    fates
}

#[test]
fn what_somebody_leaves_who_is_killed_while_making_a_disk_is_found_and_cleared_away() {
    let place = RunDirectory::new();
    let (kept, kept_minor) = disk(&place, "kept");
    allocate(&place);
    tap_ctl(&place, &["spawn"]);
    let (empty, minor) = (tap_ctl(&place, &["spawn"]), allocate(&place));
    tap_ctl(&place, &["attach", "-p", &empty, "-m", &minor]);
    let (told, status) = doctor(&place, &["--repair"]);
    assert_eq!((fates(&told), status), (vec![], Some(0)), "somebody may still be at work");
    grow_old(&place);
    let found = |fate: &Value| ["empty-disk", "minor", "process"].map(|kind| (kind.to_owned(), fate.clone())).to_vec();
    let (told, status) = doctor(&place, &[]);
    assert_eq!((fates(&told), status), (found(&Value::Null), Some(1)));
    let (told, status) = doctor(&place, &["--repair"]);
    assert_eq!((fates(&told), status), (found(&json!("removed")), Some(0)), "{told}");
    grow_old(&place);
    let (told, status) = doctor(&place, &[]);
    assert_eq!((fates(&told), status), (vec![], Some(0)));
    let (pid, minor): (u32, u16) = (kept.parse().unwrap(), kept_minor.parse().unwrap());
    let processes = told["processes"].as_array().unwrap();
    assert_eq!((processes.len(), &processes[0]["pid"]), (1, &json!(pid)), "only that of an open disk");
    assert_eq!(processes[0]["minors"], json!([minor]));
    assert!(processes[0]["sockets"].as_array().unwrap().contains(&json!(format!("ctl{pid}"))));
    tap_ctl(&place, &["destroy", "-p", &kept, "-m", &kept_minor]);
    place.assert_nothing_left();
}

#[test]
fn what_a_killed_tapdisk_leaves_is_found_and_cleared_away() {
    let place = RunDirectory::new();
    let (pid, minor) = disk(&place, "a");
    let process = ProcessGuard::new(pid.parse().unwrap()).unwrap();
    process.kill().unwrap();
    assert!(process.wait_for_end(Duration::from_secs(60)).unwrap());
    let (told, status) = doctor(&place, &[]);
    let found = |fate: &Value| vec![("minor".to_owned(), fate.clone()), ("sockets".to_owned(), fate.clone())];
    assert_eq!((fates(&told), status), (found(&Value::Null), Some(1)));
    assert_eq!(told["minors"][0]["state"], "lost");
    let listed = text(&place.program("oxtap").arg("ls").output().unwrap());
    assert!(listed.contains("lost") && listed.contains(&format!("tapdisk {pid} has gone")), "{listed}");
    let (told, status) = doctor(&place, &["--repair"]);
    assert_eq!((fates(&told), status), (found(&json!("removed")), Some(0)), "{told}");
    assert_eq!(fs::read_dir(place.path()).unwrap().filter(|entry| entry.as_ref().unwrap().path().is_file()).count(), 0);
    assert!(!place.path().join("tapdisk").join(format!("tapdisk-{minor}")).exists());
    place.assert_nothing_left();
}

#[test]
fn what_is_known_of_rings_whose_device_has_gone_is_cleared_away() {
    let host = Xenstored::start();
    let run = RunDir::at(host.place.path());
    make_directory(run.shared_memory_root(), 0o755).unwrap();
    let records = RingRecords::new(&run);
    let name = |device| RingRecordName { domain: 7, device, ring: 0 };
    for device in [51712, 51728] {
        drop(records.hold(name(device), 4096).unwrap());
    }
    let served = records.hold(name(51744), 4096).unwrap();
    host.nodes().write("/local/domain/0/backend/vbd3/7/51728/frontend", "/local/domain/7/device/vbd/51728");
    let (told, status) = host.doctor(&[]);
    assert!(told.contains("ring 7-51712: its device and its tapdisk have gone") && status == Some(1), "{told}");
    assert!(!told.contains("ring 7-51728") && !told.contains("ring 7-51744"), "{told}");
    host.doctor(&["--repair"]);
    assert_eq!(records.all(), [name(51728), name(51744)], "a device may come for it, or a tapdisk serves it");
    drop(served);
}

#[test]
fn everything_is_listed_with_its_state() {
    let host = Xenstored::start();
    let (pid, minor) = disk(&host.place, "a");
    let device = "/local/domain/0/backend/vbd3/7/51712";
    for (node, value) in [
        ("frontend", "/local/domain/7/device/vbd/51712"),
        ("state", "4"),
        ("physical-device-path", &format!("/run/blktap-control/nbd{pid}.{minor}")),
    ] {
        host.nodes().write(&format!("{device}/{node}"), value);
    }
    host.nodes().write("/local/domain/7/device/vbd/51712/state", "3");
    host.nodes().write("/local/domain/0/backend/vbd3/9/51728/frontend", "/local/domain/9/device/vbd/51728");
    let (told, status) = host.doctor(&[]);
    let lines: Vec<&str> = told.lines().collect();
    let image = host.place.scratch().join("a");
    let is_socket = |path: &Path| fs::symlink_metadata(path).unwrap().file_type().is_socket();
    let sockets =
        fs::read_dir(host.place.path()).unwrap().filter(|entry| is_socket(&entry.as_ref().unwrap().path())).count();
    assert_eq!(
        lines,
        [
            format!("tapdisk {pid}: minor {minor}, {sockets} sockets"),
            format!("minor {minor}: running, tapdisk {pid}, aio:{}, owner storage", image.display()),
            format!("vbd vbd3/7/51712: Connected, frontend Initialised, minor {minor} of tapdisk {pid}"),
            "vbd vbd3/9/51728: Unknown, frontend Unknown, its guest has gone, no disk named".to_owned(),
            "nothing to repair".to_owned(),
        ]
    );
    assert_eq!(status, Some(0));
    let listed = host.place.program("oxtap").arg("ls").env("XENSTORED_PATH", host.socket()).output().unwrap();
    let listed = text(&listed);
    let lines: Vec<&str> = listed.lines().collect();
    assert_eq!(
        lines[2],
        format!("     vbd vbd3/7/51712: Connected, frontend Initialised, minor {minor} of tapdisk {pid}")
    );
    assert!(lines[3].contains("no disk") && lines[4].contains("vbd3/9/51728"), "{listed}");
    let mut command = host.place.program("oxtap");
    let (told, _) = examine(command.args(["ls", "--json"]).env("XENSTORED_PATH", host.socket()));
    assert_eq!(
        (&told[0]["devices"][0]["device"], &told[0]["devices"][0]["state"]),
        (&json!("vbd3/7/51712"), &json!("Connected"))
    );
    assert_eq!((&told[1]["pid"], &told[1]["devices"][0]["number"]), (&Value::Null, &json!(51728)));
    tap_ctl(&host.place, &["destroy", "-p", &pid, "-m", &minor]);
}

#[test]
fn a_device_whose_tapdisk_has_gone_is_told_and_left_to_its_toolstack() {
    let host = Xenstored::start();
    let device = "/local/domain/0/backend/vbd3/7/51712";
    for (node, value) in
        [("frontend", "/local/domain/7/device/vbd/51712"), ("state", "4"), ("pid", "4194305"), ("minor", "3")]
    {
        host.nodes().write(&format!("{device}/{node}"), value);
    }
    for words in [&["--json"][..], &["--json", "--repair"]] {
        let (told, status) = host.doctor(words);
        let told: Value = serde_json::from_str(&told).unwrap();
        let orphan = &told["orphans"][0];
        assert_eq!((&orphan["kind"], &orphan["device"]), (&json!("device"), &json!("vbd3/7/51712")));
        assert_eq!(status, Some(1));
    }
    assert!(host.nodes().has(&format!("{device}/state")));
}

#[test]
fn the_directory_of_a_device_that_has_closed_goes_when_its_guest_has_gone() {
    let host = Xenstored::start();
    let device = "/local/domain/0/backend/vbd3/7/51712";
    host.nodes().write(&format!("{device}/frontend"), "/local/domain/7/device/vbd/51712");
    host.nodes().write(&format!("{device}/state"), "6");
    host.nodes().write("/local/domain/7/vm", "");
    assert_eq!(host.doctor(&["--repair"]).1, Some(0));
    assert!(host.nodes().has(&format!("{device}/state")), "its guest may come back to it");
    host.nodes().remove("/local/domain/7");
    assert_eq!(host.doctor(&[]).1, Some(1));
    let (told, status) = host.doctor(&["--repair"]);
    assert_eq!(
        (told.contains("it has ended, and its guest has gone: cleared away"), status),
        (true, Some(0)),
        "{told}"
    );
    assert!(!host.nodes().has("/local/domain/0/backend/vbd3/7"));
}
