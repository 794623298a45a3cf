//! A quiesced disk keeps its files and gives up its lock; what others have done to the images meanwhile is seen when it
//! resumes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::{rc::Rc, sync::Arc};

use block_core::ErrorKind;
use image_format::vhd::create;
use storage_io::{
    BufferPool, CreateMode, EngineChoice, Executor, Fault, FaultRule, Files, OpenOptions, Opener, OperationKind,
};
use support::{Host, Script, bytes, failed, is_done, spec, vhd_options, vhd_spec};
use virtual_disk::{Disk, DiskState, Settings};

const MIB: u64 = 1 << 20;

/// A disk over a VHD image of 8 MiB, running.
fn vhd_host(seed: u64) -> (Host, Script) {
    let host = Host::new(seed);
    host.put_vhd("/v", &vhd_options(1, 8 * MIB, 0));
    host.run(async |disk| disk.open(vhd_spec("/v"), Settings::default()).await).unwrap();
    let script = Script::default();
    host.disk.queue().serve(script.clone()).detach();
    (host, script)
}

#[test]
fn requests_are_held_and_files_stay_open() {
    let (host, script) = vhd_host(1);
    let write = script.write(MIB, 5, 4096);
    host.settle();
    assert!(is_done(script.answer(write)));
    host.run(async |disk| disk.quiesce(None).await).unwrap();
    host.run(async |disk| disk.quiesce(None).await).expect("quiescing twice is quiescing once");
    assert_eq!(host.disk.status().state(), DiskState::Quiesced);
    let storage = host.files.get("/v").unwrap();
    assert!(Arc::strong_count(&storage) > 2, "the disk has the file open");
    // Whoever has it by name now has another one.
    host.files.remove("/v");
    let held = script.read(MIB, 4096);
    host.settle();
    assert!(script.answer(held).is_none());
    host.run(async |disk| disk.resume(None).await).unwrap();
    host.settle();
    assert_eq!(bytes(script.answer(held)), [5; 4096]);
}

#[test]
fn a_quiesced_disk_can_be_paused_resumed_elsewhere_and_closed() {
    let (host, script) = vhd_host(2);
    let storage = host.files.get("/v").unwrap();
    host.run(async |disk| disk.quiesce(None).await).unwrap();
    host.run(async |disk| disk.pause(None).await).unwrap();
    assert_eq!((host.disk.status().state(), Arc::strong_count(&storage)), (DiskState::Paused, 2));
    let refused = host.run(async |disk| disk.quiesce(None).await).unwrap_err();
    assert_eq!(refused.to_string(), "the disk is paused");
    host.run(async |disk| disk.resume(None).await).unwrap();
    host.run(async |disk| disk.quiesce(None).await).unwrap();
    host.put_vhd("/w", &vhd_options(2, 8 * MIB, 0));
    host.run(async |disk| disk.resume(Some(vhd_spec("/w"))).await).unwrap();
    assert_eq!(Arc::strong_count(&storage), 2, "the old file was closed");
    assert_eq!(host.disk.status().image().unwrap().path.to_str(), Some("/w"));
    host.run(async |disk| disk.quiesce(None).await).unwrap();
    let held = script.read(0, 512);
    host.settle();
    host.run(async |disk| disk.close().await).unwrap();
    host.settle();
    assert_eq!(failed(script.answer(held)), ErrorKind::Closed);
    assert_eq!(host.disk.status().state(), DiskState::Closed);
}

