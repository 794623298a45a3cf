//! Opening and resuming wait for storage that may never answer: whoever asked can have them turned back, and storage that
//! answers later finds nobody.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::sync::Arc;

use block_core::ErrorKind;
use storage_io::{Fault, FaultRule, OperationKind, StorageExt};
use support::{Host, Script, bytes, is_done, spec, vhd_options, vhd_spec};
use virtual_disk::{DiskState, Settings};

const MIB: u64 = 1 << 20;

/// A disk that is not open, and a VHD image of 8 MiB for it.
fn vhd_host(seed: u64) -> Host {
    let host = Host::new(seed);
    host.put_vhd("/v", &vhd_options(1, 8 * MIB, 0));
    host
}

fn open(host: &Host) {
    host.run(async |disk| disk.open(vhd_spec("/v"), Settings::default()).await).unwrap();
}

fn state(host: &Host) -> DiskState {
    host.disk.status().state()
}

/// Who else holds a file of the host.
fn holders(host: &Host) -> usize {
    Arc::strong_count(&host.files.get("/v").unwrap())
}

#[test]
fn an_opening_that_hangs_is_turned_back_wherever_it_reads() {
    for (seed, reads) in (1..).zip(0..3) {
        let host = vhd_host(seed);
        let unopened = holders(&host);
        host.faults.add(FaultRule::once_after(reads, Fault::Hang).of(OperationKind::Read));
        let opening = host.begin(async |disk| disk.open(vhd_spec("/v"), Settings::default()).await);
        host.settle();
        assert_eq!((state(&host), host.faults.hanging()), (DiskState::Opening, 1), "{reads} reads went well");
        assert!(host.disk.cancel());
        host.settle();
        assert_eq!(opening.result().unwrap_err().kind(), ErrorKind::Cancelled);
        assert_eq!(state(&host), DiskState::Opening, "storage has not let go");
        assert!(!host.disk.cancel(), "once is enough");
        host.faults.release();
        host.settle();
        assert_eq!(state(&host), DiskState::Attached);
        assert_eq!(holders(&host), unopened, "its files are closed, its lock is gone");
        open(&host);
        assert!(host.disk.status().trouble().is_none());
    }
}

#[test]
fn a_disk_that_was_closed_is_closed_again() {
    let host = vhd_host(4);
    open(&host);
    host.run(async |disk| disk.close().await).unwrap();
    host.tap.close();
    let opening = host.begin(async |disk| disk.open(vhd_spec("/v"), Settings::default()).await);
    host.settle();
    assert!(host.disk.cancel());
    host.settle();
    assert_eq!(opening.result().unwrap_err().kind(), ErrorKind::Cancelled);
    host.tap.open();
    host.settle();
    assert_eq!(state(&host), DiskState::Closed);
}

/// A leaf that ends before its last block does is made as long as it should be; from then on the opening ends as it likes.
#[test]
fn an_opening_that_changes_the_image_is_not_turned_back() {
    let host = vhd_host(5);
    open(&host);
    let script = Script::default();
    host.disk.queue().serve(script.clone()).detach();
    let write = script.write(MIB, 5, 4096);
    host.settle();
    assert!(is_done(script.answer(write)));
    host.run(async |disk| disk.close().await).unwrap();
    let storage = host.files.get("/v").unwrap();
    host.executor.block_on(storage.set_length(&host.executor, storage.length() - MIB)).unwrap();
    host.faults.add(FaultRule::every(Fault::Hang).of(OperationKind::SetLength));
    let opening = host.begin(async |disk| disk.open(vhd_spec("/v"), Settings::default()).await);
    host.settle();
    assert_eq!((state(&host), host.faults.hanging()), (DiskState::Opening, 1));
    assert!(!host.disk.cancel());
    host.faults.clear();
    host.faults.release();
    host.settle();
    opening.result().unwrap();
    assert_eq!(state(&host), DiskState::Running);
}

#[test]
fn a_resume_that_hangs_is_turned_back_and_the_disk_stays_paused() {
    let host = Host::running(6);
    let script = Script::default();
    host.disk.queue().serve(script.clone()).detach();
    host.run(async |disk| disk.pause(None).await).unwrap();
    let held = script.write(0, 1, 512);
    for named in [None, Some("/a")] {
        host.tap.close();
        let resuming = host.begin(async move |disk| disk.resume(named.map(spec)).await);
        host.settle();
        assert_eq!(state(&host), DiskState::Resuming);
        assert!(host.disk.cancel());
        host.settle();
        assert_eq!(resuming.result().unwrap_err().kind(), ErrorKind::Cancelled);
        assert_eq!(state(&host), DiskState::Resuming, "storage has not let go");
        host.tap.open();
        host.settle();
        assert_eq!(state(&host), DiskState::ResumeFailed);
        assert_eq!(host.disk.status().trouble().unwrap().to_string(), "turned back");
    }
    assert!(script.answer(held).is_none(), "it is held as before");
    host.run(async |disk| disk.resume(None).await).unwrap();
    host.settle();
    assert!(is_done(script.answer(held)) && host.disk.status().trouble().is_none());
}

#[test]
fn a_quiesced_disk_whose_resume_is_turned_back_stays_quiesced() {
    for (seed, kind) in (7..).zip([OperationKind::Lock, OperationKind::Read]) {
        let host = vhd_host(seed);
        open(&host);
        let script = Script::default();
        host.disk.queue().serve(script.clone()).detach();
        let write = script.write(MIB, 5, 4096);
        host.settle();
        assert!(is_done(script.answer(write)));
        host.run(async |disk| disk.quiesce(None).await).unwrap();
        host.faults.add(FaultRule::every(Fault::Hang).of(kind));
        let resuming = host.begin(async |disk| disk.resume(None).await);
        host.settle();
        assert_eq!(host.faults.hanging(), 1, "{kind:?}");
        assert!(host.disk.cancel());
        host.settle();
        assert_eq!(resuming.result().unwrap_err().kind(), ErrorKind::Cancelled);
        host.faults.clear();
        host.faults.release();
        host.settle();
        assert_eq!(state(&host), DiskState::Quiesced);
        host.run(async |disk| disk.resume(None).await).unwrap();
        let read = script.read(MIB, 4096);
        host.settle();
        assert_eq!(bytes(script.answer(read)), [5; 4096]);
    }
}

#[test]
fn closing_by_force_has_the_last_word() {
    let host = vhd_host(9);
    host.tap.close();
    let opening = host.begin(async |disk| disk.open(vhd_spec("/v"), Settings::default()).await);
    host.settle();
    assert!(host.disk.cancel());
    let closing = host.begin(async |disk| disk.force_close().await);
    host.settle();
    assert_eq!(state(&host), DiskState::Closing, "storage has not let go");
    host.tap.open();
    host.settle();
    assert!(opening.result().is_err());
    closing.result().unwrap();
    assert_eq!(state(&host), DiskState::Closed);
}
