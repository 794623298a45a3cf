//! Signals: the log is begun anew, the state is dumped, and the process ends with its disks closed.

use std::fs;

use crate::host::{Host, LONG, aio, eventually};
use rustix::process::Signal;
use test_support::ProcessGuard;

fn open_disk(host: &Host) -> ProcessGuard {
    let (pid, minors) = host.attached(1);
    let image = aio(&host.raw_image("a.img", 1 << 20));
    host.ok(&["open", "-p", &pid.to_string(), "-m", &minors[0], "-a", &image]);
    ProcessGuard::new(pid).unwrap()
}

#[test]
fn told_to_end_it_closes_its_disks_and_leaves_nothing() {
    for signal in [Signal::INT, Signal::TERM] {
        let host = Host::new();
        let tapdisk = open_disk(&host);
        tapdisk.signal(signal).unwrap();
        assert!(tapdisk.wait_for_end(LONG).unwrap());
        assert_eq!(host.ok(&["list"]), "minor=0\n");
        host.ok(&["free", "-m", "0"]);
        host.place.assert_nothing_left();
    }
}

#[test]
fn a_process_without_disks_ends_too() {
    let host = Host::new();
    let tapdisk = ProcessGuard::new(host.spawn()).unwrap();
    tapdisk.signal(Signal::TERM).unwrap();
    assert!(tapdisk.wait_for_end(LONG).unwrap());
    host.place.assert_nothing_left();
}

#[test]
fn a_dump_is_written_and_kept() {
    let host = Host::new();
    let tapdisk = open_disk(&host);
    tapdisk.signal(Signal::USR1).unwrap();
    let log = host.run.log_file(tapdisk.pid());
    let text = || fs::read_to_string(&log).unwrap_or_default();
    eventually("the dump", || text().contains("dump: 1 disks"));
    assert!(text().contains("minor=0 image=aio:") && text().contains("\"secs\": [ 0, 0 ]"), "{}", text());
    host.ok(&["destroy", "-p", &tapdisk.pid().to_string(), "-m", "0"]);
    assert!(tapdisk.wait_for_end(LONG).unwrap());
    assert!(text().contains("closing log, 0 errors"));
}

#[test]
fn a_log_that_was_moved_is_begun_anew() {
    let host = Host::new();
    let tapdisk = open_disk(&host);
    let log = host.run.log_file(tapdisk.pid());
    let moved = log.with_extension("1");
    fs::rename(&log, &moved).unwrap();
    tapdisk.signal(Signal::HUP).unwrap();
    eventually("a new log", || log.exists());
    // Neither of these ends it, or does anything else.
    tapdisk.signal(Signal::USR2).unwrap();
    tapdisk.signal(Signal::XFSZ).unwrap();
    assert_eq!(host.client(tapdisk.pid()).pid().unwrap(), tapdisk.pid());
}
