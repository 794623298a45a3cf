//! Chains of encrypted images: plain for whoever uses the disk, never plain in the files.

#![allow(clippy::unwrap_used, reason = "a test that panics has told its story")]

mod support;

use std::sync::Arc;

use block_core::{ErrorKind, Result, SECTOR};
use image_chain::{ChainSpec, DiskKey};
use storage_io::{Access, Buffer};
use support::{BLOCK, Disk, Host, name, range};

/// Where the header of the batmap is in images of so few blocks.
const BATMAP_HEADER: u64 = 2048;
const START: usize = 3584 + 512;

fn key(byte: u8) -> Arc<DiskKey> {
    Arc::new(DiskKey::new(&[byte; 32]).unwrap())
}

/// Says in an image what it is encrypted with.
fn seal(host: &Host, path: &str, key: &DiskKey) {
    let hash = key.hash([1; 32]);
    host.patch(path, BATMAP_HEADER + 29, &[&[1][..], &hash.nonce, &hash.hash].concat());
}

fn open(host: &Host, leaf: &str, key: Option<Arc<DiskKey>>) -> Result<Disk> {
    host.open_spec(&ChainSpec { key, ..ChainSpec::new(name(leaf), Access::Write) })
}

/// An encrypted leaf over an encrypted base, of three blocks, the base's first one full of 1.
fn two_levels(host: &Host) -> Disk {
    host.vhd("/base.vhd", 3);
    host.child("/leaf.vhd", "/base.vhd", 3);
    seal(host, "/base.vhd", &key(7));
    seal(host, "/leaf.vhd", &key(7));
    let base = open(host, "vhd:/base.vhd", Some(key(7))).unwrap();
    base.write(0, &bytes(1, BLOCK));
    base.close();
    open(host, "vhd:/leaf.vhd", Some(key(7))).unwrap()
}

fn bytes(byte: u8, length: u64) -> Vec<u8> {
    vec![byte; usize::try_from(length).unwrap()]
}

#[test]
fn both_levels_are_plain_for_the_disk_and_sealed_in_their_files() {
    let host = Host::new();
    let disk = two_levels(&host);
    // A new block over the parent's, in place, and part of a sector.
    disk.write(1024, &bytes(2, 1024));
    disk.write(1024, &bytes(3, 512));
    disk.write(600, &bytes(4, 10));
    let expected = [bytes(1, 600), bytes(4, 10), bytes(1, 414), bytes(3, 512), bytes(2, 512), bytes(1, 2048)].concat();
    assert_eq!(disk.read(0, 4096), expected);
    assert_eq!(disk.read(BLOCK, 512), [0; 512]);
    disk.close();
    let leaf = host.bytes("/leaf.vhd");
    let stored = leaf.windows(16).any(|window| [[2; 16], [3; 16]].iter().any(|plain| window == plain));
    let base = host.bytes("/base.vhd");
    assert!(!stored && base[START..].windows(16).all(|window| window != [1; 16]), "a file holds what the disk does");
    let mut first = base[START..START + 4096].to_vec();
    key(7).decrypt(0, &mut first);
    assert_eq!(first, bytes(1, 4096));
}

#[test]
fn whoever_writes_gets_his_own_bytes_back() {
    let host = Host::new();
    let disk = two_levels(&host);
    // A new block, then in place.
    for byte in [5, 6] {
        let plain = Buffer::from_bytes(&bytes(byte, 4096));
        let (buffer, result) = disk.run(disk.queue.write(range(4096, 4096), plain, false));
        result.unwrap();
        assert_eq!(buffer.to_vec(), bytes(byte, 4096));
    }
    disk.close();
}

#[test]
fn zeroes_are_stored_like_data_and_are_not_fast() {
    let host = Host::new();
    let disk = two_levels(&host);
    disk.write(BLOCK, &bytes(2, BLOCK));
    // Over data of the leaf, and over the parent's.
    disk.zero(BLOCK + 4096, 8192, true);
    disk.zero(4096, 700 << 10, true);
    assert_eq!(disk.read(BLOCK + 4096, 8192), bytes(0, 8192));
    assert_eq!(disk.read(0, 1 << 20), [bytes(1, 4096), bytes(0, 700 << 10), bytes(1, 320 << 10)].concat());
    let fast = disk.queue.write_zeroes(range(0, 4096), true, true, false);
    assert_eq!(disk.run(fast).unwrap_err().kind(), ErrorKind::Unsupported);
    disk.close();
    // A reader that decrypts every sector that is there finds them.
    let leaf = host.bytes("/leaf.vhd");
    for (block, from, length) in [(1, 4096, 8192), (0, 4096, 700 << 10)] {
        let entry = u32::from_be_bytes(leaf[1536 + block * 4..][..4].try_into().unwrap());
        let data = usize::try_from(entry).unwrap() * 512 + 512;
        let mut sealed = bytes(0, length);
        key(7).encrypt((block as u64 * BLOCK + from) / SECTOR, &mut sealed);
        assert!(leaf[data + usize::try_from(from).unwrap()..][..sealed.len()] == sealed, "block {block}");
    }
}

