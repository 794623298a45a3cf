//! Other implementations read what we write, and we read what they write.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use common::{Disk, MIB, Random, SPB, Seen, options};
use image_format::vhd::{self, CreateOptions};
use image_format::{Format, Image, ImageKind};
use storage_io::{CreateMode, EngineChoice, Executor, Files, OpenOptions, Opener, Storage};

fn open_file(executor: &Executor, path: &Path, create: CreateMode) -> Arc<dyn Storage> {
    let options = OpenOptions { direct: false, create, ..OpenOptions::write() };
    executor.block_on(Files.open(executor, path, options)).unwrap()
}

fn qemu_img(arguments: &[&str]) -> String {
    let output = Command::new(test_support::require_tool("qemu-img")).args(arguments).output().unwrap();
    assert!(output.status.success(), "qemu-img {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Writes sectors at random places. What they hold, by sector.
fn write_at_random(executor: &Executor, disk: &Disk, seed: u64) -> Vec<Option<u64>> {
    let end = disk.image.size() / 512;
    let mut expected = vec![None; usize::try_from(end).unwrap()];
    let mut random = Random(seed);
    for tag in 1..60 {
        let count = [1, 8, 300, SPB][usize::try_from(random.below(4)).unwrap()];
        let first = random.below(end - count);
        executor.block_on(disk.write(first, count, tag)).unwrap();
        expected[usize::try_from(first).unwrap()..usize::try_from(first + count).unwrap()].fill(Some(tag));
        if tag % 10 == 0 {
            let block = random.below(end / SPB);
            executor.block_on(disk.discard(block)).unwrap();
            expected[usize::try_from(block * SPB).unwrap()..usize::try_from((block + 1) * SPB).unwrap()].fill(None);
        }
    }
    expected
}

fn bytes_of(expected: &[Option<u64>]) -> Vec<u8> {
    expected.iter().flat_map(|tag| tag.unwrap_or(0).to_be_bytes().repeat(64)).collect()
}

fn qemu_reads_what_we_write(fixed: bool, engine: EngineChoice) {
    let directory = tempfile::tempdir().unwrap();
    let (image, raw) = (directory.path().join("a.vhd"), directory.path().join("a.raw"));
    let executor = Executor::new(engine).unwrap();
    let storage = open_file(&executor, &image, CreateMode::New);
    let options = CreateOptions { fixed, ..options(32 * MIB) };
    executor.block_on(vhd::create(&executor, &storage, &options)).unwrap();
    let disk = Disk::open(&executor, storage).unwrap();
    let expected = if fixed {
        executor.block_on(disk.write(77, 1000, 5)).unwrap();
        (0..65536).map(|sector| (77..1077).contains(&sector).then_some(5)).collect()
    } else {
        write_at_random(&executor, &disk, test_support::seed())
    };
    executor.block_on(disk.close()).unwrap();
    drop(disk);
    let listing = qemu_img(&["info", "--output=json", "-f", "vpc", text(&image)]);
    assert!(listing.contains("\"virtual-size\": 33554432"), "{listing}");
    qemu_img(&["convert", "-f", "vpc", "-O", "raw", text(&image), text(&raw)]);
    assert!(std::fs::read(&raw).unwrap() == bytes_of(&expected), "qemu reads other bytes");
}

#[test]
fn qemu_reads_our_dynamic_images() {
    qemu_reads_what_we_write(false, EngineChoice::Probe);
}

#[test]
fn qemu_reads_our_dynamic_images_written_by_threads() {
    qemu_reads_what_we_write(false, EngineChoice::Threads);
}

#[test]
fn qemu_reads_our_fixed_images() {
    qemu_reads_what_we_write(true, EngineChoice::Probe);
}

fn we_read_what_qemu_writes(subformat: &str) {
    let directory = tempfile::tempdir().unwrap();
    let (image, raw) = (directory.path().join("a.vhd"), directory.path().join("a.raw"));
    let mut content = vec![0; usize::try_from(32 * MIB).unwrap()];
    let mut random = Random(test_support::seed());
    for tag in 1..40_u64 {
        let first = usize::try_from(random.below(60_000)).unwrap() * 512;
        content[first..first + 4096].copy_from_slice(&tag.to_be_bytes().repeat(512));
    }
    std::fs::write(&raw, &content).unwrap();
    let options = format!("subformat={subformat},force_size");
    qemu_img(&["convert", "-f", "raw", "-O", "vpc", "-o", &options, text(&raw), text(&image)]);

    let executor = Executor::new(EngineChoice::Probe).unwrap();
    let disk = Disk::open(&executor, open_file(&executor, &image, CreateMode::No)).unwrap();
    assert_eq!(disk.image.size(), 32 * MIB);
    for sector in 0..65536_u64 {
        let bytes = &content[usize::try_from(sector * 512).unwrap()..][..8];
        let tag = u64::from_be_bytes(bytes.try_into().unwrap());
        let seen = executor.block_on(disk.see(sector)).unwrap();
        match tag {
            0 => assert!(matches!(seen, Seen::Hole | Seen::Zero), "sector {sector}: {seen:?}"),
            tag => assert_eq!(seen, Seen::Tag(tag), "sector {sector}"),
        }
    }
    // And write on, where they left off.
    executor.block_on(disk.write(10, 9000, 99)).unwrap();
    executor.block_on(disk.close()).unwrap();
    drop(disk);
    content[10 * 512..9010 * 512].copy_from_slice(&99_u64.to_be_bytes().repeat(9000 * 64));
    qemu_img(&["convert", "-f", "vpc", "-O", "raw", text(&image), text(&raw)]);
    assert!(std::fs::read(&raw).unwrap() == content, "qemu reads other bytes");
}

#[test]
fn we_read_and_go_on_writing_qemus_dynamic_images() {
    we_read_what_qemu_writes("dynamic");
}

#[test]
fn we_read_and_go_on_writing_qemus_fixed_images() {
    we_read_what_qemu_writes("fixed");
}

#[test]
fn libvhdi_sees_our_headers() {
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("a.vhd");
    let executor = Executor::new(EngineChoice::Probe).unwrap();
    let storage = open_file(&executor, &image, CreateMode::New);
    executor.block_on(vhd::create(&executor, &storage, &options(64 * MIB))).unwrap();
    drop(storage);
    let output = Command::new(test_support::require_tool("vhdiinfo")).arg(&image).output().unwrap();
    let listing = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && listing.contains("Dynamic"), "{listing}");
    assert!(listing.contains("00000000-0000-0000-0000-00000000abcd"), "{listing}");
}

/// A disk of 16 MiB that was made 48 MiB long within its table, with blocks on both sides of its old end.
#[test]
fn qemu_reads_what_was_written_behind_the_old_end_of_a_grown_image() {
    let directory = tempfile::tempdir().unwrap();
    let (image, raw) = (directory.path().join("a.vhd"), directory.path().join("a.raw"));
    let executor = Executor::new(EngineChoice::Probe).unwrap();
    let storage = open_file(&executor, &image, CreateMode::New);
    let reserved = CreateOptions { reserved_bytes: 64 * MIB, ..options(16 * MIB) };
    executor.block_on(vhd::create(&executor, &storage, &reserved)).unwrap();
    let disk = Disk::open(&executor, storage.clone()).unwrap();
    executor.block_on(disk.write(7 * SPB - 8, 16, 1)).unwrap();
    executor.block_on(disk.close()).unwrap();
    drop(disk);
    executor.block_on(Image::grow(&executor, &storage, ImageKind::Vhd, 48 * MIB)).unwrap();
    let disk = Disk::open(&executor, storage).unwrap();
    executor.block_on(disk.write(20 * SPB, SPB, 2)).unwrap();
    executor.block_on(disk.close()).unwrap();
    drop(disk);
    let listing = qemu_img(&["info", "--output=json", "-f", "vpc", text(&image)]);
    assert!(listing.contains("\"virtual-size\": 50331648"), "{listing}");
    qemu_img(&["convert", "-f", "vpc", "-O", "raw", text(&image), text(&raw)]);
    let mut expected = vec![None; 24 * usize::try_from(SPB).unwrap()];
    let sectors = |first: u64, count: u64| usize::try_from(first).unwrap()..usize::try_from(first + count).unwrap();
    expected[sectors(7 * SPB - 8, 16)].fill(Some(1));
    expected[sectors(20 * SPB, SPB)].fill(Some(2));
    assert!(std::fs::read(&raw).unwrap() == bytes_of(&expected), "qemu reads other bytes");
}
