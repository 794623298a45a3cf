//! Requests whose failures may pass are attempted again; nobody else waits for them, and nothing waits for ever.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::time::Duration;

use block_core::{ErrorKind, FileOffset, FileRange};
use storage_io::{Buffer, Fault, FaultRule, OperationKind};
use support::{Host, Posing, Script, bytes, failed, is_done, range, spec};
use virtual_disk::{DiskState, Failure, Operation, Outcome, Report, RequestKind, RetryPolicy, Settings};

const EIO: i32 = 5;
const EAGAIN: i32 = 11;
const ENOSPC: i32 = 28;
const DEADLINE: Duration = Duration::from_secs(120);

/// Fails what is written to the second 4 KiB, `times` times.
fn failing(errno: i32, times: u64) -> FaultRule {
    let place = FileRange::new(FileOffset::new(4096), 4096);
    FaultRule { times, ..FaultRule::every(Fault::error(errno)) }.of(OperationKind::Write).touching(place)
}

fn serve(host: &Host) -> Script {
    let script = Script::default();
    let served = host.disk.queue().serve(script.clone());
    served.detach();
    script
}

fn error(outcome: Option<Outcome>) -> i32 {
    match outcome {
        Some(Outcome::Failed(error)) => error.os_error().unwrap(),
        other => panic!("not a failure: {other:?}"),
    }
}

#[test]
fn what_may_pass_is_attempted_until_it_has_passed() {
    let host = Host::running(1);
    let script = serve(&host);
    host.faults.add(failing(EAGAIN, 5));
    let write = script.write(4096, 7, 4096);
    host.settle();
    assert_eq!((script.answered(), host.disk.status().in_flight(), host.disk.status().waiting()), (0, 0, 1));
    host.pass(Duration::from_secs(1));
    assert!(is_done(script.answer(write)));
    assert_eq!(host.disk.status().totals().retries, 5);
    let read = script.read(4096, 4096);
    host.settle();
    assert_eq!(bytes(script.answer(read)), [7; 4096]);
    assert!(matches!(&host.reports.take()[..], [Report::Retrying(first)] if first.kind == RequestKind::Write));
}

#[test]
fn a_failing_request_never_delays_another() {
    let host = Host::running(2);
    let script = serve(&host);
    host.faults.add(failing(EAGAIN, u64::MAX));
    let before = host.clock.now();
    let failing = script.write(4096, 1, 512);
    let others: Vec<_> = (0..100).map(|index| script.write(8192 + index * 4096, 2, 4096)).collect();
    host.settle();
    assert!(others.into_iter().all(|tag| is_done(script.answer(tag))));
    assert_eq!(host.clock.now(), before, "no time has passed");
    host.pass(Duration::from_secs(60));
    let last = script.write(0, 3, 512);
    host.settle();
    assert!(is_done(script.answer(last)) && script.answer(failing).is_none());
}

#[test]
fn attempts_end_at_the_deadline_with_the_last_error() {
    let host = Host::running(3);
    let script = serve(&host);
    host.faults.add(failing(EAGAIN, 20));
    host.faults.add(failing(12, u64::MAX));
    let write = script.write(4096, 1, 512);
    host.pass(DEADLINE - Duration::from_millis(1));
    assert!(script.answer(write).is_none());
    host.pass(Duration::from_millis(1));
    assert_eq!(error(script.answer(write)), 12);
    let failures = host.reports.failures();
    let [failure] = &failures[..] else { panic!("{failures:?}") };
    assert_eq!((failure.kind, failure.range), (RequestKind::Write, Some(range(4096, 512))));
    assert_eq!(failure.error.origin().map(|origin| &*origin.place), Some("memory"), "{:?}", failure.error);
    assert_eq!(failure.lasted, DEADLINE);
    let attempts = u64::from(failure.attempts);
    assert!((100..300).contains(&attempts), "{attempts}");
    assert_eq!(attempts, host.disk.status().totals().retries + 1);
}

#[test]
fn what_does_not_pass_is_answered_at_once() {
    let host = Host::running(4);
    let script = serve(&host);
    for errno in [ENOSPC, EIO] {
        host.faults.add(failing(errno, 1));
        let write = script.write(4096, 1, 512);
        host.settle();
        assert_eq!(error(script.answer(write)), errno);
        assert!(matches!(&host.reports.failures()[..], [failure] if failure.attempts == 1));
    }
    let beyond = script.read(1 << 40, 512);
    host.settle();
    assert_eq!(failed(script.answer(beyond)), ErrorKind::Invalid);
    let failures = host.reports.failures();
    assert!(matches!(&failures[..], [failure] if failure.attempts == 0 && failure.error.origin().is_none()));
}