#[test]
fn what_is_discarded_gives_its_room_back_and_reads_as_zero() {
    let host = Host::new();
    let disk = two_levels(&host);
    disk.write(0, &bytes(2, 2 * BLOCK));
    disk.discard(BLOCK, BLOCK);
    disk.discard(4096, 4096);
    assert_eq!(disk.read(BLOCK, 8192), bytes(0, 8192));
    assert_eq!(disk.read(0, 12288), [bytes(2, 4096), bytes(0, 4096), bytes(2, 4096)].concat());
    disk.close();
}

#[test]
fn all_vhds_of_a_chain_have_one_key_and_raw_parents_none() {
    let host = Host::new();
    two_levels(&host).close();
    host.raw("/base.raw", bytes(9, 3 * BLOCK));
    host.child_of_raw("/over-raw.vhd", "/base.raw", 3);
    host.child("/plain.vhd", "/base.vhd", 3);
    host.child("/other.vhd", "/base.vhd", 3);
    seal(&host, "/over-raw.vhd", &key(7));
    seal(&host, "/other.vhd", &key(8));
    let refusal = |leaf: &str, key: Option<Arc<DiskKey>>| {
        let error = open(&host, leaf, key).err().unwrap();
        (error.kind(), error.to_string())
    };
    let wrong = |text: &str| (ErrorKind::WrongKey, text.to_owned());
    let invalid = |text: &str| (ErrorKind::Invalid, text.to_owned());
    let table = [
        ("vhd:/leaf.vhd", None, invalid("/leaf.vhd: the disk is encrypted, and there is no key")),
        ("vhd:/leaf.vhd", Some(8), wrong("/leaf.vhd: the key is not that of the image")),
        ("vhd:/other.vhd", Some(8), wrong("/base.vhd: the key is not that of the image")),
        ("vhd:/plain.vhd", None, invalid("/base.vhd: the disk is encrypted, and there is no key")),
        ("vhd:/plain.vhd", Some(7), invalid("/plain.vhd: there is a key, and the disk is not encrypted")),
        ("aio:/base.raw", Some(7), invalid("/base.raw: there is a key, and a raw image is not encrypted")),
    ];
    for (leaf, byte, expected) in table {
        assert_eq!(refusal(leaf, byte.map(key)), expected, "{leaf} {byte:?}");
    }
    let disk = open(&host, "vhd:/over-raw.vhd", Some(key(7))).unwrap();
    disk.write(512, &bytes(3, 512));
    assert_eq!(disk.read(0, 1536), [bytes(9, 512), bytes(3, 512), bytes(9, 512)].concat());
    disk.close();
}

#[test]
fn a_chain_that_rests_knows_its_key_when_it_wakes_and_not_when_it_has_gone() {
    let host = Host::new();
    let disk = two_levels(&host);
    disk.write(0, &bytes(2, 512));
    let Disk { home, queue, .. } = disk;
    drop(queue);
    let (resting, rested) = host.executor.block_on(home.rest());
    rested.unwrap();
    let home = host.executor.block_on(resting.wake(&host.executor)).unwrap();
    let queue = home.attach().start(&host.executor);
    let (buffer, read) = host.executor.block_on(queue.read(range(0, 1024), Buffer::zeroed(1024)));
    read.unwrap();
    assert_eq!(buffer.to_vec(), [bytes(2, 512), bytes(1, 512)].concat());
    let weak = resting.spec().key.as_ref().map(Arc::downgrade).unwrap();
    drop((queue, resting));
    host.executor.block_on(home.close()).unwrap();
    host.executor.end_tasks();
    assert!(weak.upgrade().is_none(), "somebody still has the key");
}