/// What is shown as the disk's image is what it goes on with.
#[test]
fn an_image_that_is_named_and_does_not_fit_takes_the_place_of_the_one_that_was_quiesced() {
    let (host, script) = vhd_host(12);
    let storage = host.files.get("/v").unwrap();
    host.put_vhd("/w", &vhd_options(2, 4 * MIB, 0));
    host.run(async |disk| disk.quiesce(None).await).unwrap();
    let error = host.run(async |disk| disk.resume(Some(vhd_spec("/w"))).await).unwrap_err();
    assert_eq!((error.kind(), host.disk.status().state()), (ErrorKind::SizeChanged, DiskState::ResumeFailed));
    assert_eq!(Arc::strong_count(&storage), 2, "the old file was closed");
    let error = host.run(async |disk| disk.resume(None).await).unwrap_err();
    assert_eq!((error.kind(), host.disk.status().state()), (ErrorKind::SizeChanged, DiskState::ResumeFailed));
    host.put_vhd("/w", &vhd_options(2, 8 * MIB, 0));
    host.run(async |disk| disk.resume(None).await).expect("it is the image that was named");
    assert_eq!(host.disk.status().image().unwrap().path.to_str(), Some("/w"));
    let write = script.write(MIB, 5, 4096);
    host.settle();
    assert!(is_done(script.answer(write)));
    assert_eq!(Arc::strong_count(&storage), 2, "the old file is not written to");
}

/// An image that cannot be opened at all is not the disk's: its own files are still there.
#[test]
fn an_image_that_is_named_and_cannot_be_opened_changes_nothing() {
    let (host, script) = vhd_host(13);
    host.run(async |disk| disk.quiesce(None).await).unwrap();
    host.run(async |disk| disk.resume(Some(vhd_spec("/none"))).await).unwrap_err();
    let status = host.disk.status();
    assert_eq!((status.state(), status.image().unwrap().path.to_str()), (DiskState::Quiesced, Some("/v")));
    host.run(async |disk| disk.resume(None).await).unwrap();
    let write = script.write(MIB, 5, 4096);
    host.settle();
    assert!(is_done(script.answer(write)));
}

#[test]
fn an_undo_that_fails_leaves_the_disk_quiesced_with_the_reason() {
    let (host, script) = vhd_host(3);
    let write = script.write(0, 8, 512);
    host.settle();
    assert!(is_done(script.answer(write)));
    host.run(async |disk| disk.quiesce(None).await).unwrap();
    // Every step of it fails once: taking the lock, looking at the footers, at the header, at the table ...
    let mut failures = 0;
    loop {
        host.faults.add(FaultRule::once_after(failures, Fault::error(5)));
        let result = host.run(async |disk| disk.resume(None).await);
        host.faults.clear();
        let Err(error) = result else { break };
        failures += 1;
        assert_eq!(error.os_error(), Some(5), "{error}");
        let status = host.disk.status();
        assert_eq!((status.state(), status.trouble().unwrap().to_string()), (DiskState::Quiesced, error.to_string()));
    }
    assert!(failures >= 4, "{failures}");
    assert!(host.disk.status().trouble().is_none());
    let read = script.read(0, 512);
    host.settle();
    assert_eq!(bytes(script.answer(read)), [8; 512]);
}

#[test]
fn an_image_that_became_another_is_refused_with_both_names() {
    let (host, _script) = vhd_host(4);
    host.put_vhd("/other", &vhd_options(0xb, 8 * MIB, 0));
    let others = host.files.get("/other").unwrap();
    let read = |length| {
        let storage: &dyn storage_io::Storage = &*others;
        let offset = block_core::FileOffset::new(0);
        host.executor.block_on(storage_io::StorageExt::read_bytes(storage, &host.executor, offset, length)).unwrap()
    };
    let length = usize::try_from(others.length()).unwrap();
    for closes_files in [false, true] {
        host.run(async move |disk| if closes_files { disk.pause(None).await } else { disk.quiesce(None).await })
            .unwrap();
        let storage = host.files.get("/v").unwrap();
        let offset = block_core::FileOffset::new(0);
        let mine = host
            .executor
            .block_on(storage_io::StorageExt::read_bytes(&*storage, &host.executor, offset, length))
            .unwrap();
        host.scribble("/v", 0, &read(length));
        let error = host.run(async |disk| disk.resume(None).await).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Mismatch);
        let (was, is) = (uuid::Uuid::from_u128(1).to_string(), uuid::Uuid::from_u128(0xb).to_string());
        assert!(error.to_string().contains(&was) && error.to_string().contains(&is), "{error}");
        host.scribble("/v", 0, &mine);
        host.run(async |disk| disk.resume(None).await).unwrap();
    }
}

