//! The whole way down: clients of others, our server, raw and VHD images in files, on every engine.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use image_chain::{ChainSpec, ImageKind, ImageName};
use image_format::vhd::{CreateOptions, ParentLink, Timestamp, create, relative_path};
use storage_io::{Access, CreateMode, EngineChoice, Executor, Files, LockPolicy, OpenOptions, Opener};
use support::Served;
use tempfile::TempDir;
use test_support::require_tool;
use uuid::Uuid;
use virtual_disk::{Disk, Settings};
use wire::nbd::{CommandFlags, StateFlags};

const DISK: u64 = 64 << 20;
const ENGINES: [EngineChoice; 3] = [EngineChoice::IoUring, EngineChoice::Libaio, EngineChoice::Threads];

/// An image made for a test, and what its children need to know of it.
struct Made {
    path: PathBuf,
    kind: ImageKind,
    uuid: Option<Uuid>,
}

fn raw(directory: &Path, name: &str) -> Made {
    let path = directory.join(name);
    fs::File::create(&path).unwrap().set_len(DISK).unwrap();
    Made { path, kind: ImageKind::Raw, uuid: None }
}

fn vhd(directory: &Path, name: &str, parent: Option<&Made>) -> Made {
    let path = directory.join(name);
    let uuid = Uuid::new_v4();
    let timestamp = Timestamp::from_unix(1_700_000_000);
    let parent = parent.map(|parent| ParentLink {
        uuid: parent.uuid,
        timestamp,
        name: parent.path.file_name().unwrap().to_str().unwrap().to_owned(),
        path: relative_path(&path, &parent.path).unwrap(),
    });
    let options = CreateOptions { disk_bytes: DISK, reserved_bytes: DISK, fixed: false, uuid, timestamp, parent };
    let executor = Executor::new(EngineChoice::Inline).unwrap();
    executor.block_on(async {
        let open = OpenOptions { create: CreateMode::New, direct: false, ..OpenOptions::write() };
        let storage = Files.open(&executor, &path, open).await.unwrap();
        create(&executor, &storage, &options).await.unwrap();
    });
    Made { path, kind: ImageKind::Vhd, uuid: Some(uuid) }
}

fn spec(made: &Made) -> ChainSpec {
    ChainSpec::new(ImageName::new(made.kind, &made.path), Access::Write)
}

/// A chain of three images, each of the lower ones written to in its time.
fn three_levels(directory: &Path) -> Made {
    let base = raw(directory, "base.raw");
    let bytes: Vec<u8> = (0..DISK).map(|index| u8::try_from(index / 4096 % 251).unwrap()).collect();
    fs::write(&base.path, bytes).unwrap();
    let middle = vhd(directory, "middle.vhd", Some(&base));
    let served = Served::of_files(EngineChoice::Probe, spec(&middle));
    let mut client = served.client();
    for index in 0..256_u64 {
        client.write(index * 200_000, &[0xa5; 7000]).unwrap();
    }
    client.disconnect().unwrap();
    served.close();
    vhd(directory, "leaf.vhd", Some(&middle))
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{command:?}\n{}\n{}", text(&output.stdout), text(&output.stderr));
}

fn fio(served: &Served, block: &str, depth: u32, size: &str) {
    let mut fio = Command::new(require_tool("fio"));
    fio.current_dir(served.directory());
    fio.args(["--name=verify", "--ioengine=nbd", "--rw=randwrite", "--verify=crc32c", "--verify_fatal=1"]);
    fio.args([format!("--uri={}", served.uri()), format!("--bsrange={block}"), format!("--iodepth={depth}")]);
    run(fio.arg(format!("--size={size}")));
}

fn read_all(served: &Served) -> Vec<u8> {
    let mut client = served.client();
    let mut bytes = vec![0; usize::try_from(DISK).unwrap()];
    for (index, part) in (0_u64..).zip(bytes.chunks_mut(4 << 20)) {
        client.read(index * (4 << 20), part).unwrap();
    }
    bytes
}

