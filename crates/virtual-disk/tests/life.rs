//! The life of a disk as its clients see it: opened, paused under their feet, resumed, closed.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::{sync::Arc, time::Duration};

use block_core::{ErrorKind, FileOffset};
use futures_util::FutureExt;
use storage_io::{Buffer, MemoryStorage, StorageExt};
use support::{DISK_BYTES, Host, Script, bytes, failed, range, spec};
use virtual_disk::{DiskState, FORCED_CLOSE_GRACE, Operation, Outcome, RequestKind, Settings};

#[test]
fn what_was_written_is_read_back_and_answers_come_in_batches() {
    let host = Host::running(1);
    let script = Script::default();
    let _serving = host.disk.queue().serve(script.clone());
    let writes: Vec<_> = (0..8).map(|index| script.write(index * 512, 0x40, 512)).collect();
    host.settle();
    assert!(writes.into_iter().all(|tag| matches!(script.answer(tag), Some(Outcome::Done))));
    assert!(script.batches() < 8, "{} batches for 8 answers", script.batches());
    let read = script.read(100, 1000);
    host.settle();
    assert_eq!(bytes(script.answer(read)), [0x40; 1000]);
}

#[test]
fn a_source_is_given_back_when_it_has_ended_and_all_is_answered() {
    let host = Host::running(2);
    let script = Script::default();
    let serving = host.disk.queue().serve(script.clone());
    host.tap.close();
    script.write(0, 1, 512);
    script.end();
    host.settle();
    assert_eq!((script.answered(), host.disk.status().in_flight()), (0, 1));
    host.tap.open();
    host.executor.block_on(serving);
    assert_eq!((script.answered(), host.disk.status().in_flight()), (1, 0));
}

#[test]
fn requests_that_come_while_the_disk_is_paused_are_answered_after_it_resumed() {
    let host = Host::running(3);
    let script = Script::default();
    let _serving = host.disk.queue().serve(script.clone());
    host.executor.block_on(host.disk.pause(None)).unwrap();
    assert_eq!(host.disk.status().state(), DiskState::Paused);
    let held = script.write(512, 7, 512);
    host.settle();
    assert_eq!((script.answered(), script.waiting()), (0, 1));
    host.executor.block_on(host.disk.pause(None)).expect("pausing twice is pausing once");
    host.executor.block_on(host.disk.resume(None)).unwrap();
    host.settle();
    assert!(matches!(script.answer(held), Some(Outcome::Done)));
}

#[test]
fn pausing_waits_for_what_runs() {
    let host = Host::running(4);
    let script = Script::default();
    let _serving = host.disk.queue().serve(script.clone());
    host.tap.close();
    let write = script.write(0, 1, 512);
    host.settle();
    let pausing = host.executor.spawn({
        let disk = host.disk.clone();
        async move { disk.pause(None).await }
    });
    host.settle();
    assert_eq!((host.disk.status().state(), script.answered()), (DiskState::Pausing, 0));
    assert_eq!(host.disk.status().step(), Some("waiting for requests to end"));
    host.tap.open();
    host.executor.block_on(pausing).unwrap();
    assert_eq!(host.disk.status().step(), None);
    assert!(matches!(script.answer(write), Some(Outcome::Done)));
}

