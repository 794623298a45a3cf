//! The writer's lock, given up and taken again on the same open file, on every engine.

#![allow(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

mod common;

use std::{
    env, fs,
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use block_core::{ErrorKind, Result};
use common::{at, directory, open, pattern};
use storage_io::{AlignedStorage, EngineChoice, Executor, Files, LockPolicy, OpenOptions, Opener, Storage, StorageExt};

const CHILD_TEST: &str = "another_process_takes_the_lock_that_was_given_up";
const CHILD: &str = "OXTAP_TEST_LOCKS";

/// A file of 4 KiB in a private directory, which goes with the first value.
fn image() -> (tempfile::TempDir, PathBuf) {
    let directory = directory();
    let path = directory.path().join("image");
    fs::write(&path, pattern(4096, 1)).unwrap();
    (directory, path)
}

fn lock_now() -> OpenOptions {
    OpenOptions { lock: LockPolicy::Exclusive { deadline: Duration::ZERO }, ..OpenOptions::write() }
}

fn try_open(executor: &Executor, path: &Path) -> Result<Arc<dyn Storage>> {
    executor.block_on(Files.open(executor, path, lock_now()))
}

on_every_engine! {
    fn a_lock_that_was_given_up_is_another_files_until_it_is_taken_again(executor) {
        let (_directory, path) = image();
        let ours = open(executor, &path, lock_now());
        assert_eq!(try_open(executor, &path).unwrap_err().kind(), ErrorKind::Busy);
        executor.block_on(ours.unlock(executor)).unwrap();
        let theirs = try_open(executor, &path).unwrap();
        let error = executor.block_on(ours.lock(executor)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy);
        assert_eq!(error.to_string(), format!("{}: is in use by another process", path.display()));
        assert_eq!(&*error.origin().unwrap().place, path.to_str().unwrap());
        // Taken in vain, it is still refused to write.
        let write = executor.block_on(ours.write_bytes(executor, at(0), &[0; 512]));
        assert_eq!(write.unwrap_err().kind(), ErrorKind::Busy);
        drop(theirs);
        executor.block_on(ours.lock(executor)).unwrap();
        assert_eq!(try_open(executor, &path).unwrap_err().kind(), ErrorKind::Busy);
        executor.block_on(ours.write_bytes(executor, at(0), &[7; 512])).unwrap();
    }

    fn without_its_lock_a_file_refuses_changes_and_only_those(executor) {
        let (_directory, path) = image();
        let file = open(executor, &path, lock_now());
        executor.block_on(async {
            // Twice is as good as once, both ways.
            file.unlock(executor).await.unwrap();
            file.unlock(executor).await.unwrap();
            let changes = [
                file.write_bytes(executor, at(0), &[0; 512]).await,
                file.allocate(executor, common::range(0, 8192)).await,
                file.discard(executor, common::range(0, 512)).await,
                file.write_zeroes(executor, common::range(0, 512), false).await,
                file.set_length(executor, 0).await,
            ];
            for change in changes {
                let error = change.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Busy);
                assert_eq!(error.to_string(), format!("{}: its lock was given up", path.display()));
            }
            assert_eq!(file.read_bytes(executor, at(0), 4096).await.unwrap(), pattern(4096, 1));
            file.sync(executor).await.unwrap();
            file.lock(executor).await.unwrap();
            file.lock(executor).await.unwrap();
            file.set_length(executor, 512).await.unwrap();
        });
    }

    fn who_takes_the_lock_again_sees_how_long_the_file_has_become(executor) {
        let (_directory, path) = image();
        let file = open(executor, &path, lock_now());
        for length in [1 << 20, 512] {
            executor.block_on(file.unlock(executor)).unwrap();
            fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(length).unwrap();
            assert_ne!(file.length(), length, "nobody has looked");
            executor.block_on(file.lock(executor)).unwrap();
            assert_eq!(file.length(), length);
        }
    }

    fn a_file_without_a_lock_takes_none(executor) {
        let (_directory, path) = image();
        let shared = open(executor, &path, OpenOptions { lock: LockPolicy::None, ..OpenOptions::write() });
        let reader = open(executor, &path, OpenOptions::read());
        executor.block_on(async {
            for file in [&shared, &reader] {
                file.unlock(executor).await.unwrap();
                file.lock(executor).await.unwrap();
            }
            shared.unlock(executor).await.unwrap();
            shared.write_bytes(executor, at(4096), &[1; 512]).await.unwrap();
            assert_eq!(reader.length(), 4096);
            reader.lock(executor).await.unwrap();
            assert_eq!(reader.length(), 4608);
        });
        try_open(executor, &path).unwrap();
    }

    fn a_bridge_passes_the_lock_on(executor) {
        let (_directory, path) = image();
        let file = AlignedStorage::new(open(executor, &path, lock_now()));
        executor.block_on(file.unlock(executor)).unwrap();
        drop(try_open(executor, &path).unwrap());
        executor.block_on(file.lock(executor)).unwrap();
        assert_eq!(try_open(executor, &path).unwrap_err().kind(), ErrorKind::Busy);
    }

    fn another_process_takes_the_lock_that_was_given_up(executor) {
        if let Some(path) = env::var_os(CHILD) {
            return be_the_other(executor, Path::new(&path));
        }
        let (_directory, path) = image();
        let file = open(executor, &path, lock_now());
        executor.block_on(file.unlock(executor)).unwrap();
        let other = Other::start(executor, &path);
        assert_eq!(executor.block_on(file.lock(executor)).unwrap_err().kind(), ErrorKind::Busy);
        other.end();
        executor.block_on(file.lock(executor)).unwrap();
        assert_eq!(file.length(), 8192, "what the other has written");
    }
}

/// The other process: takes the lock, makes the file longer, says so, waits until its input ends.
fn be_the_other(executor: &Executor, path: &Path) {
    let file = open(executor, path, lock_now());
    executor.block_on(file.write_bytes(executor, at(4096), &[9; 4096])).unwrap();
    println!("locked");
    std::io::stdout().flush().unwrap();
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

/// With its output, which stays open as long as it may write to it.
struct Other(Child, BufReader<ChildStdout>);

impl Other {
    /// Runs the test that asks for it in another process, where it takes the other part.
    fn start(executor: &Executor, path: &Path) -> Other {
        let engine = match executor.engine() {
            storage_io::EngineKind::IoUring => "on_io_uring",
            storage_io::EngineKind::Libaio => "on_libaio",
            storage_io::EngineKind::Threads => "on_threads",
            _ => "inline",
        };
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", &format!("{CHILD_TEST}::{engine}"), "--nocapture"])
            .env(CHILD, path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let locked = output.by_ref().lines().any(|line| line.unwrap().contains("locked"));
        assert!(locked, "the other process did not get the lock");
        Other(child, output)
    }

    fn end(mut self) {
        drop(self.0.stdin.take());
        std::io::copy(&mut self.1, &mut std::io::sink()).unwrap();
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        // Gone already, unless the test has failed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn stores_in_memory_answer_too() {
    let executor = &Executor::new(EngineChoice::Inline).unwrap();
    let memory = storage_io::MemoryStorage::new(512);
    let crashing = storage_io::CrashStorage::new(512);
    for storage in [&memory as &dyn Storage, &crashing] {
        executor.block_on(storage.unlock(executor)).unwrap();
        executor.block_on(storage.lock(executor)).unwrap();
    }
    assert_eq!(crashing.crash_point().volatile_sectors(), 0);
}