fn verify(make: impl Fn(&Path) -> Made) {
    for engine in ENGINES {
        println!("{engine:?}");
        let directory = TempDir::new().unwrap();
        let leaf = make(directory.path());
        let served = Served::of_files(engine, spec(&leaf));
        fio(&served, "4k-4k", 32, "24m");
        fio(&served, "512-200k", 8, "32m");
        fio(&served, "1m-2m", 4, "64m");
        let before = read_all(&served);
        served.pause();
        served.resume();
        assert!(read_all(&served) == before, "the same after a pause");
        served.close();
        let again = Served::of_files(engine, spec(&leaf));
        assert!(read_all(&again) == before, "the same after it was closed and opened");
    }
}

#[test]
fn fio_verifies_a_raw_image_on_every_engine() {
    verify(|directory| raw(directory, "disk.raw"));
}

#[test]
fn fio_verifies_a_dynamic_image_on_every_engine() {
    verify(|directory| vhd(directory, "disk.vhd", None));
}

#[test]
fn fio_verifies_a_chain_of_three_levels_on_every_engine() {
    verify(three_levels);
}

#[test]
fn qemu_img_reads_what_was_written_to_a_dynamic_image() {
    let directory = TempDir::new().unwrap();
    let image = vhd(directory.path(), "disk.vhd", None);
    let served = Served::of_files(EngineChoice::Probe, spec(&image));
    fio(&served, "512-100k", 16, "40m");
    let mut client = served.client();
    client.trim(10 << 20, 8 << 20).unwrap();
    client.write_zeroes(CommandFlags::EMPTY, 30 << 20, 1_000_000).unwrap();
    let expected = read_all(&served);
    drop(client);
    served.close();
    let copy = directory.path().join("copy");
    run(Command::new(require_tool("qemu-img")).args(["convert", "-f", "vpc", "-O", "raw"]).args([&image.path, &copy]));
    assert!(fs::read(copy).unwrap()[..expected.len()] == expected);
}

#[test]
fn block_status_tells_data_from_what_was_never_written() {
    let directory = TempDir::new().unwrap();
    let image = vhd(directory.path(), "disk.vhd", None);
    let served = Served::of_files(EngineChoice::Probe, spec(&image));
    let mut client = served.client();
    client.write(6 << 20, &[1; 65536]).unwrap();
    let extents = client.block_status(CommandFlags::EMPTY, 0, u32::try_from(DISK).unwrap()).unwrap();
    assert_eq!((extents[0].length, extents[0].state), (6 << 20, StateFlags::HOLE | StateFlags::ZERO));
    assert_eq!((extents[1].length, extents[1].state), (65536, StateFlags::EMPTY));
    assert!(extents[2..].iter().all(|extent| extent.state.contains(StateFlags::ZERO)));
    let whole: u64 = extents.iter().map(|extent| u64::from(extent.length)).sum();
    assert_eq!(whole, DISK);
}

#[test]
fn two_writers_of_one_image_do_not_meet() {
    let directory = TempDir::new().unwrap();
    let image = raw(directory.path(), "disk.raw");
    let served = Served::of_files(EngineChoice::Probe, spec(&image));
    let impatient = LockPolicy::Exclusive { deadline: std::time::Duration::from_millis(50) };
    let second = ChainSpec { lock: impatient, ..spec(&image) };
    let executor = Executor::new(EngineChoice::Probe).unwrap();
    let disk = Disk::new(&executor, std::rc::Rc::new(Files), storage_io::BufferPool::new(1 << 20), Arc::new(()));
    let error = executor.block_on(disk.open(second, Settings::default())).unwrap_err();
    assert_eq!(error.kind(), block_core::ErrorKind::Busy);
    served.pause();
    executor.block_on(disk.open(spec(&image), Settings::default())).expect("a paused disk lets go of its image");
    executor.block_on(disk.close()).unwrap();
    served.resume();
    executor.end_tasks();
}
