//! fio writes through NBD with checksums in its blocks and reads them back, on every engine and every kind of image.

use crate::served::{Host, run};

/// Parts of the disk for jobs that run at the same time: scattered and mixed, deep and small, sequential and large.
const JOBS: &str = "
[global]
ioengine=nbd
verify=crc32c
verify_fatal=1
verify_backlog=64
group_reporting=1
randseed=SEED
uri=URI

[mixed]
rw=randwrite
bssplit=512/20:4k/40:20k/20:64k/15:256k/5
iodepth=16
offset=0
size=8m

[deep]
rw=randrw
rwmixread=30
bs=4k
iodepth=64
offset=8m
size=6m

[ascending]
rw=write
bs=256k
iodepth=4
offset=14m
size=10m

[odd]
rw=randwrite
bsrange=1k-33k
blockalign=512
iodepth=2
; Its blocks may overlap; two of them in flight have no order, and a check of the first would depend on it.
serialize_overlap=1
offset=24m
size=4m
";

fn verified(engine: &str, prepare: fn(&Host) -> String) {
    let host = Host::new();
    let image = prepare(&host);
    let disk = host.serve_with(engine, &image);
    let seed = (test_support::seed() % 1_000_000).to_string();
    std::fs::write(host.path("load.fio"), JOBS.replace("URI", &disk.uri()).replace("SEED", &seed)).unwrap();
    run(host.tool("fio").arg("--output-format=terse").arg("load.fio"));
    disk.close();
    // What was verified through the running disk is there when it is opened again.
    let disk = host.serve_with(engine, &image);
    let mut again = host.tool("fio");
    again.args(["--output-format=terse", "--verify_only=1", "--section=ascending", "load.fio"]);
    std::fs::write(host.path("load.fio"), JOBS.replace("URI", &disk.uri()).replace("SEED", &seed)).unwrap();
    run(&mut again);
    disk.close();
    host.place.assert_nothing_left();
}

fn raw(host: &Host) -> String {
    host.raw("a.raw", 32 << 20);
    host.image("aio", "a.raw")
}

fn dynamic(host: &Host) -> String {
    host.vhd_util("create -n a.vhd -s 32");
    host.image("vhd", "a.vhd")
}

/// A chain in which every level has something, in every block.
fn three_levels(host: &Host) -> String {
    host.vhd_util("create -n a.vhd -s 32");
    for (image, child) in [("a.vhd", Some("b.vhd")), ("b.vhd", Some("c.vhd")), ("c.vhd", None)] {
        let disk = host.serve(&host.image("vhd", image));
        let commands: Vec<String> =
            (0..16).map(|block| format!("write -q -P 7 {}k 300k", block * 2048 + 100)).collect();
        disk.io(&commands);
        disk.close();
        if let Some(child) = child {
            host.vhd_util(&format!("snapshot -n {child} -p {image}"));
        }
    }
    host.image("vhd", "c.vhd")
}

#[test]
fn raw_by_io_uring() {
    verified("io_uring", raw);
}

#[test]
fn raw_by_libaio() {
    verified("libaio", raw);
}

#[test]
fn raw_by_threads() {
    verified("threads", raw);
}

#[test]
fn dynamic_by_io_uring() {
    verified("io_uring", dynamic);
}

#[test]
fn dynamic_by_libaio() {
    verified("libaio", dynamic);
}

#[test]
fn dynamic_by_threads() {
    verified("threads", dynamic);
}

#[test]
fn three_levels_by_io_uring() {
    verified("io_uring", three_levels);
}

#[test]
fn three_levels_by_libaio() {
    verified("libaio", three_levels);
}

#[test]
fn three_levels_by_threads() {
    verified("threads", three_levels);
}
