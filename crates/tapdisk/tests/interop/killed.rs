//! A tapdisk that is killed under load: what was flushed is there, the next one finds a sound image, and nothing stays.

use std::process::Stdio;

use crate::served::{Host, LONG, as_qemu_reads};

/// Flushes something, kills the process while others write, and looks.
fn killed_under_load(engine: &str, prepare: fn(&Host) -> String) {
    let host = Host::new();
    let image = prepare(&host);
    let disk = host.serve_with(engine, &image);
    disk.io(&["write -P 7 0 4M", "write -P 8 5M 100k", "discard 1M 64k", "flush"]);
    let mut fio = host.tool("fio");
    fio.args(["--name=load", "--ioengine=nbd", "--rw=randwrite", "--bs=4k", "--iodepth=32"]);
    fio.args(["--offset=8m", "--size=24m", "--time_based", "--runtime=60"]).arg(format!("--uri={}", disk.uri()));
    let mut fio = fio.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let wrote = || std::fs::metadata(host.path("leaf")).unwrap().len() > (8 << 20) || engine_has_written(&disk);
    let deadline = std::time::Instant::now() + LONG;
    while !wrote() {
        assert!(std::time::Instant::now() < deadline, "no load arrives");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let process = disk.process();
    process.kill().unwrap();
    assert!(process.wait_for_end(LONG).unwrap());
    fio.kill().unwrap();
    fio.wait().unwrap();

    // Its minor is still taken, since nobody else can know that it will not be used; a storage manager frees it.
    assert_eq!(host.ours("tap-ctl", &["list"]), "minor=0\n");
    host.ours("tap-ctl", &["free", "-m", "0"]);
    // What else is left of it does not keep the next one from starting at once.
    let again = host.serve_with(engine, &image);
    again.io(&["read -P 7 0 1M", "read -P 0 1M 64k", "read -P 7 1088k 3008k", "read -P 8 5M 100k", "read 8M 24M"]);
    again.io(&["write -P 9 8M 24M", "flush", "read -P 9 8M 24M"]);
    again.close();
    host.place.assert_nothing_left();
    if image.ends_with("a.vhd") {
        assert!(as_qemu_reads(&host, "a.vhd")[8 << 20..].iter().all(|byte| *byte == 9), "qemu reads the same");
    }
}

/// Sectors written, as the statistics tell.
fn engine_has_written(disk: &crate::served::Served<'_>) -> bool {
    let told = disk.tap_ctl("stats");
    let (_, rest) = told.split_once("\"secs\": [ ").unwrap();
    let written = rest.split(']').next().unwrap().split(',').nth(1).unwrap().trim().parse::<u64>().unwrap();
    // What was written before the load, and some of the load.
    written > (5 << 11)
}

fn dynamic(host: &Host) -> String {
    host.vhd_util("create -n a.vhd -s 32");
    std::os::unix::fs::symlink("a.vhd", host.path("leaf")).unwrap();
    host.image("vhd", "a.vhd")
}

fn child(host: &Host) -> String {
    host.raw("a.raw", 32 << 20);
    host.vhd_util("snapshot -n b.vhd -p a.raw -m");
    std::os::unix::fs::symlink("b.vhd", host.path("leaf")).unwrap();
    host.image("vhd", "b.vhd")
}

#[test]
fn a_dynamic_image_survives() {
    for engine in ["io_uring", "libaio", "threads"] {
        killed_under_load(engine, dynamic);
    }
}

#[test]
fn a_child_survives() {
    killed_under_load("probe", child);
}
