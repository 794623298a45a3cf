//! Nothing is left behind, however often.

use std::fs;

use crate::host::{Host, aio, names};

fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

fn threads(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/task")).unwrap().count()
}

#[test]
fn processes_come_and_go_without_a_trace() {
    let host = Host::new();
    let image = aio(&host.raw_image("a.img", 1 << 20));
    for _ in 0..test_support::cycles(100, 1000) {
        let minor = host.run.allocate_minor().unwrap();
        let pid = host.spawn();
        let (client, slot) = (host.client(pid), minor);
        client.attach(slot).unwrap();
        client.open(slot, &control_api::OpenRequest::new(image.clone()).unwrap()).unwrap();
        client.close(slot).unwrap();
        client.detach(slot).unwrap();
        host.run.free_minor(slot).unwrap();
        assert!(!host.run.control_socket(pid).exists(), "the socket goes before the answer");
    }
    assert_eq!(host.ok(&["list"]), "");
    host.place.assert_nothing_left();
    assert_eq!(names(host.run.path()), ["tapdisk"]);
}

#[test]
fn disks_come_and_go_in_one_process() {
    let host = Host::new();
    let image = aio(&host.raw_image("a.img", 1 << 20));
    let (pid, _) = host.attached(1);
    let client = host.client(pid);
    let cycle = || {
        let minor = host.run.allocate_minor().unwrap();
        client.attach(minor).unwrap();
        client.open(minor, &control_api::OpenRequest::new(image.clone()).unwrap()).unwrap();
        client.pause(minor).unwrap();
        client.resume(minor, &control_api::OpenRequest::default()).unwrap();
        client.close(minor).unwrap();
        client.detach(minor).unwrap();
        host.run.free_minor(minor).unwrap();
    };
    (0..5).for_each(|_| cycle());
    // A thread that has said its last word may need a moment to be gone.
    let settled = || (descriptors(pid), threads(pid));
    crate::host::eventually("threads end", || threads(pid) <= 4);
    let before = settled();
    (0..test_support::cycles(50, 1000)).for_each(|_| cycle());
    crate::host::eventually("nothing grows", || settled() <= before);
}
