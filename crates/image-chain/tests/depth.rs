//! Depth does not show: thirty levels read like one, under every bound of the owner map.

#![allow(clippy::unwrap_used, reason = "a test that panics has told its story")]

mod support;

use block_core::ExtentKind;
use image_chain::ChainSpec;
use storage_io::{Access, Buffer, TracedStorage};
use support::{BLOCK, Disk, Host, name, range};

const LEVELS: u64 = 30;
const SECTOR: usize = 512;

/// A chain in which level n wrote every sector of block 0 whose number is a multiple of n, and one sector of block 1.
fn scattered(host: &Host) -> Vec<u8> {
    let mut expected = vec![0; usize::try_from(2 * BLOCK).unwrap()];
    for level in 1..=LEVELS {
        let path = format!("/{level}.vhd");
        match level {
            1 => host.vhd(&path, 2),
            _ => host.child(&path, &format!("/{}.vhd", level - 1), 2),
        }
        let disk = host.open(&format!("vhd:{path}")).unwrap();
        let byte = u8::try_from(level).unwrap();
        let scattered = (0..256).step_by(usize::try_from(level).unwrap());
        for sector in scattered.chain([4096 + 3 * usize::from(byte)]) {
            disk.write((sector * SECTOR) as u64, &[byte; SECTOR]);
            expected[sector * SECTOR..(sector + 1) * SECTOR].fill(byte);
        }
        disk.close();
    }
    expected
}

fn open_with(host: &Host, owner_bytes_max: usize) -> Disk {
    let leaf = name(&format!("vhd:/{LEVELS}.vhd"));
    host.open_spec(&ChainSpec { owner_bytes_max, ..ChainSpec::new(leaf, Access::Write) }).unwrap()
}

#[test]
fn thirty_levels_read_the_same_under_every_bound_of_the_owner_map() {
    let host = Host::new();
    let expected = scattered(&host);
    for owner_bytes_max in [0, 4200, 20_000, usize::MAX] {
        let disk = open_with(&host, owner_bytes_max);
        assert!(disk.read(0, expected.len()) == expected, "with {owner_bytes_max} bytes");
        for start in (0..256 * SECTOR).step_by(700) {
            assert_eq!(disk.read(start as u64, 1000), expected[start..start + 1000], "with {owner_bytes_max} bytes");
        }
        let extents = disk.run(disk.queue.extents(range(0, 2 * BLOCK), false)).unwrap();
        let data: u64 =
            extents.iter().filter(|extent| extent.kind == ExtentKind::Data).map(|extent| extent.range.length()).sum();
        assert_eq!(data, (256 + LEVELS) * SECTOR as u64);
        disk.close();
    }
}

#[test]
fn a_known_place_is_read_without_asking_any_table() {
    let host = Host::new();
    scattered(&host);
    let traces: Vec<TracedStorage> = (1..=LEVELS)
        .map(|level| {
            let path = format!("/{level}.vhd");
            let traced = TracedStorage::new(host.files.get(&path).unwrap());
            host.files.put(&path, std::sync::Arc::new(traced.clone()));
            traced
        })
        .collect();
    let disk = open_with(&host, usize::MAX);
    disk.run(disk.queue.cache(range(0, 4096))).unwrap();
    traces.iter().for_each(|trace| _ = trace.take());
    disk.read(7 * SECTOR as u64, SECTOR);
    let asked: usize = traces.iter().map(|trace| trace.take().len()).sum();
    assert_eq!(asked, 1, "one read of the one place, on the thirtieth part of a mixed block");
    disk.close();
}

#[test]
fn each_image_counts_the_sectors_that_it_gave() {
    let host = Host::new();
    host.vhd("/1.vhd", 2);
    host.write("vhd:/1.vhd", 0, &[1; 4096]);
    host.child("/2.vhd", "/1.vhd", 2);
    let disk = host.open("vhd:/2.vhd").unwrap();
    disk.write(0, &[2; 1024]);
    disk.read(0, 8192);
    let layers = disk.home.layers();
    let counted: Vec<_> = layers.iter().map(|layer| (layer.name.as_str(), layer.hits, layer.fails)).collect();
    assert_eq!(counted, [("/2.vhd", [2, 2], [0, 0]), ("/1.vhd", [6, 0], [0, 0])]);
    disk.close();
}

#[test]
fn bytes_of_any_alignment_are_read_and_written() {
    let host = Host::new();
    host.vhd("/1.vhd", 2);
    host.write("vhd:/1.vhd", 0, &[1; 8192]);
    host.child("/2.vhd", "/1.vhd", 2);
    let disk = host.open("vhd:/2.vhd").unwrap();
    let mut expected = vec![1; 8192];
    for (start, length) in [(0, 1), (511, 2), (700, 100), (1000, 3000), (5000, 24), (4095, 514), (8191, 1)] {
        let byte = u8::try_from(length % 200 + 2).unwrap();
        disk.write(start as u64, &vec![byte; length]);
        expected[start..start + length].fill(byte);
        assert_eq!(disk.read(0, 8192), expected);
        assert_eq!(disk.read(start as u64, length), vec![byte; length]);
    }
    disk.close();
}

#[test]
fn a_range_that_is_not_on_the_disk_is_refused() {
    let host = Host::new();
    host.vhd("/1.vhd", 1);
    let disk = host.open("vhd:/1.vhd").unwrap();
    let (buffer, result) = disk.run(disk.queue.read(range(BLOCK - 512, 1024), Buffer::zeroed(1024)));
    assert_eq!((buffer.len(), result.unwrap_err().kind()), (1024, block_core::ErrorKind::Invalid));
    disk.close();
}
