//! A killed process still writes: what it gave to io_uring lands after it is gone. Its lock tells when that has ended.

#![allow(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

mod common;

use std::{
    env, fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::Duration,
};

use common::{at, directory, open};
use futures_util::future::join_all;
use storage_io::{
    Buffer, EngineChoice, Executor, LockPolicy, OpenOptions, Storage, StorageExt, StorageOperation, Wait,
};
use tempfile::TempDir;

const NAME: &str = "a_successor_waits_for_the_last_write_of_a_killed_process";
const CHILD: &str = "OXTAP_TEST_KILL_NINE";

const PIECE: usize = 1 << 20;
const PIECES: u64 = 256;

/// The child's part: takes the lock, hands 256 MiB of writes to the kernel, says so, waits for its death.
fn be_killed(path: &Path) -> ! {
    let executor = Executor::new(EngineChoice::IoUring).unwrap();
    let file = open(&executor, path, OpenOptions::write());
    let writes: Vec<_> = (0..PIECES)
        .map(|index| {
            let mut buffer = Buffer::zeroed(PIECE);
            buffer.fill(0, PIECE, 0xaa);
            file.submit(&executor, StorageOperation::Write { offset: at(index << 20), buffer, durable: false }, None)
        })
        .collect();
    executor.turn(Wait::No).unwrap();
    println!("queued {}", executor.in_flight());
    std::io::stdout().flush().unwrap();
    loop {
        thread::park();
        assert_eq!(writes.len() as u64, PIECES);
    }
}

fn start_child(path: &Path) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["--exact", NAME, "--nocapture"])
        .env(CHILD, path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Waits until the child has queued its writes, kills it and sees it gone.
fn kill(mut child: Child) {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let queued = lines.map(Result::unwrap).find(|line| line.contains("queued"));
    child.kill().unwrap();
    child.wait().unwrap();
    queued.expect("the child queued its writes");
}

/// Which of the pieces that were queued last have arrived, told by their last sectors. Quick: it looks before the disk is
/// done.
fn arrived(executor: &Executor, file: &dyn Storage) -> Vec<bool> {
    let reads = (PIECES - 16..PIECES).map(|index| file.read_bytes(executor, at(((index + 1) << 20) - 512), 512));
    let sectors = executor.block_on(join_all(reads));
    sectors.into_iter().map(|sector| sector.unwrap() != [0; 512]).collect()
}

fn content(executor: &Executor, file: &dyn Storage) -> Vec<Vec<u8>> {
    executor.block_on(async {
        let mut pieces = Vec::new();
        for index in 0..PIECES {
            pieces.push(file.read_bytes(executor, at(index << 20), PIECE).await.unwrap());
        }
        pieces
    })
}

/// An image of zeroes, and a process that was killed while it wrote to it.
fn killed_in_mid_write() -> (TempDir, PathBuf) {
    let directory = directory();
    let path = directory.path().join("image");
    fs::write(&path, vec![0; PIECE * usize::try_from(PIECES).unwrap()]).unwrap();
    fs::File::open(&path).unwrap().sync_all().unwrap();
    kill(start_child(&path));
    (directory, path)
}

/// Takes the lock, as a successor does.
fn open_locked(executor: &Executor, path: &Path) -> Arc<dyn Storage> {
    let lock = LockPolicy::Exclusive { deadline: Duration::from_secs(120) };
    open(executor, path, OpenOptions { lock, ..OpenOptions::write() })
}

/// What arrives between the end of the process and the lock: what a successor without it would not have seen.
fn arrives_too_late(executor: &Executor) -> bool {
    let (_directory, path) = killed_in_mid_write();
    let before = arrived(executor, &*open(executor, &path, OpenOptions::read()));
    let after = arrived(executor, &*open_locked(executor, &path));
    println!("not arrived when the process was gone: {}", before.iter().filter(|arrived| !**arrived).count());
    before != after
}

#[test]
fn a_successor_waits_for_the_last_write_of_a_killed_process() {
    if let Some(path) = env::var_os(CHILD) {
        be_killed(Path::new(&path));
    }
    let executor = &Executor::new(EngineChoice::IoUring).unwrap();
    for _ in 0..4 {
        let (_directory, path) = killed_in_mid_write();
        let file = open_locked(executor, &path);
        let first_look = arrived(executor, &*file);
        let before = content(executor, &*file);
        thread::sleep(Duration::from_secs(1));
        assert_eq!(first_look, arrived(executor, &*file), "something arrived after the lock was taken");
        assert!(content(executor, &*file) == before, "the content changed after the lock was taken");
    }
    // The control: the above would not hold for who does not wait for the lock.
    if !(0..10).any(|_| arrives_too_late(executor)) {
        test_support::skip(NAME, "this disk is so fast that nothing arrived after the process was gone");
    }
}