#[test]
fn where_another_path_may_take_over_io_errors_may_pass() {
    let retry = RetryPolicy { retry_eio: true, ..RetryPolicy::default() };
    let host = Host::running_with(5, Settings { retry, ..Settings::default() });
    let script = serve(&host);
    host.faults.add(failing(EIO, 3));
    let write = script.write(4096, 1, 512);
    host.pass(Duration::from_secs(1));
    assert!(is_done(script.answer(write)));
}

#[test]
fn io_errors_may_pass_where_a_network_lies_between() {
    for is_remote in [true, false] {
        let host = Host::new(13);
        host.files.put("/far", Posing::new(is_remote, 512));
        host.run(async |disk| disk.open(spec("/far"), Settings::default()).await).unwrap();
        let script = serve(&host);
        host.faults.add(failing(EIO, 3));
        let write = script.write(4096, 7, 4096);
        host.settle();
        if !is_remote {
            assert_eq!(error(script.answer(write)), EIO, "what is near fails at once");
            assert_eq!(host.disk.status().totals().retries, 0);
            continue;
        }
        assert!(script.answer(write).is_none());
        host.pass(Duration::from_secs(1));
        assert!(is_done(script.answer(write)));
        assert_eq!(host.disk.status().totals().retries, 3);
        let read = script.read(4096, 4096);
        host.settle();
        assert_eq!(bytes(script.answer(read)), [7; 4096]);
    }
}

/// The kernel has dropped what it could not write: a second sync would succeed without it.
#[test]
fn what_was_to_be_durable_is_never_attempted_again() {
    let host = Host::running(6);
    let script = serve(&host);
    host.faults.add(failing(EAGAIN, 1));
    let buffer = Buffer::from_bytes(&[1; 512]);
    let write = script.ask(Operation::Write { range: range(4096, 512), buffer, durable: true });
    host.settle();
    assert_eq!(error(script.answer(write)), EAGAIN);
    let host = Host::running(7);
    let script = serve(&host);
    host.faults.add(FaultRule::once_after(0, Fault::error(EAGAIN)).of(OperationKind::Sync));
    let flush = script.ask(Operation::Flush);
    host.settle();
    assert_eq!(error(script.answer(flush)), EAGAIN);
    host.faults.clear();
}

#[test]
fn a_request_that_waits_holds_up_no_pause_and_goes_on_behind_it() {
    let host = Host::running(8);
    let script = serve(&host);
    host.faults.add(failing(EAGAIN, 3));
    let write = script.write(4096, 9, 4096);
    host.settle();
    let before = host.clock.now();
    host.run(async |disk| disk.pause(None).await).unwrap();
    assert_eq!(host.clock.now(), before, "the pause waited for nothing");
    host.pass(2 * DEADLINE);
    assert_eq!((script.answered(), host.disk.status().waiting()), (0, 1));
    assert_eq!(host.faults.struck(), 1, "nothing is attempted while the images are closed");
    host.faults.clear();
    host.run(async |disk| disk.resume(None).await).unwrap();
    host.settle();
    assert!(is_done(script.answer(write)), "there is one more attempt, whatever the deadline says");
}

#[test]
fn closing_answers_who_waits_with_the_last_error() {
    for by_force in [false, true] {
        let host = Host::running(9);
        let script = serve(&host);
        host.faults.add(failing(EAGAIN, u64::MAX));
        let write = script.write(4096, 1, 512);
        host.pass(Duration::from_secs(3));
        let before = host.clock.now();
        let close = async move |disk: virtual_disk::Disk| {
            if by_force { disk.force_close().await } else { disk.close().await }
        };
        host.run(close).unwrap();
        assert_eq!(host.clock.now(), before, "nothing was waited for");
        assert_eq!(error(script.answer(write)), EAGAIN);
        assert_eq!((host.disk.status().state(), host.disk.status().waiting()), (DiskState::Closed, 0));
    }
}

#[test]
fn who_waits_for_nobody_stops_waiting() {
    let host = Host::running(10);
    let script = Script::default();
    let serving = host.disk.queue().serve(script.clone());
    host.faults.add(failing(EAGAIN, u64::MAX));
    script.write(4096, 1, 512);
    host.settle();
    assert_eq!(host.disk.status().waiting(), 1);
    drop(serving);
    host.settle();
    assert_eq!(host.disk.status().waiting(), 0);
}

