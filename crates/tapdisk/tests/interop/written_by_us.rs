//! What is written through a tapdisk reads the same through qemu and libvhdi.

use test_support::{VhdiMount, cycles, seed};

use crate::{
    oracle::Oracle,
    plain_reader,
    served::{Host, as_qemu_reads, assert_same},
};

const DISK: usize = 32 << 20;
const BLOCK: usize = 2 << 20;

/// Half of the disk in ascending order, in pieces that know nothing of blocks.
fn sequential(oracle: &mut Oracle) {
    let piece = 200 << 10;
    for offset in (0..DISK / 2).step_by(piece) {
        let byte = oracle.byte();
        oracle.write(offset, piece.min(DISK / 2 - offset), byte);
    }
}

/// Small pieces anywhere, in whole units.
fn scattered<const UNIT: usize>(oracle: &mut Oracle) {
    for _ in 0..cycles(100, 1000) {
        let length = oracle.pick(1..(32 << 10) / UNIT) * UNIT;
        let offset = oracle.pick(0..(DISK - length) / UNIT) * UNIT;
        let byte = oracle.byte();
        oracle.write(offset, length, byte);
    }
}

/// Large and small pieces over each other, whole blocks and parts given up, zeroes.
fn overlapping<const UNIT: usize>(oracle: &mut Oracle) {
    for _ in 0..cycles(70, 500) {
        let length = oracle.pick(1..(1500 << 10) / UNIT) * UNIT;
        let offset = oracle.pick(0..(DISK - length) / UNIT) * UNIT;
        let byte = oracle.byte();
        match oracle.pick(0..6) {
            0 => oracle.discard(offset, length),
            1 => oracle.zero(offset, length),
            2 => {
                let block = oracle.pick(0..DISK / BLOCK);
                oracle.discard(block * BLOCK, BLOCK);
            }
            _ => oracle.write(offset, length, byte),
        }
    }
}

fn change(host: &Host, image: &str, oracle: &mut Oracle, steps: &[fn(&mut Oracle)]) {
    let disk = host.serve(&host.image("vhd", image));
    for step in steps {
        step(oracle);
        disk.io(&oracle.take_commands());
    }
    assert_same(&disk.contents(), &oracle.bytes, "through NBD");
    disk.close();
}

#[test]
fn a_standalone_image_reads_the_same_through_qemu() {
    let host = Host::new();
    let mut oracle = Oracle::new(DISK, seed());
    host.vhd_util("create -n a.vhd -s 32");
    change(&host, "a.vhd", &mut oracle, &[sequential, scattered::<512>, overlapping::<512>]);
    assert_same(&as_qemu_reads(&host, "a.vhd"), &oracle.bytes, "qemu");
    // Opened again, the image goes on where it was.
    change(&host, "a.vhd", &mut oracle, &[overlapping::<512>]);
    assert_same(&as_qemu_reads(&host, "a.vhd"), &oracle.bytes, "qemu");
    host.place.assert_nothing_left();
}

#[test]
fn a_fixed_image_reads_the_same_through_qemu() {
    let host = Host::new();
    let mut oracle = Oracle::new(DISK, seed());
    host.vhd_util("create -n a.vhd -s 32 -r");
    change(&host, "a.vhd", &mut oracle, &[sequential, overlapping::<512>]);
    assert_same(&as_qemu_reads(&host, "a.vhd"), &oracle.bytes, "qemu");
    assert_eq!(host.path("a.vhd").metadata().unwrap().len(), (DISK + 512) as u64);
}

/// Three levels, each with something in it; the base's contents and the whole chain's.
fn three_levels<const UNIT: usize>(host: &Host) -> (Vec<u8>, Oracle) {
    let mut oracle = Oracle::new(DISK, seed());
    host.vhd_util("create -n a.vhd -s 32");
    change(host, "a.vhd", &mut oracle, &[sequential]);
    let base = oracle.bytes.clone();
    host.vhd_util("snapshot -n b.vhd -p a.vhd");
    oracle.snapshot();
    change(host, "b.vhd", &mut oracle, &[scattered::<UNIT>]);
    host.vhd_util("snapshot -n c.vhd -p b.vhd");
    oracle.snapshot();
    change(host, "c.vhd", &mut oracle, &[overlapping::<UNIT>, scattered::<UNIT>]);
    host.place.assert_nothing_left();
    (base, oracle)
}

#[test]
fn three_levels_read_the_same_through_libvhdi() {
    let test = "three_levels_read_the_same_through_libvhdi";
    let host = Host::new();
    // libvhdi (20210425) takes the rest of a byte of a bitmap for zeroes where a run ends inside it, so it is shown
    // whole pages; the plain reader below looks at sectors.
    let (_, oracle) = three_levels::<4096>(&host);
    let Some(mount) = VhdiMount::new(test, &host.path("c.vhd")) else { return };
    assert_same(&std::fs::read(mount.contents()).unwrap(), &oracle.bytes, "libvhdi");
}

#[test]
fn three_levels_read_the_same_sector_by_sector() {
    let host = Host::new();
    let (base, oracle) = three_levels::<512>(&host);
    assert_same(&plain_reader::contents(&host.path("c.vhd")), &oracle.bytes, "the chain");
    assert_same(&as_qemu_reads(&host, "a.vhd"), &base, "the base, through qemu");
}

#[test]
fn a_child_of_a_raw_image_hides_what_is_below_what_it_gave_up() {
    let host = Host::new();
    let mut oracle = Oracle::filled(DISK, 0xee, seed());
    std::fs::write(host.path("a.raw"), vec![0xee; DISK]).unwrap();
    host.vhd_util("snapshot -n b.vhd -p a.raw -m");
    // Blocks that the child never had, and blocks that it had.
    oracle.discard(0, 2 * BLOCK);
    oracle.write(4 * BLOCK, BLOCK, 1);
    oracle.discard(4 * BLOCK, BLOCK);
    oracle.discard(6 * BLOCK + 4096, 8192);
    change(&host, "b.vhd", &mut oracle, &[scattered::<512>]);
    change(&host, "b.vhd", &mut oracle, &[overlapping::<512>]);
    assert_same(&plain_reader::contents(&host.path("b.vhd")), &oracle.bytes, "the chain");
    assert!(std::fs::read(host.path("a.raw")).unwrap().iter().all(|byte| *byte == 0xee), "the parent is only read");
}
