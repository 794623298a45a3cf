//! `destroy` answers when it is done, with the real error and the step that it is about.

use test_support::ProcessGuard;

use crate::host::{Host, LONG, aio, said};

/// The device whose script `tap-ctl` runs in.
const DEVICE: &str = "backend/vbd3/7/51712";

/// A disk that a device's script has made.
fn made_by_a_script(host: &Host) -> u32 {
    let image = aio(&host.raw_image("disk", 1 << 20));
    let made = said(host.command(&["create", "-a", &image]).env("XENBUS_PATH", DEVICE).output().unwrap());
    assert_eq!((made.status, made.stderr.as_str()), (0, ""));
    host.run.tapdisks().unwrap()[0]
}

fn kill(pid: u32) {
    let tapdisk = ProcessGuard::new(pid).unwrap();
    tapdisk.kill().unwrap();
    assert!(tapdisk.wait_for_end(LONG).unwrap());
}

#[test]
fn the_step_that_fails_is_named() {
    let host = Host::new();
    let (pid, _) = host.attached(1);
    let pid = pid.to_string();
    let (status, line) = host.fails(&["destroy", "-p", &pid, "-m", "7"]);
    assert_eq!((status, line.as_str()), (19, "close: minor 7 is not attached here: No such device"));
    assert_eq!(host.fails(&["destroy", "-p", "1073741824", "-m", "0"]).0, 2);
    // What failed can be done again.
    host.ok(&["destroy", "-p", &pid, "-m", "0"]);
    host.place.assert_nothing_left();
}

#[test]
fn what_is_closed_already_is_taken_away() {
    let host = Host::new();
    let (pid, _) = host.attached(1);
    host.ok(&["close", "-p", &pid.to_string(), "-m", "0"]);
    host.ok(&["destroy", "-p", &pid.to_string(), "-m", "0", "-t", "30"]);
    host.place.assert_nothing_left();
}

#[test]
fn what_a_tapdisk_that_was_killed_has_left_is_taken_away() {
    let host = Host::new();
    let pid = made_by_a_script(&host);
    kill(pid);
    // As the stock script calls it. Once more is as good.
    host.ok(&["destroy", "-p", &pid.to_string(), "-m", "0"]);
    host.ok(&["destroy", "-p", &pid.to_string(), "-m", "0"]);
    assert_eq!(host.run.minors().unwrap(), []);
    host.place.assert_nothing_left();
}

#[test]
fn a_disk_that_another_tapdisk_has_got_is_destroyed_there_for_its_own_device_only() {
    let host = Host::new();
    let dead = made_by_a_script(&host);
    kill(dead);
    // As the daemon does that brings a disk back.
    let next = host.spawn();
    host.ok(&["attach", "-p", &next.to_string(), "-m", "0"]);
    let line = ["destroy", "-p", &dead.to_string(), "-m", "0"];
    for stranger in ["", "backend/vbd3/8/51712"] {
        let said = said(host.command(&line).env("XENBUS_PATH", stranger).output().unwrap());
        assert_ne!(said.status, 0, "it is another's disk: {said:?}");
        assert_eq!(host.run.tapdisks().unwrap(), [next]);
    }
    let said = said(host.command(&line).env("XENBUS_PATH", DEVICE).output().unwrap());
    assert_eq!((said.status, said.stderr.as_str()), (0, ""));
    assert_eq!(host.run.minors().unwrap(), []);
    host.place.assert_nothing_left();
}
