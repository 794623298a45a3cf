//! Whole disks in and out.

use std::fs;

use crate::served::{Host, assert_same, run};

const DISK: usize = 24 << 20;

/// Data and holes in turn.
fn pattern() -> Vec<u8> {
    (0..DISK)
        .map(|at| if (at >> 20) % 3 == 1 { 0 } else { u8::try_from((at * 7 + (at >> 12)) % 251).unwrap() })
        .collect()
}

#[test]
fn nbdcopy_fills_a_disk_and_reads_it_back() {
    let host = Host::new();
    fs::write(host.path("source"), pattern()).unwrap();
    host.vhd_util("create -n a.vhd -s 24");
    host.raw("a.raw", DISK as u64);
    for image in [host.image("vhd", "a.vhd"), host.image("aio", "a.raw")] {
        let disk = host.serve(&image);
        run(host.tool("nbdcopy").arg("source").arg(disk.uri()));
        assert_same(&disk.contents(), &pattern(), &image);
        disk.close();
        let disk = host.serve(&image);
        assert_same(&disk.contents(), &pattern(), &format!("{image}, opened again"));
        disk.close();
    }
    assert_same(&fs::read(host.path("a.raw")).unwrap(), &pattern(), "the raw file");
    host.place.assert_nothing_left();
}

#[test]
fn nbdcopy_copies_from_disk_to_disk_without_the_holes() {
    let host = Host::new();
    fs::write(host.path("source"), pattern()).unwrap();
    host.vhd_util("create -n a.vhd -s 24");
    host.vhd_util("create -n b.vhd -s 24");
    let (one, other) = (host.serve(&host.image("vhd", "a.vhd")), host.serve(&host.image("vhd", "b.vhd")));
    run(host.tool("nbdcopy").arg("source").arg(one.uri()));
    run(host.tool("nbdcopy").args(["--destination-is-zero"]).arg(one.uri()).arg(other.uri()));
    assert_same(&other.contents(), &pattern(), "the copy");
    one.close();
    other.close();
}

#[test]
fn qemu_img_converts_into_a_disk_and_compares() {
    let host = Host::new();
    fs::write(host.path("source"), pattern()).unwrap();
    host.vhd_util("create -n a.vhd -s 24");
    let disk = host.serve(&host.image("vhd", "a.vhd"));
    run(host.tool("qemu-img").args(["convert", "-n", "-f", "raw", "-O", "raw", "source"]).arg(disk.uri()));
    run(host.tool("qemu-img").args(["compare", "-f", "raw", "-F", "raw", "source"]).arg(disk.uri()));
    disk.close();
}
