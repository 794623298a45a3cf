//! A disk that is paused, snapshotted and resumed under a client that goes on writing and verifying.

use std::process::Stdio;

use crate::{
    plain_reader,
    served::{Host, LONG, assert_same},
};

#[test]
fn snapshots_under_load_lose_nothing() {
    let host = Host::new();
    host.vhd_util("create -n disk0.vhd -s 32");
    let disk = host.serve(&host.image("vhd", "disk0.vhd"));
    disk.io(&["write -P 7 24M 8M"]);
    let mut fio = host.tool("fio");
    fio.args(["--name=load", "--ioengine=nbd", "--rw=randwrite", "--bs=4k", "--iodepth=16", "--size=24m"]);
    fio.args(["--verify=crc32c", "--verify_fatal=1", "--verify_backlog=32", "--time_based", "--runtime=60"]);
    fio.arg(format!("--uri={}", disk.uri())).stdout(Stdio::null()).stderr(Stdio::null());
    let mut fio = fio.spawn().unwrap();
    for level in 1..=4 {
        std::thread::sleep(std::time::Duration::from_millis(150));
        assert!(fio.try_wait().unwrap().is_none(), "the load ended by itself");
        disk.tap_ctl("pause");
        host.vhd_util(&format!("snapshot -n disk{level}.vhd -p disk{}.vhd -e", level - 1));
        disk.resume(&host.image("vhd", &format!("disk{level}.vhd")));
    }
    std::thread::sleep(std::time::Duration::from_millis(150));
    assert!(fio.try_wait().unwrap().is_none(), "the load ended by itself");
    // It ends well: what it has written so far it verifies.
    rustix::process::kill_process(pid_of(&fio), rustix::process::Signal::INT).unwrap();
    let deadline = std::time::Instant::now() + LONG;
    let status = loop {
        if let Some(status) = fio.try_wait().unwrap() {
            break status;
        }
        assert!(std::time::Instant::now() < deadline, "fio does not end");
        std::thread::sleep(std::time::Duration::from_millis(20));
    };
    assert!(status.success() || status.code() == Some(128), "fio: {status}");
    disk.io(&["read -P 7 24M 8M"]);
    let served = disk.contents();
    disk.close();
    assert_same(&plain_reader::contents(&host.path("disk4.vhd")), &served, "the chain");
    assert_eq!(host.vhd_util("query -n disk4.vhd -d"), "chain depth: 5\n");
    host.place.assert_nothing_left();
}

fn pid_of(child: &std::process::Child) -> rustix::process::Pid {
    rustix::process::Pid::from_child(child)
}
