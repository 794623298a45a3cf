//! Images that qemu made are served as they are, and what is written to them qemu reads.

use test_support::{cycles, seed};

use crate::{
    oracle::Oracle,
    served::{Host, as_qemu_reads, assert_same, run},
};

const DISK: usize = 16 << 20;

/// An image made and filled by qemu; what it holds.
fn made_by_qemu(host: &Host, options: &str, oracle: &mut Oracle) {
    run(host.tool("qemu-img").args(["create", "-q", "-f", "vpc", "-o", options, "a.vhd", "16M"]));
    let length = oracle.bytes.len();
    for _ in 0..40 {
        let piece = oracle.pick(1..400) * 512;
        let offset = oracle.pick(0..(length - piece) / 512) * 512;
        let byte = oracle.byte();
        oracle.write(offset, piece, byte);
    }
    let mut command = host.tool("qemu-io");
    command.args(["-f", "vpc", "a.vhd"]);
    for words in oracle.take_commands() {
        command.arg("-c").arg(words);
    }
    run(&mut command);
}

/// Serves the image, compares, writes, and lets qemu compare.
fn go_on(host: &Host, oracle: &mut Oracle) {
    let disk = host.serve(&host.image("vhd", "a.vhd"));
    assert_same(&disk.contents(), &oracle.bytes, "what qemu wrote");
    for _ in 0..cycles(40, 500) {
        let length = oracle.pick(1..2000) * 512;
        let offset = oracle.pick(0..(oracle.bytes.len() - length) / 512) * 512;
        let byte = oracle.byte();
        match oracle.pick(0..4) {
            0 => oracle.discard(offset, length),
            _ => oracle.write(offset, length, byte),
        }
    }
    disk.io(&oracle.take_commands());
    assert_same(&disk.contents(), &oracle.bytes, "what we wrote");
    disk.close();
    assert_same(&as_qemu_reads(host, "a.vhd"), &oracle.bytes, "what qemu reads");
}

/// Bytes of the disk, by qemu's own account: without `force_size` it takes what cylinders and heads can say.
fn disk_bytes(host: &Host) -> usize {
    let told = host.tool("qemu-img").args(["info", "-f", "vpc", "--output=json", "a.vhd"]).output().unwrap();
    let told = String::from_utf8(told.stdout).unwrap();
    let (_, rest) = told.rsplit_once("\"virtual-size\": ").unwrap();
    rest.split(|letter: char| !letter.is_ascii_digit()).next().unwrap().parse().unwrap()
}

#[test]
fn dynamic_images_of_exact_size() {
    let host = Host::new();
    let mut oracle = Oracle::new(DISK, seed());
    made_by_qemu(&host, "subformat=dynamic,force_size=on", &mut oracle);
    go_on(&host, &mut oracle);
}

#[test]
fn fixed_images_of_exact_size() {
    let host = Host::new();
    let mut oracle = Oracle::new(DISK, seed());
    made_by_qemu(&host, "subformat=fixed,force_size=on", &mut oracle);
    go_on(&host, &mut oracle);
}

#[test]
fn images_whose_size_follows_from_their_cylinders() {
    for subformat in ["dynamic", "fixed"] {
        let host = Host::new();
        let mut oracle = Oracle::new(DISK, seed());
        made_by_qemu(&host, &format!("subformat={subformat}"), &mut oracle);
        let bytes = disk_bytes(&host);
        assert!(bytes >= DISK && !bytes.is_multiple_of(2 << 20), "{subformat}: {bytes} bytes are no whole blocks");
        oracle.resize(bytes);
        go_on(&host, &mut oracle);
    }
}

#[test]
fn a_child_of_qemus_image_is_as_large_and_leaves_it_alone() {
    let host = Host::new();
    let mut oracle = Oracle::new(DISK, seed());
    made_by_qemu(&host, "subformat=dynamic", &mut oracle);
    let bytes = disk_bytes(&host);
    oracle.resize(bytes);
    oracle.snapshot();
    let before = std::fs::read(host.path("a.vhd")).unwrap();
    host.vhd_util("snapshot -n b.vhd -p a.vhd");
    let disk = host.serve(&host.image("vhd", "b.vhd"));
    assert_same(&disk.contents(), &oracle.bytes, "through the child");
    oracle.write(bytes - 1024, 1024, 9);
    oracle.write(4096, 512, 8);
    disk.io(&oracle.take_commands());
    assert_same(&disk.contents(), &oracle.bytes, "through the child");
    disk.close();
    assert_same(&std::fs::read(host.path("a.vhd")).unwrap(), &before, "the parent");
}