#[test]
fn what_is_stuck_is_told_once_and_when_it_ends_after_all() {
    let host = Host::running(11);
    let script = serve(&host);
    host.tap.close();
    let write = script.write(4096, 1, 512);
    host.pass(Duration::from_secs(3));
    let later = script.read(0, 512);
    host.pass(Duration::from_secs(6));
    assert!(host.reports.take().is_empty(), "nothing has taken ten seconds");
    host.pass(Duration::from_secs(100));
    let reports = host.reports.take();
    let [Report::Stuck(first), Report::Stuck(second)] = &reports[..] else { panic!("{reports:?}") };
    assert_eq!((first.kind, first.range, first.images.len()), (RequestKind::Write, Some(range(4096, 512)), 1));
    assert!((10..13).contains(&first.lasted.as_secs()), "{:?}", first.lasted);
    assert_eq!(second.kind, RequestKind::Read);
    host.tap.open();
    host.settle();
    assert!(is_done(script.answer(write)) && script.answer(later).is_some());
    let reports = host.reports.take();
    assert!(matches!(&reports[..], [Report::Ended(_), Report::Ended(_)]), "{reports:?}");
    assert!(host.executor.next_timer().is_none(), "an idle disk is not watched");
}

#[test]
fn a_disk_that_is_opened_without_a_watch_reports_nothing() {
    let host = Host::running(12);
    let script = serve(&host);
    let write = script.write(0, 1, 512);
    host.settle();
    assert!(is_done(script.answer(write)));
    host.run(async |disk| disk.close().await).unwrap();
    let settings = Settings { stuck_after: Duration::ZERO, ..Settings::default() };
    host.run(async move |disk| disk.open(spec("/a"), settings).await).unwrap();
    host.tap.close();
    script.write(4096, 1, 512);
    host.pass(Duration::from_secs(100));
    assert!(host.reports.take().is_empty());
    assert!(host.executor.next_timer().is_none(), "nobody looks now and then");
}

#[test]
fn what_fails_again_and_again_is_stuck_too() {
    let host = Host::running(12);
    let script = serve(&host);
    host.faults.add(failing(EAGAIN, u64::MAX));
    let write = script.write(4096, 7, 4096);
    host.pass(2 * DEADLINE);
    assert_eq!(error(script.answer(write)), EAGAIN);
    let reports = host.reports.take();
    let [Report::Retrying(_), Report::Stuck(stuck), Report::Failed(_), Report::Ended(ended)] = &reports[..] else {
        panic!("{reports:?}")
    };
    assert!((10..13).contains(&stuck.lasted.as_secs()), "{:?}", stuck.lasted);
    assert!(ended.lasted >= DEADLINE - Duration::from_secs(10), "{:?}", ended.lasted);
    assert_eq!(host.disk.status().totals().stuck, 1);
}

#[test]
fn a_stuck_request_has_ended_when_it_is_answered_and_not_when_an_attempt_of_it_fails() {
    let host = Host::running(13);
    let script = serve(&host);
    host.faults.add(failing(EAGAIN, 1));
    host.tap.close();
    let write = script.write(4096, 7, 4096);
    host.pass(Duration::from_secs(20));
    assert!(matches!(&host.reports.take()[..], [Report::Stuck(_)]));
    host.tap.open();
    host.settle();
    assert_eq!(host.disk.status().waiting(), 1);
    host.tap.close();
    host.pass(Duration::from_secs(60));
    assert_eq!(host.disk.status().in_flight(), 1, "its second attempt hangs");
    let reports = host.reports.take();
    assert!(matches!(&reports[..], [Report::Retrying(_)]), "one story: {reports:?}");
    host.tap.open();
    host.settle();
    assert!(is_done(script.answer(write)));
    let reports = host.reports.take();
    assert!(matches!(&reports[..], [Report::Ended(ended)] if ended.lasted.as_secs() == 80), "{reports:?}");
}

#[test]
fn what_a_paused_disk_held_when_it_is_closed_is_told_request_by_request() {
    let host = Host::running(14);
    let script = serve(&host);
    host.settle();
    host.run(async |disk| disk.pause(None).await).unwrap();
    (0..100).for_each(|index| _ = script.write(index * 512, 1, 512));
    host.run(async |disk| disk.close().await).unwrap();
    host.settle();
    let failures = host.reports.failures();
    let is_told = |failure: &&Failure| failure.attempts == 0 && failure.error.kind() == ErrorKind::Closed;
    assert_eq!((failures.len(), failures.iter().filter(is_told).count()), (100, 100));
}
