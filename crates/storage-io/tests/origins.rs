//! Every error of a storage tells which storage it was, and whether that is remote.

#![allow(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

mod common;

use std::{fs, path::Path, sync::Arc};

use block_core::{Origin, Result};
use common::{at, directory, new_file, open, pattern, range};
use storage_io::{
    AlignedStorage, Buffer, CrashStorage, CreateMode, EngineChoice, Executor, Fault, FaultRule, FaultScript,
    FaultyStorage, Files, MemoryFiles, MemoryStorage, OpenOptions, Opener, StorageExt, StorageKind,
};

/// The origin of the error that a result must be.
fn origin<T>(result: Result<T>) -> Origin {
    let error = result.err().expect("it must fail");
    error.origin().unwrap_or_else(|| panic!("{error}: without an origin")).clone()
}

fn local(path: &Path) -> Origin {
    Origin { place: path.to_str().unwrap().into(), is_remote: false }
}

on_every_engine! {
    fn what_the_kernel_refuses_and_what_we_refuse_name_the_file(executor) {
        let directory = directory();
        let path = directory.path().join("image");
        let file = open(executor, &path, new_file(true));
        executor.block_on(async {
            let far = 1 << 62;
            for failed in [
                file.write_bytes(executor, at(far), &[0; 512]).await,
                file.read_bytes(executor, at(far), 512).await.map(drop),
                file.allocate(executor, range(far, far)).await,
                file.set_length(executor, u64::MAX).await,
                file.write(executor, at(1), Buffer::zeroed(512)).await.1,
            ] {
                assert_eq!(origin(failed), local(&path));
            }
        });
        fs::write(&path, pattern(4096, 1)).unwrap();
        let reader = open(executor, &path, OpenOptions::read());
        let behind = executor.block_on(reader.read_bytes(executor, at(0), 8192)).unwrap_err();
        assert_eq!((behind.origin(), behind.os_error()), (Some(&local(&path)), None));
        assert_eq!(origin(executor.block_on(reader.set_length(executor, 0))), local(&path));
    }

    fn what_cannot_be_opened_names_the_path(executor) {
        let directory = directory();
        let missing = directory.path().join("missing");
        assert_eq!(origin(executor.block_on(Files.open(executor, &missing, OpenOptions::read()))), local(&missing));
        assert_eq!(origin(executor.block_on(Files.canonical(executor, &missing))), local(&missing));
        let pipe = Path::new("/dev/null");
        assert_eq!(origin(executor.block_on(Files.open(executor, pipe, OpenOptions::read()))), local(pipe));
        let path = directory.path().join("image");
        let _first = open(executor, &path, OpenOptions { create: CreateMode::New, ..OpenOptions::write() });
        let lock = storage_io::LockPolicy::Exclusive { deadline: std::time::Duration::ZERO };
        let second = executor.block_on(Files.open(executor, &path, OpenOptions { lock, ..OpenOptions::write() }));
        assert_eq!(origin(second), local(&path));
    }

    fn a_fault_and_a_bridge_have_the_origin_of_the_file_below(executor) {
        let directory = directory();
        let path = directory.path().join("image");
        let script = FaultScript::new();
        let faulty = FaultyStorage::new(open(executor, &path, new_file(true)), script.clone());
        let bridge = AlignedStorage::new(Arc::new(faulty.clone()));
        script.add(FaultRule::every(Fault::error(libc::EIO)));
        executor.block_on(async {
            assert_eq!(origin(faulty.sync(executor).await), local(&path));
            assert_eq!(origin(bridge.write_bytes(executor, at(0), &[1; 100]).await), local(&path));
            assert_eq!(origin(bridge.read_bytes(executor, at(1 << 40), 100).await), local(&path));
        });
    }
}

#[test]
fn memory_shows_the_kind_that_it_was_given() {
    let executor = &Executor::new(EngineChoice::Inline).unwrap();
    let remote = |limits: &mut storage_io::Limits| limits.kind = StorageKind::NetworkFile;
    let memory = MemoryStorage::new(512).with_limits(remote).with_name("/nfs/a.vhd");
    let read = executor.block_on(memory.read_bytes(executor, at(512), 512));
    assert_eq!(origin(read), Origin { place: "/nfs/a.vhd".into(), is_remote: true });
    let crashing = CrashStorage::new(512).with_limits(remote);
    assert!(origin(executor.block_on(crashing.read_bytes(executor, at(512), 512))).is_remote);
    assert!(origin(executor.block_on(crashing.write_bytes(executor, at(1), &[1]))).is_remote);
    let missing = MemoryFiles::new().open(executor, Path::new("/none"), OpenOptions::read());
    assert_eq!(origin(executor.block_on(missing)), local(Path::new("/none")));
}
