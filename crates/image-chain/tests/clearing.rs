//! Discard and write zeroes: room is given back where that shows nothing, and a parent never comes to light.

#![allow(clippy::unwrap_used, reason = "a test that panics has told its story")]

mod support;

use block_core::{ErrorKind, ExtentKind};
use storage_io::{TracedOperation, TracedStorage};
use support::{BLOCK, Disk, Host, range};

/// A leaf of three blocks, all written with 2, over a base whose first block is written with 1.
fn two_levels(host: &Host) -> Disk {
    host.vhd("/base.vhd", 3);
    host.write("vhd:/base.vhd", 0, &block_of(1));
    host.child("/leaf.vhd", "/base.vhd", 3);
    let disk = host.open("vhd:/leaf.vhd").unwrap();
    (0..3).for_each(|block| disk.write(block * BLOCK, &block_of(2)));
    disk
}

fn block_of(byte: u8) -> Vec<u8> {
    vec![byte; usize::try_from(BLOCK).unwrap()]
}

fn extents(disk: &Disk, start: u64, length: u64) -> Vec<(u64, ExtentKind)> {
    let extents = disk.run(disk.queue.extents(range(start, length), false)).unwrap();
    extents.iter().map(|extent| (extent.range.length(), extent.kind)).collect()
}

/// All bytes of the disk, as one block after the other.
fn first_bytes(disk: &Disk) -> Vec<u8> {
    (0..3).map(|block| disk.read(block * BLOCK, 1)[0]).collect()
}

#[test]
fn a_discarded_block_without_parent_data_is_freed() {
    let host = Host::new();
    let disk = two_levels(&host);
    disk.discard(BLOCK, BLOCK);
    assert_eq!(first_bytes(&disk), [2, 0, 2]);
    assert_eq!(
        extents(&disk, 0, 3 * BLOCK),
        [(BLOCK, ExtentKind::Data), (BLOCK, ExtentKind::Hole), (BLOCK, ExtentKind::Data)]
    );
    disk.close();
}

#[test]
fn a_discarded_block_over_parent_data_reads_as_zero() {
    let host = Host::new();
    let disk = two_levels(&host);
    disk.discard(0, BLOCK);
    assert!(disk.read(0, block_of(0).len()) == block_of(0), "neither the old bytes nor the parent's");
    disk.close();
    let disk = host.open("vhd:/leaf.vhd").unwrap();
    assert_eq!(first_bytes(&disk), [0, 2, 2], "nor after the disk was opened again");
    disk.close();
}

#[test]
fn a_discard_leaves_alone_what_only_the_parent_has() {
    let host = Host::new();
    two_levels(&host).close();
    host.child("/new.vhd", "/leaf.vhd", 3);
    let before = host.bytes("/new.vhd");
    let disk = host.open("vhd:/new.vhd").unwrap();
    disk.discard(0, 3 * BLOCK);
    assert_eq!(first_bytes(&disk), [2, 2, 2]);
    disk.close();
    assert_eq!(host.bytes("/new.vhd").len(), before.len(), "nothing was allocated for it");
}

#[test]
fn a_discarded_block_that_the_leaf_has_in_part_reads_as_zero_all_over() {
    let host = Host::new();
    two_levels(&host).close();
    host.child("/new.vhd", "/leaf.vhd", 3);
    let disk = host.open("vhd:/new.vhd").unwrap();
    disk.write(4096, &[3; 512]);
    disk.discard(0, BLOCK);
    assert!(disk.read(0, block_of(0).len()) == block_of(0), "neither what was written nor what the parent has");
    disk.close();
    let disk = host.open("vhd:/new.vhd").unwrap();
    assert_eq!(first_bytes(&disk), [0, 2, 2], "nor after the disk was opened again");
    disk.close();
}

#[test]
fn a_write_of_a_few_bytes_keeps_the_parents_bytes_around_them() {
    let host = Host::new();
    two_levels(&host).close();
    host.child("/new.vhd", "/leaf.vhd", 3);
    let disk = host.open("vhd:/new.vhd").unwrap();
    disk.write(1000, &[3; 600]);
    let expected = [[2; 1000].as_slice(), &[3; 600], &[2; 1000]].concat();
    assert!(disk.read(0, 2600) == expected);
    disk.close();
}

#[test]
fn a_discard_inside_a_block_clears_whole_sectors_only() {
    let host = Host::new();
    let disk = two_levels(&host);
    disk.discard(100, 2000);
    assert_eq!(disk.read(0, 512), [2; 512]);
    assert_eq!(disk.read(512, 1536), [0; 1536]);
    assert_eq!(disk.read(2048, 512), [2; 512], "sectors that are covered in part stay");
    disk.close();
}

