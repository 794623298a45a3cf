//! A tapdisk that was killed leaves files; they harm nobody, and the next one removes them.

use crate::host::{Host, LONG, aio, names};
use test_support::ProcessGuard;

#[test]
fn the_next_tapdisk_removes_what_a_killed_one_left() {
    let host = Host::new();
    let image = aio(&host.raw_image("a.img", 1 << 20));
    host.ok(&["create", "-a", &image]);
    let pid = host.run.tapdisks().unwrap()[0];
    let killed = ProcessGuard::new(pid).unwrap();
    killed.kill().unwrap();
    assert!(killed.wait_for_end(LONG).unwrap());

    assert!(names(host.run.path()).len() > 4, "sockets are left");
    assert_eq!(host.ok(&["list"]), "minor=0\n");
    assert_eq!(host.fails(&["pause", "-p", &pid.to_string(), "-m", "0"]).0, 111);
    host.ok(&["free", "-m", "0"]);

    // A new one, for the same image.
    host.ok(&["create", "-a", &image]);
    let next = host.run.tapdisks().unwrap();
    assert_eq!(next.len(), 1);
    assert_ne!(next[0], pid);
    assert!(!host.run.shared_memory(pid).exists());
    assert_eq!(names(&host.run.metrics()), [format!("tap-{}-0", next[0])]);
    host.ok(&["destroy", "-p", &next[0].to_string(), "-m", "0"]);
    host.place.assert_nothing_left();
}

#[test]
fn those_that_live_are_let_alone() {
    let host = Host::new();
    let pids: Vec<u32> = (0..3).map(|_| host.spawn()).collect();
    for pid in pids {
        assert_eq!(host.client(pid).pid().unwrap(), pid);
    }
}
