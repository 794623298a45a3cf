//! Chains in real files, on the engine that this machine has.

#![allow(clippy::unwrap_used, reason = "a test that panics has told its story")]

mod support;

use std::{fs, os::unix::fs::MetadataExt, path::Path, rc::Rc, sync::Arc};

use image_chain::{ChainSpec, Home, ImageKind, ImageName, Queue};
use image_format::vhd::{self, CreateOptions, Timestamp};
use storage_io::{Access, Buffer, CreateMode, EngineChoice, Executor, Files, LockPolicy, OpenOptions, Opener, Storage};
use support::{BLOCK, identity, range};

const BLOCKS: u64 = 4;

fn open(executor: &Executor, kind: ImageKind, path: &Path) -> (Home, Queue) {
    let spec = ChainSpec::new(ImageName::new(kind, path), Access::Write);
    let home = executor.block_on(Home::open(executor, Rc::new(Files), &spec)).unwrap();
    let queue = home.attach().start(executor);
    (home, queue)
}

fn close(executor: &Executor, (home, queue): (Home, Queue)) {
    drop(queue);
    executor.block_on(home.close()).unwrap();
}

fn new_vhd(executor: &Executor, path: &Path) {
    let create = OpenOptions { create: CreateMode::New, lock: LockPolicy::None, ..OpenOptions::write() };
    let options = CreateOptions {
        disk_bytes: BLOCKS * BLOCK,
        reserved_bytes: 0,
        fixed: false,
        uuid: identity("files"),
        timestamp: Timestamp::from_unix(1_000_000_000),
        parent: None,
    };
    executor.block_on(async {
        let storage: Arc<dyn Storage> = Files.open(executor, path, create).await.unwrap();
        vhd::create(executor, &storage, &options).await.unwrap();
    });
}

/// Fills a disk, then discards all of it but its first and last bytes; gives the file's blocks before and after.
fn blocks_before_and_after_discard(executor: &Executor, kind: ImageKind, path: &Path) -> (u64, u64) {
    let disk = open(executor, kind, path);
    let length = usize::try_from(BLOCKS * BLOCK).unwrap();
    let whole = range(0, BLOCKS * BLOCK);
    executor.block_on(disk.1.write(whole, Buffer::from_bytes(&vec![7; length]), true)).1.unwrap();
    let before = fs::metadata(path).unwrap().blocks();
    executor.block_on(disk.1.discard(range(4096, BLOCKS * BLOCK - 8192))).unwrap();
    let (buffer, result) = executor.block_on(disk.1.read(whole, Buffer::zeroed(length)));
    result.unwrap();
    let mut expected = vec![0; length];
    expected[..4096].fill(7);
    expected[length - 4096..].fill(7);
    assert!(buffer.to_vec() == expected, "the discarded part reads as zeroes, the rest as before");
    close(executor, disk);
    (before, fs::metadata(path).unwrap().blocks())
}

#[test]
fn discarded_room_goes_back_to_the_file_system() {
    let directory = tempfile::tempdir().unwrap();
    let executor = Executor::new(EngineChoice::Probe).unwrap();
    let (raw, vhd) = (directory.path().join("a.raw"), directory.path().join("a.vhd"));
    fs::write(&raw, vec![0; usize::try_from(BLOCKS * BLOCK).unwrap()]).unwrap();
    new_vhd(&executor, &vhd);
    for (kind, path) in [(ImageKind::Raw, raw), (ImageKind::Vhd, vhd)] {
        let (before, after) = blocks_before_and_after_discard(&executor, kind, &path);
        assert!(after * 4 < before, "{kind:?}: {before} blocks before, {after} after");
    }
    executor.end_tasks();
}

#[test]
fn a_second_writer_is_refused_while_the_first_has_the_disk_and_served_after() {
    let directory = tempfile::tempdir().unwrap();
    let executor = Executor::new(EngineChoice::Probe).unwrap();
    let path = directory.path().join("a.vhd");
    new_vhd(&executor, &path);
    let first = open(&executor, ImageKind::Vhd, &path);
    let lock = LockPolicy::Exclusive { deadline: std::time::Duration::from_millis(20) };
    let spec = ChainSpec { lock, ..ChainSpec::new(ImageName::new(ImageKind::Vhd, &path), Access::Write) };
    let refused = executor.block_on(Home::open(&executor, Rc::new(Files), &spec)).err().unwrap();
    assert_eq!(refused.kind(), block_core::ErrorKind::Busy);
    assert!(refused.to_string().starts_with(path.to_str().unwrap()), "{refused}");
    let reader = ChainSpec { access: Access::Read, ..spec.clone() };
    let reading = executor.block_on(Home::open(&executor, Rc::new(Files), &reader)).unwrap();
    executor.block_on(reading.close()).unwrap();
    close(&executor, first);
    executor.block_on(Home::open(&executor, Rc::new(Files), &spec)).unwrap();
    executor.end_tasks();
}