#[test]
fn zeroes_over_a_parent_hide_it() {
    let host = Host::new();
    two_levels(&host).close();
    host.child("/new.vhd", "/leaf.vhd", 3);
    let disk = host.open("vhd:/new.vhd").unwrap();
    disk.zero(1000, BLOCK + 24, true);
    assert_eq!(disk.read(0, 1000), [2; 1000]);
    assert_eq!(disk.read(1000, 1 << 20), vec![0; 1 << 20]);
    assert_eq!(disk.read(BLOCK + 1023, 2), [0, 2]);
    disk.close();
    let disk = host.open("vhd:/new.vhd").unwrap();
    assert_eq!(disk.read(999, 2), [2, 0]);
    assert_eq!(disk.read(BLOCK + 1023, 2), [0, 2]);
    disk.close();
}

#[test]
fn zeroes_where_nobody_has_data_cost_nothing() {
    let host = Host::new();
    host.vhd("/a.vhd", 3);
    let before = host.bytes("/a.vhd");
    let disk = host.open("vhd:/a.vhd").unwrap();
    disk.zero(0, 3 * BLOCK, true);
    disk.zero(0, 3 * BLOCK, false);
    assert_eq!(extents(&disk, 0, 3 * BLOCK), [(3 * BLOCK, ExtentKind::Hole)]);
    disk.close();
    assert!(host.bytes("/a.vhd") == before);
}

#[test]
fn zeroes_that_must_not_free_keep_the_room() {
    let host = Host::new();
    let disk = two_levels(&host);
    disk.zero(BLOCK, BLOCK, false);
    assert_eq!(extents(&disk, BLOCK, BLOCK), [(BLOCK, ExtentKind::Data)]);
    disk.zero(BLOCK, BLOCK, true);
    assert_eq!(extents(&disk, BLOCK, BLOCK), [(BLOCK, ExtentKind::Hole)]);
    assert_eq!(first_bytes(&disk), [2, 0, 2]);
    disk.close();
}

#[test]
fn freed_room_is_used_again() {
    let host = Host::new();
    let disk = two_levels(&host);
    disk.run(disk.home.flush()).unwrap();
    let length = host.bytes("/leaf.vhd").len();
    for round in 3..20 {
        disk.discard(BLOCK, BLOCK);
        disk.write(BLOCK, &block_of(round));
        assert_eq!(first_bytes(&disk), [2, round, 2]);
    }
    disk.close();
    assert!(host.bytes("/leaf.vhd").len() <= length, "the file does not grow with each round");
}

#[test]
fn a_raw_disk_passes_discards_and_zeroes_on_as_one() {
    let host = Host::new();
    host.raw("/a.raw", vec![9; 9 << 20]);
    let traced = TracedStorage::new(host.files.get("/a.raw").unwrap());
    host.files.put("/a.raw", std::sync::Arc::new(traced.clone()));
    let disk = host.open("aio:/a.raw").unwrap();
    disk.discard(4096, 8 << 20);
    disk.zero(4096, 8 << 20, false);
    let whole = block_core::FileRange::new(block_core::FileOffset::new(4096), 8 << 20);
    let expected = [TracedOperation::Discard(whole), TracedOperation::WriteZeroes { range: whole, may_free: false }];
    assert_eq!(traced.take(), expected);
    disk.close();
}

#[test]
fn a_storage_without_fast_zeroes_says_so_when_asked() {
    let host = Host::new();
    let slow = storage_io::MemoryStorage::new(1 << 20).with_limits(|limits| limits.zeroes_fast = false);
    host.files.put("/a.raw", std::sync::Arc::new(slow));
    let disk = host.open("aio:/a.raw").unwrap();
    let fast_only = disk.queue.write_zeroes(range(0, 4096), true, true, false);
    assert_eq!(disk.run(fast_only).unwrap_err().kind(), ErrorKind::Unsupported);
    disk.zero(0, 4096, true);
    disk.close();
}

#[test]
fn a_discard_on_a_storage_that_cannot_is_no_error() {
    let host = Host::new();
    let plain = storage_io::MemoryStorage::from_bytes(vec![1; 1 << 20]).with_limits(|limits| limits.discards = false);
    host.files.put("/a.raw", std::sync::Arc::new(plain));
    let disk = host.open("aio:/a.raw").unwrap();
    disk.discard(0, 4096);
    assert_eq!(disk.read(0, 1), [1]);
    disk.close();
}