/// On real files, with the real lock: while one disk is quiesced, another writes to the image.
#[test]
fn another_writer_has_the_image_meanwhile_and_its_blocks_are_seen() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk.vhd");
    let name = path.to_str().unwrap();
    let executor = Executor::new(EngineChoice::Probe).unwrap();
    executor.block_on(async {
        let options = OpenOptions { create: CreateMode::New, ..OpenOptions::write() };
        let storage = Files.open(&executor, &path, options).await.unwrap();
        create(&executor, &storage, &vhd_options(1, 16 * MIB, 0)).await.unwrap();
    });
    let disk = || Disk::new(&executor, Rc::new(Files), BufferPool::new(1 << 20), Arc::new(()));
    let (first, second) = (disk(), disk());
    let scripts = [&first, &second].map(|disk| {
        let script = Script::default();
        disk.queue().serve(script.clone()).detach();
        script
    });
    let [mine, theirs] = &scripts;
    executor.block_on(async {
        first.open(vhd_spec(name), Settings::default()).await.unwrap();
        let write = mine.write(0, 1, 4096);
        assert!(is_done(Some(mine.answered_to(write).await)));
        assert_eq!(second.open(vhd_spec(name), Settings::default()).await.unwrap_err().kind(), ErrorKind::Busy);
        first.quiesce(None).await.unwrap();
        let held = mine.read(8 * MIB, 4096);
        second.open(vhd_spec(name), Settings::default()).await.expect("the lock was given up");
        let writes = [theirs.write(8 * MIB, 2, 4096), theirs.write(0, 3, 512)];
        for write in writes {
            assert!(is_done(Some(theirs.answered_to(write).await)));
        }
        let error = first.resume(None).await.unwrap_err();
        assert_eq!((error.kind(), first.status().state()), (ErrorKind::Busy, DiskState::Quiesced));
        second.close().await.unwrap();
        first.resume(None).await.unwrap();
        assert_eq!(bytes(Some(mine.answered_to(held).await)), [2; 4096]);
        let read = mine.read(0, 512);
        assert_eq!(bytes(Some(mine.answered_to(read).await)), [3; 512]);
        let write = mine.write(4 * MIB, 4, 512);
        assert!(is_done(Some(mine.answered_to(write).await)), "it writes again");
        assert_eq!(second.open(vhd_spec(name), Settings::default()).await.unwrap_err().kind(), ErrorKind::Busy);
        first.close().await.unwrap();
    });
    executor.end_tasks();
}

/// The lock is given up only when nothing of ours is on its way.
#[test]
fn the_lock_is_given_up_last() {
    let host = Host::running(6);
    let script = Script::default();
    host.disk.queue().serve(script.clone()).detach();
    host.tap.close();
    script.write(0, 1, 512);
    host.settle();
    host.faults.add(FaultRule::every(Fault::Hang).of(OperationKind::Unlock));
    let quiescing = host.begin(async |disk| disk.quiesce(None).await);
    host.settle();
    assert_eq!((script.answered(), host.faults.hanging()), (0, 0));
    host.tap.open();
    host.settle();
    assert_eq!((script.answered(), host.faults.hanging()), (1, 1));
    assert!(!quiescing.is_done() && !host.disk.cancel(), "this cannot be turned back");
    let seen = host.faults.seen();
    host.faults.release();
    host.settle();
    quiescing.result().unwrap();
    assert_eq!(host.faults.seen(), seen, "nothing is asked of a file whose lock is gone");
    host.faults.clear();
    host.run(async |disk| disk.resume(Some(spec("/a"))).await).unwrap();
}
