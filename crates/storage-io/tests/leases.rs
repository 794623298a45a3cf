//! Leases: writers of images whose file system knows no locks, or none that other hosts see, say so in a record beside the image.

#![allow(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use block_core::{ErrorKind, Result};
use common::{at, directory, pattern};
use seccompiler::{SeccompAction, SeccompFilter, apply_filter};
use storage_io::{
    EngineChoice, Executor, Files, LeaseRecord, LeasedFiles, LockPolicy, OpenOptions, Opener, Storage, StorageExt,
};

/// A file of 4 KiB in a private directory, which goes with the first value.
fn image() -> (tempfile::TempDir, PathBuf) {
    let directory = directory();
    let path = directory.path().join("image");
    fs::write(&path, pattern(4096, 1)).unwrap();
    (directory, path)
}

/// Tells the story on a thread, and on those that it starts, for which no file system knows locks.
fn without_locks(story: impl FnOnce() + Send) {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let unknown = SeccompAction::Errno(libc::EOPNOTSUPP.try_into().unwrap());
            let calls = [(libc::SYS_flock, Vec::new())].into();
            let here = std::env::consts::ARCH.try_into().unwrap();
            let filter = SeccompFilter::new(calls, SeccompAction::Allow, unknown, here);
            let program: seccompiler::BpfProgram = filter.unwrap().try_into().unwrap();
            apply_filter(&program).unwrap();
            story();
        });
        thread.join().unwrap();
    });
}

fn try_open(executor: &Executor, files: &dyn Opener, path: &Path) -> Result<Arc<dyn Storage>> {
    let options = OpenOptions { lock: LockPolicy::Exclusive { deadline: Duration::ZERO }, ..OpenOptions::write() };
    executor.block_on(files.open(executor, path, options))
}

fn records(image: &Path) -> usize {
    LeaseRecord::all_of(image).unwrap().len()
}

#[test]
fn where_there_are_no_locks_a_writer_has_a_lease_from_the_first_to_the_last() {
    for choice in [EngineChoice::IoUring, EngineChoice::Threads, EngineChoice::Inline] {
        without_locks(|| {
            let (_directory, path) = image();
            let executor = Executor::new(choice).unwrap();
            let ours = try_open(&executor, &Files, &path).unwrap();
            assert_eq!(records(&path), 1);
            let error = try_open(&executor, &Files, &path).unwrap_err();
            assert_eq!((error.kind(), error.os_error()), (ErrorKind::Busy, None), "it is waited for as a lock is");
            let us = format!("is in use by process {}", std::process::id());
            assert!(
                error.to_string().starts_with(path.to_str().unwrap()) && error.to_string().contains(&us),
                "{error}"
            );
            executor.block_on(ours.write_bytes(&executor, at(0), &[7; 512])).unwrap();

            executor.block_on(ours.unlock(&executor)).unwrap();
            assert_eq!(records(&path), 0);
            let theirs = try_open(&executor, &Files, &path).unwrap();
            assert_eq!(executor.block_on(ours.lock(&executor)).unwrap_err().kind(), ErrorKind::Busy);
            drop(theirs);
            executor.block_on(ours.lock(&executor)).unwrap();
            executor.block_on(ours.write_bytes(&executor, at(0), &[8; 512])).unwrap();
            drop(ours);
            assert_eq!(records(&path), 0, "it goes with the file");
        });
    }
}

#[test]
fn readers_and_late_writers_have_no_lease() {
    without_locks(|| {
        let (_directory, path) = image();
        let executor = Executor::new(EngineChoice::Inline).unwrap();
        let writer = try_open(&executor, &Files, &path).unwrap();
        let open = |options| executor.block_on(Files.open(&executor, &path, options)).unwrap();
        let _reader = open(OpenOptions::read());
        let late = open(OpenOptions { lock: LockPolicy::Later, ..OpenOptions::write() });
        assert_eq!(records(&path), 1);
        drop(writer);
        executor.block_on(late.lock(&executor)).unwrap();
        assert_eq!(records(&path), 1);
    });
}

#[test]
fn an_image_has_one_lease_under_all_its_names() {
    let (directory, path) = image();
    let other = directory.path().join("other");
    std::os::unix::fs::symlink(&path, &other).unwrap();
    without_locks(|| {
        let executor = Executor::new(EngineChoice::Inline).unwrap();
        let _writer = try_open(&executor, &Files, &path).unwrap();
        assert!(try_open(&executor, &Files, &other).is_err());
    });
}

#[test]
fn in_named_directories_a_writer_has_lock_and_lease() {
    let (directory, path) = image();
    let executor = Executor::new(EngineChoice::Inline).unwrap();
    let leased = LeasedFiles::new(&[directory.path().to_owned()]);
    let elsewhere = LeasedFiles::new(&["/nowhere".into()]);
    let ours = try_open(&executor, &leased, &path).unwrap();
    assert_eq!(records(&path), 1);
    assert!(try_open(&executor, &Files, &path).unwrap_err().to_string().ends_with("is in use by another process"));
    drop(ours);
    let locked = try_open(&executor, &elsewhere, &path).unwrap();
    assert_eq!(records(&path), 0);
    drop(locked);
    // Another host's writer, of whose lock nothing is seen here. What was taken in vain is given back.
    let record = directory.path().join("image.lease.1");
    fs::write(&record, "oxtap lease 1\nhost beta\nmachine m\nboot b\nprocesses p\nprocess 7\nstarted 1\ntoken t\n")
        .unwrap();
    let words = try_open(&executor, &leased, &path).unwrap_err().to_string();
    assert!(words.contains("is in use by process 7 of host beta"), "{words}");
    try_open(&executor, &Files, &path).unwrap();
}

#[test]
fn who_has_lost_its_lease_writes_no_more() {
    let (directory, path) = image();
    let executor = Executor::new(EngineChoice::Inline).unwrap();
    let leased = LeasedFiles::new(&[directory.path().to_owned()]);
    let ours = try_open(&executor, &leased, &path).unwrap();
    let write = |byte| executor.block_on(ours.write_bytes(&executor, at(0), &[byte; 512]));
    write(1).unwrap();
    LeaseRecord::all_of(&path).unwrap()[0].remove().unwrap();
    // It was seen to be there a moment ago; that is believed for a while.
    let began = Instant::now();
    while write(2).is_ok() {
        assert!(began.elapsed() < Duration::from_secs(60), "it is never looked for");
        thread::sleep(Duration::from_millis(20));
    }
    let error = write(3).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotPermitted, "nobody tries that again");
    assert!(error.to_string().contains("its lease was broken"), "{error}");
    assert_eq!(&*error.origin().unwrap().place, path.to_str().unwrap());
    let there = executor.block_on(ours.read_bytes(&executor, at(0), 512)).unwrap();
    assert_ne!(there, [3; 512], "it may read");
    // Whoever reads everything anew may have it again; what is lost before the first write is seen by that.
    executor.block_on(ours.lock(&executor)).unwrap();
    LeaseRecord::all_of(&path).unwrap()[0].remove().unwrap();
    assert!(write(4).is_err());
    executor.block_on(ours.lock(&executor)).unwrap();
    write(5).unwrap();
    assert_eq!(records(&path), 1);
}
