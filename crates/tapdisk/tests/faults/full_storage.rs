//! Storage that is full: who needs room is told so, and everybody else is served on. When there is room again, so is he.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use rustix::fs::{FallocateFlags, fallocate};
use test_support::{require_root, require_tool, skip};

use crate::{
    host::Host,
    pipeline::{Answered, ENOSPC, Pipeline},
    served::{Served, only_byte, read, with_each_engine, write},
};

const BLOCK: u64 = 2 << 20;
const BLOCKS: u64 = 24;
const UNIT: u32 = 64 << 10;

fn done() -> Answered {
    Answered::Done(Vec::new())
}

/// Writes into block after block, all at once; gives the blocks that found no room.
fn fill(client: &mut Pipeline, blocks: impl Iterator<Item = u64>) -> Vec<u64> {
    let blocks: Vec<u64> = blocks.collect();
    let bytes = usize::try_from(BLOCK / 2).unwrap();
    let answers = client.burst(blocks.iter().map(|block| write(block * BLOCK, mark(*block), bytes)).collect());
    let refused = blocks.into_iter().zip(answers).filter(|(_, (_, answered))| *answered != done());
    let refused = refused.map(|(block, (_, answered))| {
        assert_eq!(answered, Answered::Failed(ENOSPC), "block {block}");
        block
    });
    refused.collect()
}

fn mark(block: u64) -> u8 {
    u8::try_from(block).unwrap() + 1
}

/// What was written is there.
fn holds(client: &mut Pipeline, block: u64) {
    for place in [0, BLOCK / 2 - u64::from(UNIT)] {
        assert_eq!(only_byte(&client.one(read(block * BLOCK + place, UNIT))), Some(mark(block)), "block {block}");
    }
}

/// Fills a disk until there is no room, makes some, and goes on. `full` is told how to get there.
fn fills_up_and_goes_on(disk: Served, image: &str, no_room: impl FnOnce(&Served), room: impl FnOnce(&Served)) {
    disk.open(image);
    let mut client = disk.connect();
    assert_eq!(fill(&mut client, 0..4), [0_u64; 0]);
    no_room(&disk);
    let refused = fill(&mut client, 4..BLOCKS);
    assert!(!refused.is_empty());

    let kept = |block: &u64| !refused.contains(block);
    (0..BLOCKS).filter(kept).for_each(|block| holds(&mut client, block));
    // What has its place needs no room.
    assert_eq!(client.one(write(0, mark(0), UNIT as usize)), done());

    room(&disk);
    assert_eq!(fill(&mut client, refused.into_iter()), [0_u64; 0]);
    assert_eq!(client.one(crate::pipeline::Asked::Flush), done());
    disk.close().unwrap();
    disk.open(image);
    let mut client = disk.connect();
    (0..BLOCKS).for_each(|block| holds(&mut client, block));
    drop(client);
}

#[test]
fn by_the_layer_of_faults() {
    with_each_engine(|_, engine| {
        let disk = Served::new(engine);
        disk.vhd_util("create -n a.vhd -s 64");
        let image = disk.image("vhd", "a.vhd");
        let full = "allocate=ENOSPC,set-length=ENOSPC";
        fills_up_and_goes_on(disk, &image, |disk| disk.strike(full), |disk| disk.strike(""));
    });
}

/// A small file system, unmounted when it goes out of scope.
struct SmallFileSystem(PathBuf);

impl SmallFileSystem {
    fn new(test: &str, host: &Host, bytes: u64) -> Option<SmallFileSystem> {
        if !require_root(test) {
            return None;
        }
        let (file, place) = (host.raw_image("file-system", bytes), host.place.scratch().join("small"));
        fs::create_dir(&place).unwrap();
        let made = Command::new(require_tool("mke2fs")).args(["-q", "-F", "-t", "ext4", "-m", "0"]).arg(&file).status();
        assert!(made.unwrap().success());
        let mounted = Command::new(require_tool("mount")).args(["-o", "loop"]).arg(&file).arg(&place).output().unwrap();
        if !mounted.status.success() {
            skip(test, &format!("cannot mount: {}", String::from_utf8_lossy(&mounted.stderr).trim()));
            return None;
        }
        Some(SmallFileSystem(place))
    }

    /// Takes up room that can be given back.
    fn ballast(&self, bytes: u64) -> PathBuf {
        let path = self.0.join("ballast");
        fallocate(File::create(&path).unwrap(), FallocateFlags::empty(), 0, bytes).unwrap();
        path
    }
}

impl Drop for SmallFileSystem {
    fn drop(&mut self) {
        // Lazily: when a test fails, its tapdisk may still have a file open.
        let _ = Command::new(require_tool("umount")).arg("-l").arg(&self.0).status();
    }
}

/// In a file system with room for a part of the disk.
fn in_a_small_file_system(test: &str, make: fn(&Served, &Path) -> String) {
    let place = Host::new();
    let Some(small) = SmallFileSystem::new(test, &place, 96 << 20) else { return };
    let disk = Served::new("probe");
    let image = make(&disk, &small.0);
    let ballast = small.ballast(64 << 20);
    fills_up_and_goes_on(disk, &image, |_| (), |_| fs::remove_file(&ballast).unwrap());
}

#[test]
fn in_a_file_system_that_is_full_under_a_raw_image() {
    in_a_small_file_system("full_storage::in_a_file_system_that_is_full_under_a_raw_image", |_, place| {
        let path = place.join("a.img");
        File::create(&path).unwrap().set_len(BLOCKS * BLOCK).unwrap();
        crate::host::aio(&path)
    });
}

#[test]
fn in_a_file_system_that_is_full_under_a_vhd() {
    in_a_small_file_system("full_storage::in_a_file_system_that_is_full_under_a_vhd", |disk, place| {
        let path = place.join("a.vhd");
        disk.vhd_util(&format!("create -n {} -s 64", path.display()));
        format!("vhd:{}", path.display())
    });
}
