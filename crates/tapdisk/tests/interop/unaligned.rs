//! Requests that begin and end anywhere, not only at sectors.

use test_support::{cycles, seed};

use crate::{
    oracle::Oracle,
    served::{Host, assert_same},
};

const DISK: usize = 8 << 20;

fn scattered_bytes(engine: &str, image: &str, host: &Host, below: u8) {
    let mut oracle = Oracle::filled(DISK, below, seed());
    let disk = host.serve_with(engine, image);
    for _ in 0..cycles(60, 1000) {
        let length = oracle.pick(1..9000);
        let offset = oracle.pick(0..DISK - length);
        let byte = oracle.byte();
        match oracle.pick(0..5) {
            0 => oracle.zero(offset, length),
            _ => oracle.write(offset, length, byte),
        }
    }
    // Across the end of a block, and at both ends of the disk.
    oracle.write(2_097_149, 7, 0x5a);
    oracle.write(0, 1, 0x5b);
    oracle.write(DISK - 1, 1, 0x5c);
    disk.io(&oracle.take_commands());
    assert_same(&disk.contents(), &oracle.bytes, image);
    let ends = ["read -P 91 0 1".to_owned(), format!("read -P 92 {} 1", DISK - 1), "read -P 90 2097149 7".to_owned()];
    disk.io(&ends);
    disk.close();
    let disk = host.serve_with(engine, image);
    assert_same(&disk.contents(), &oracle.bytes, &format!("{image}, opened again"));
    disk.close();
}

#[test]
fn on_a_raw_image() {
    for engine in ["io_uring", "libaio", "threads"] {
        let host = Host::new();
        host.raw("a.raw", DISK as u64);
        scattered_bytes(engine, &host.image("aio", "a.raw"), &host, 0);
    }
}

#[test]
fn on_a_child_whose_parent_has_data_everywhere() {
    for engine in ["io_uring", "libaio", "threads"] {
        let host = Host::new();
        std::fs::write(host.path("a.raw"), vec![0xee; DISK]).unwrap();
        host.vhd_util("snapshot -n b.vhd -p a.raw -m");
        scattered_bytes(engine, &host.image("vhd", "b.vhd"), &host, 0xee);
    }
}