#[test]
fn a_pause_that_takes_too_long_says_what_it_waits_for_and_the_disk_runs_on() {
    let host = Host::running(5);
    let script = Script::default();
    let _serving = host.disk.queue().serve(script.clone());
    host.tap.close();
    script.write(4096, 1, 512);
    host.settle();
    let error = host.executor.block_on(host.disk.pause(Some(Duration::from_secs(3)))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert_eq!(error.to_string(), "1 request in flight: write 0x1000+0x200 for 3.0 s");
    assert_eq!(host.disk.status().state(), DiskState::Running);
    host.tap.open();
    host.settle();
    let read = script.read(4096, 512);
    host.settle();
    assert_eq!(bytes(script.answer(read)), [1; 512]);
    host.executor.block_on(host.disk.pause(Some(Duration::from_secs(3)))).unwrap();
}

#[test]
fn a_pause_goes_on_when_who_asked_has_gone() {
    let host = Host::running(6);
    let script = Script::default();
    let _serving = host.disk.queue().serve(script.clone());
    host.tap.close();
    script.write(0, 1, 512);
    host.settle();
    assert!(host.disk.pause(None).now_or_never().is_none());
    host.tap.open();
    host.settle();
    assert_eq!(host.disk.status().state(), DiskState::Paused);
}

#[test]
fn nothing_read_before_a_pause_is_remembered_after_it() {
    let host = Host::running(7);
    let script = Script::default();
    let _serving = host.disk.queue().serve(script.clone());
    script.write(0, 1, 4096);
    host.settle();
    host.executor.block_on(host.disk.pause(None)).unwrap();
    let other = MemoryStorage::new(DISK_BYTES as usize);
    let written = host.executor.block_on((&other as &dyn storage_io::Storage).write(
        &host.executor,
        FileOffset::new(0),
        Buffer::from_bytes(&[2; 4096]),
    ));
    written.1.unwrap();
    host.files.put("/a", Arc::new(other));
    host.executor.block_on(host.disk.resume(None)).unwrap();
    let read = script.read(0, 4096);
    host.settle();
    assert_eq!(bytes(script.answer(read)), [2; 4096]);
}

#[test]
fn a_smaller_image_is_not_resumed_to_and_the_disk_stays_paused() {
    let host = Host::running(8);
    let script = Script::default();
    let _serving = host.disk.queue().serve(script.clone());
    host.files.put("/smaller", Arc::new(MemoryStorage::new(DISK_BYTES as usize / 2)));
    host.executor.block_on(host.disk.pause(None)).unwrap();
    let held = script.read(0, 512);
    let error = host.executor.block_on(host.disk.resume(Some(spec("/smaller")))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SizeChanged);
    let status = host.disk.status();
    assert_eq!((status.state(), script.answered()), (DiskState::ResumeFailed, 0));
    assert_eq!(status.trouble().unwrap().to_string(), error.to_string());
    host.executor.block_on(host.disk.resume(Some(spec("/a")))).unwrap();
    host.settle();
    assert_eq!(bytes(script.answer(held)), [0; 512]);
    assert!(status.trouble().is_none());
}

#[test]
fn a_missing_image_leaves_the_disk_as_it_was() {
    let host = Host::new(9);
    let error = host.executor.block_on(host.disk.open(spec("/missing"), Settings::default())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(host.disk.status().state(), DiskState::Attached);
    host.executor.block_on(host.disk.open(spec("/a"), Settings::default())).unwrap();
    let again = host.executor.block_on(host.disk.open(spec("/a"), Settings::default())).unwrap_err();
    assert_eq!(again.kind(), ErrorKind::Busy);
    host.executor.block_on(host.disk.pause(None)).unwrap();
    let error = host.executor.block_on(host.disk.resume(Some(spec("/missing")))).unwrap_err();
    assert_eq!((error.kind(), host.disk.status().state()), (ErrorKind::NotFound, DiskState::ResumeFailed));
    host.executor.block_on(host.disk.resume(None)).expect("the old name holds when the new one could not be opened");
}

#[test]
fn closing_answers_what_runs_and_refuses_what_comes() {
    let host = Host::running(10);
    let script = Script::default();
    let _serving = host.disk.queue().serve(script.clone());
    host.tap.close();
    let running = script.write(0, 1, 512);
    host.settle();
    let closing = host.executor.spawn({
        let disk = host.disk.clone();
        async move { disk.close().await }
    });
    host.settle();
    let late = script.read(0, 512);
    host.settle();
    assert_eq!(failed(script.answer(late)), ErrorKind::Closed);
    host.tap.open();
    host.executor.block_on(closing).unwrap();
    assert!(matches!(script.answer(running), Some(Outcome::Done)));
    assert_eq!(host.disk.status().state(), DiskState::Closed);
    host.executor.block_on(host.disk.close()).expect("closing twice is closing once");
}

#[test]
fn a_closed_disk_can_be_opened_again() {
    let host = Host::running(11);
    let script = Script::default();
    let _serving = host.disk.queue().serve(script.clone());
    script.write(0, 9, 512);
    host.settle();
    host.executor.block_on(host.disk.close()).unwrap();
    assert!(host.disk.status().image().is_none());
    host.executor.block_on(host.disk.open(spec("/a"), Settings::default())).unwrap();
    let read = script.read(0, 512);
    host.settle();
    assert_eq!(bytes(script.answer(read)), [9; 512]);
}

#[test]
fn closing_a_paused_disk_refuses_what_was_held() {
    let host = Host::running(12);
    let script = Script::default();
    let _serving = host.disk.queue().serve(script.clone());
    host.executor.block_on(host.disk.pause(None)).unwrap();
    let held = script.read(0, 512);
    host.settle();
    host.executor.block_on(host.disk.close()).unwrap();
    host.settle();
    assert_eq!(failed(script.answer(held)), ErrorKind::Closed);
}

#[test]
fn closing_by_force_does_not_wait_for_storage_that_hangs() {
    let host = Host::running(13);
    let storage = Arc::downgrade(&host.files.get("/a").unwrap());
    let (leaving, staying) = (Script::default(), Script::default());
    let serving = host.disk.queue().serve(leaving.clone());
    let _serving = host.disk.queue().serve(staying.clone());
    host.tap.close();
    let lost = [leaving.write(8192, 1, 512), staying.write(0, 1, 512)];
    host.settle();
    host.files.remove("/a");
    let before = host.executor.now();
    let error = host.executor.block_on(host.disk.force_close()).unwrap_err();
    assert_eq!(host.executor.now() - before, FORCED_CLOSE_GRACE);
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!(error.to_string().starts_with("storage hangs: 2 requests in flight: write 0x"), "{error}");
    let status = host.disk.status();
    assert_eq!((status.state(), status.in_flight()), (DiskState::Stuck, 2));
    assert!(storage.upgrade().is_some(), "the file, and with it its lock, stays with what the kernel holds");
    leaving.end();
    host.executor.block_on(serving);
    let late = staying.read(0, 512);
    host.settle();
    assert_eq!(failed(staying.answer(late)), ErrorKind::Closed);
    host.tap.open();
    host.settle();
    assert_eq!((status.state(), status.in_flight()), (DiskState::Closed, 0));
    assert!(storage.upgrade().is_none());
    assert!(leaving.answer(lost[0]).is_none() && staying.answer(lost[1]).is_none(), "what was given up never comes");
}

#[test]
fn closing_by_force_is_closing_when_storage_works() {
    let host = Host::running(14);
    let script = Script::default();
    let _serving = host.disk.queue().serve(script.clone());
    let write = script.write(0, 1, 512);
    let closing = host.executor.spawn({
        let disk = host.disk.clone();
        async move { disk.force_close().await }
    });
    host.executor.block_on(closing).unwrap();
    host.settle();
    assert_eq!((host.disk.status().state(), script.answered()), (DiskState::Closed, 1));
    drop(script.answer(write));
    host.executor.block_on(host.disk.open(spec("/a"), Settings::default())).unwrap();
}

#[test]
fn closing_by_force_ends_a_pause_that_hangs() {
    let host = Host::running(15);
    let script = Script::default();
    let _serving = host.disk.queue().serve(script.clone());
    host.tap.close();
    script.write(0, 1, 512);
    host.settle();
    let pausing = host.executor.spawn({
        let disk = host.disk.clone();
        async move { disk.pause(None).await }
    });
    host.settle();
    let error = host.executor.block_on(host.disk.force_close()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert_eq!(host.executor.block_on(pausing).unwrap_err().kind(), ErrorKind::Closed);
    host.tap.open();
    host.settle();
    assert_eq!(host.disk.status().state(), DiskState::Closed);
}

#[test]
fn a_read_only_disk_refuses_changes_at_its_door() {
    let host = Host::new(16);
    let read_only = image_chain::ChainSpec { access: storage_io::Access::Read, ..spec("/a") };
    let geometry = host.executor.block_on(host.disk.open(read_only, Settings::default())).unwrap();
    assert!(geometry.read_only);
    let script = Script::default();
    let _serving = host.disk.queue().serve(script.clone());
    let (write, beyond) = (script.write(0, 1, 512), script.read(u64::from(DISK_BYTES), 1));
    host.settle();
    assert_eq!(failed(script.answer(write)), ErrorKind::ReadOnly);
    assert_eq!(failed(script.answer(beyond)), ErrorKind::Invalid);
}

#[test]
fn counters_tell_what_was_done() {
    let host = Host::running(17);
    let script = Script::default();
    let _serving = host.disk.queue().serve(script.clone());
    host.tap.close();
    script.write(0, 1, 4096);
    script.read(u64::from(DISK_BYTES), 512);
    script.ask(Operation::Discard { range: range(0, 0), durable: false });
    host.settle();
    host.executor.block_on(host.executor.sleep(Duration::from_millis(2)));
    host.tap.open();
    host.settle();
    let status = host.disk.status();
    let writes = status.count(RequestKind::Write);
    assert_eq!((writes.requests, writes.completed, writes.sectors, writes.errors), (1, 1, 8, 0));
    assert_eq!(writes.served_microseconds, 2000);
    let reads = status.count(RequestKind::Read);
    assert_eq!((reads.requests, reads.completed, reads.errors), (1, 1, 1));
    assert_eq!(status.count(RequestKind::Discard).completed, 1);
}

#[test]
fn a_source_that_is_dropped_takes_its_answers_with_it() {
    let host = Host::running(18);
    let script = Script::default();
    let serving = host.disk.queue().serve(script.clone());
    host.tap.close();
    script.write(0, 1, 512);
    host.settle();
    drop(serving);
    host.tap.open();
    host.settle();
    assert_eq!((script.answered(), host.disk.status().in_flight()), (0, 0));
}

#[test]
fn closing_while_somebody_closes_by_force_waits_for_the_outcome() {
    let host = Host::running(19);
    let script = Script::default();
    let _serving = host.disk.queue().serve(script.clone());
    host.tap.close();
    script.write(0, 1, 512);
    host.settle();
    let forcing = host.executor.spawn({
        let disk = host.disk.clone();
        async move { disk.force_close().await }
    });
    host.settle();
    let error = host.executor.block_on(host.disk.close()).unwrap_err();
    assert!(error.to_string().starts_with("storage hangs"), "{error}");
    assert_eq!(host.executor.block_on(forcing).unwrap_err().kind(), ErrorKind::TimedOut);
    host.tap.open();
    host.settle();
    host.executor.block_on(host.disk.close()).expect("it has become closed by itself");
}

#[test]
fn closing_by_force_ends_an_opening_that_hangs() {
    let host = Host::new(20);
    let storage = Arc::downgrade(&host.files.get("/a").unwrap());
    host.tap.close();
    let opening = host.executor.spawn({
        let disk = host.disk.clone();
        async move { disk.open(spec("/a"), Settings::default()).await }
    });
    host.settle();
    let error = host.executor.block_on(host.disk.force_close()).unwrap_err();
    assert_eq!(error.to_string(), "storage hangs: opening the images");
    assert_eq!(host.executor.block_on(opening).unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(host.disk.status().state(), DiskState::Stuck);
    host.tap.open();
    host.settle();
    assert_eq!(host.disk.status().state(), DiskState::Closed);
    assert_eq!(storage.strong_count(), 1, "nobody keeps the image open");
}
