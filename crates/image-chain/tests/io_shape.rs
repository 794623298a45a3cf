//! What reaches the storage: a contiguous request as one operation, a sequential overwrite as one ascending run.

#![allow(clippy::unwrap_used, reason = "a test that panics has told its story")]

mod support;

use std::sync::Arc;

use block_core::FileRange;
use storage_io::{TracedOperation, TracedStorage};
use support::{BLOCK, Disk, Host};

/// Puts a trace between the chain and the file at `path`.
fn trace(host: &Host, path: &str) -> TracedStorage {
    let traced = TracedStorage::new(host.files.get(path).unwrap());
    host.files.put(path, Arc::new(traced.clone()));
    traced
}

/// The bytes of a whole disk, each block told from the others.
fn fill(disk: &Disk, blocks: u64) {
    for block in 0..blocks {
        disk.write(block * BLOCK, &vec![u8::try_from(block).unwrap() + 1; usize::try_from(BLOCK).unwrap()]);
    }
}

fn is_one_run(writes: &[FileRange]) -> bool {
    writes.is_sorted_by(|one, next| one.end() == next.start())
}

#[test]
fn a_request_of_any_size_is_one_write_and_one_read_of_a_raw_image() {
    let host = Host::new();
    host.raw("/a.raw", vec![0; 8 << 20]);
    let traced = trace(&host, "/a.raw");
    let disk = host.open("aio:/a.raw").unwrap();
    // The first touch of a part of the disk may go through home; its shape is the same.
    for _ in 0..2 {
        for length in [11 * 4096, 256 * 4096, 3 << 20] {
            disk.write(BLOCK - 4096, &vec![9; length]);
            assert_eq!(traced.writes().len(), 1);
            traced.take();
            disk.read(BLOCK - 4096, length);
            assert_eq!(traced.take().len(), 1, "{length}");
        }
    }
    disk.close();
}

#[test]
fn a_request_inside_a_block_is_one_write() {
    let host = Host::new();
    host.vhd("/a.vhd", 2);
    let traced = trace(&host, "/a.vhd");
    let disk = host.open("vhd:/a.vhd").unwrap();
    disk.write(4096, &[1; 4096]);
    traced.take();
    disk.write(0, &vec![2; 256 * 4096]);
    let large: Vec<_> = traced.writes().into_iter().filter(|range| range.length() > 4096).collect();
    assert_eq!(large.iter().map(|range| range.length()).collect::<Vec<_>>(), [256 * 4096], "partly new sectors");
    traced.take();
    disk.write(0, &vec![3; 256 * 4096]);
    assert!(matches!(traced.take()[..], [TracedOperation::Write { .. }]), "in place there is nothing but the write");
    disk.close();
}

#[test]
fn a_sequential_overwrite_of_a_device_is_one_ascending_run() {
    const BLOCKS: u64 = 3;
    let host = Host::new();
    host.vhd_on_device("/dev/a", BLOCKS);
    let traced = trace(&host, "/dev/a");
    let disk = host.open("vhd:/dev/a").unwrap();
    fill(&disk, BLOCKS);
    let step = 64 << 10;
    for _ in 0..2 {
        traced.take();
        for start in (0..BLOCKS * BLOCK).step_by(step) {
            disk.write(start, &vec![7; step]);
        }
        let writes = traced.writes();
        assert!(is_one_run(&writes), "{writes:?}");
        assert_eq!(writes.len() as u64, BLOCKS * BLOCK / step as u64, "each request is one write");
    }
    assert_eq!(disk.home.statistics().gaps(), [2 * (BLOCKS - 1), 0], "gaps written and skipped, twice over the disk");
    disk.close();
    let disk = host.open("vhd:/dev/a").unwrap();
    assert_eq!(disk.read(0, 3 * step), vec![7; 3 * step], "the bitmaps were written as they were");
    disk.close();
}

#[test]
fn a_write_across_blocks_of_a_device_is_one_write() {
    let host = Host::new();
    host.vhd_on_device("/dev/a", 3);
    let traced = trace(&host, "/dev/a");
    let disk = host.open("vhd:/dev/a").unwrap();
    fill(&disk, 3);
    traced.take();
    disk.write(BLOCK - 8192, &vec![5; usize::try_from(BLOCK).unwrap() + 16384]);
    let writes = traced.writes();
    assert_eq!(writes.len(), 1, "{writes:?}");
    assert_eq!(disk.read(BLOCK - 8192, 8), [5; 8]);
    assert_eq!(disk.read(BLOCK - 8193, 1), [1]);
    assert_eq!(disk.read(2 * BLOCK + 8192, 1), [3]);
    disk.close();
}

#[test]
fn a_gap_before_a_partial_block_is_skipped_and_counted() {
    let host = Host::new();
    host.vhd_on_device("/dev/a", 2);
    let disk = host.open("vhd:/dev/a").unwrap();
    disk.write(0, &vec![1; usize::try_from(BLOCK).unwrap() + 4096]);
    disk.write(BLOCK, &[2; 4096]);
    assert_eq!(disk.home.statistics().gaps(), [0, 1]);
    disk.close();
}

#[test]
fn files_of_this_machine_get_no_gaps() {
    let host = Host::new();
    host.vhd("/a.vhd", 2);
    let traced = trace(&host, "/a.vhd");
    let disk = host.open("vhd:/a.vhd").unwrap();
    fill(&disk, 2);
    traced.take();
    disk.write(BLOCK, &[1; 4096]);
    assert_eq!(traced.writes().iter().map(|range| range.length()).collect::<Vec<_>>(), [4096]);
    disk.close();
}
