//! The life of a log, from its first line to its last.

use std::{
    fs,
    io::{self, BufRead},
    os::unix::net::UnixDatagram,
    path::Path,
    thread,
    time::Instant,
};

use block_core::{Error, ErrorKind};
use virtual_disk::Failure;

use super::{samples::failure, *};
use test_support::LogReceiver;

struct Place {
    _directory: tempfile::TempDir,
    path: PathBuf,
    log: Log,
}

fn log() -> Place {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log").join("tapdisk.7.log");
    let log = Log::start_with(path.clone(), 7, Receivers::default()).unwrap();
    Place { _directory: directory, path, log }
}

/// The lines of a log, without their times.
fn lines(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| line.split_once("] ").unwrap().1.to_owned()).collect()
}

#[test]
fn a_log_without_errors_goes_with_the_process() {
    let place = log();
    place.log.info("minor=4: attached");
    place.log.finish();
    assert!(!place.path.exists());
}

#[test]
fn a_log_with_an_error_stays() {
    let place = log();
    place.log.error("minor=4: open:\nno");
    place.log.finish();
    let expected = [
        "tapdisk[7]: log start, level 0",
        "minor=4: open: no",
        "tapdisk-syslog: 1 messages dropped",
        "tapdisk[7]: closing log, 1 errors",
    ];
    assert_eq!(lines(&place.path), expected);
}

#[test]
fn what_a_disk_held_when_it_was_closed_is_an_error_each() {
    let place = log();
    let error = Error::new(ErrorKind::Closed, "the disk is closed");
    let closed = Failure { attempts: 0, error, ..failure(0, "") };
    let disk = reporter(&place.log);
    (0..100).for_each(|_| disk.report(Report::Failed(closed.clone())));
    drop(disk);
    place.log.finish();
    let lines = lines(&place.path);
    assert_eq!(lines.iter().filter(|line| line.contains(": the disk is closed")).count(), 100, "{lines:?}");
    assert!(lines.last().unwrap().ends_with("closing log, 100 errors"));
}

#[test]
fn a_dump_is_kept_and_a_moved_log_is_begun_anew() {
    let place = log();
    place.log.dump("one\ntwo".into());
    while !fs::read_to_string(&place.path).is_ok_and(|text| text.contains("tapdisk-syslog: 0 messages")) {
        thread::yield_now();
    }
    fs::rename(&place.path, place.path.with_extension("1")).unwrap();
    place.log.reopen();
    place.log.info("three");
    place.log.finish();
    assert!(lines(&place.path).contains(&"three".to_owned()));
}

#[test]
fn a_log_that_has_nowhere_to_go_hinders_nobody() {
    let log = Log::start_with("/proc/none/tapdisk.log".into(), 7, Receivers::default()).unwrap();
    (0..10_000).for_each(|number| log.error(number));
    log.finish();
}

/// A receiver that never reads.
fn deaf(directory: &Path) -> (UnixDatagram, Receivers) {
    let path = directory.join("syslog");
    (UnixDatagram::bind(&path).unwrap(), Receivers { journal: None, syslog: Some(path) })
}

fn reporter(log: &Log) -> Arc<dyn Reporter> {
    log.reporter(Minor::new(4).unwrap(), Arc::default())
}

#[test]
fn a_deaf_receiver_costs_the_file_nothing_and_all_lines_are_accounted_for() {
    const THREADS: u64 = 4;
    const FAILURES: u64 = 2500;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tapdisk.7.log");
    let (_receiver, receivers) = deaf(directory.path());
    let log = Log::start_with(path.clone(), 7, receivers).unwrap();
    let reporter = reporter(&log);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| (0..FAILURES).for_each(|_| reporter.report(Report::Failed(failure(5, "/a.vhd")))));
        }
    });
    log.finish();
    let counters = log.counters();
    assert_eq!((counters.produced(), counters.lost()), (THREADS * FAILURES, 0));
    assert!(counters.delivered() > 0 && counters.dropped() > 0);
    assert_eq!(counters.delivered() + counters.dropped(), counters.produced());
    let lines = lines(&path);
    assert_eq!(lines.iter().filter(|line| line.contains(" write 0x2000+0x1000 failed: ")).count() as u64, 10_000);
    let [.., cause, dropped, end] = &lines[..] else { panic!("{lines:?}") };
    assert!(cause.contains("errno 5), at /a.vhd: 10000 failed, 0 retried, 0 not logged,"), "{cause}");
    assert_eq!(*dropped, format!("tapdisk-syslog: {} messages dropped", counters.dropped()));
    assert_eq!(end, "tapdisk[7]: closing log, 10000 errors");
}

/// A log file that takes as much as a pipe does and then hangs, until somebody reads.
fn hanging_file(directory: &Path) -> (PathBuf, fs::File) {
    let path = directory.join("tapdisk.7.log");
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, 0o600.into()).unwrap();
    // Open in both directions: neither side waits for the other.
    let pipe = fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    (path, pipe)
}

#[test]
fn while_the_thread_hangs_nobody_waits_and_what_is_lost_is_known_by_cause() {
    let place = log();
    let published: Arc<Published> = Arc::default();
    let reporter = place.log.reporter(Minor::new(4).unwrap(), published.clone());
    // It asks for the name of the disk, which has to wait.
    let words = published.words();
    let failures = 3 * WAITING_MAX as u64;
    (0..failures).for_each(|_| reporter.report(Report::Failed(failure(5, "/a.vhd"))));
    let overflowed = place.log.counters().overflowed();
    assert!(overflowed > failures / 2, "{overflowed} of {failures}");
    let unlogged: u64 = place.log.causes().iter().map(|counted| counted.unlogged).sum();
    assert!(unlogged <= overflowed && unlogged > overflowed / 2, "{unlogged} of {overflowed}");
    // It gets on: what it had taken is written, and what is missing is told, perhaps in several lines.
    drop(words);
    eventually(|| place.log.counters().waiting.load(Relaxed) == 0);
    place.log.finish();
    let lines = lines(&place.path);
    let told = lines.iter().filter_map(|line| line.strip_suffix(" messages dropped")?.parse::<u64>().ok());
    assert_eq!(told.sum::<u64>(), overflowed);
}

/// Fills the file, which then hangs, and what may wait for it. (A dump is for the file only.)
fn fill(pipe: &fs::File, log: &Log) {
    let lines = ["x".repeat(1000), "\n".into()].concat().repeat(10_000);
    for _ in 0..20 {
        log.dump(lines.clone());
        eventually(|| log.counters().waiting.load(Relaxed) == 0);
        let is_full = rustix::io::ioctl_fionread(pipe).unwrap() >= PIPE_BYTES / 2;
        if is_full && log.counters().refused.load(Relaxed) > 0 {
            return;
        }
        // It may not have come to the file yet.
        thread::sleep(Duration::from_millis(200));
    }
    panic!("more and more waits for it");
}

/// What a pipe holds, as Linux makes it; some less if it is not written in whole pages.
const PIPE_BYTES: u64 = 64 << 10;

fn eventually(mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "somebody waits who must not");
        thread::yield_now();
    }
}

#[test]
fn while_the_file_hangs_the_hosts_log_goes_on_and_what_is_lost_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let (path, mut pipe) = hanging_file(directory.path());
    let receiver = LogReceiver::new(&directory.path().join("syslog"));
    let receivers = Receivers { journal: None, syslog: Some(receiver.path().into()) };
    let log = Log::start_with(path, 7, receivers).unwrap();
    fill(&pipe, &log);
    let (reporter, receiver) = (reporter(&log), receiver.read());
    for number in 1..=100 {
        reporter.report(Report::Failed(failure(5, "/a.vhd")));
        eventually(|| log.counters().delivered() >= number);
    }
    let (_, heard) = receiver.stop();
    assert_eq!(heard.iter().filter(|line| line.contains(" write 0x2000+0x1000 failed: ")).count(), 100);
    assert_eq!((log.counters().overflowed(), log.counters().dropped()), (0, 0));

    // It gets on, and tells what is missing.
    let lost = log.counters().lost();
    assert!(lost >= 100, "{lost}");
    let mut told = 0;
    for line in io::BufReader::new(&mut pipe).lines().map(Result::unwrap) {
        let words = line.strip_suffix(" lines could not be written");
        told += words.and_then(|words| words.rsplit(' ').next()?.parse().ok()).unwrap_or(0);
        if told >= lost {
            break;
        }
    }
    assert_eq!(told, lost);
}

#[test]
fn a_log_is_begun_anew_however_much_waits_for_the_old_one() {
    let directory = tempfile::tempdir().unwrap();
    let (path, mut pipe) = hanging_file(directory.path());
    rustix::io::ioctl_fionbio(&pipe, true).unwrap();
    let log = Log::start_with(path.clone(), 7, Receivers::default()).unwrap();
    fill(&pipe, &log);
    fs::rename(&path, path.with_extension("1")).unwrap();
    let waiting = || log.counters().file_waiting.load(Relaxed);
    let before = waiting();
    (0..1000).for_each(|_| log.reopen());
    eventually(|| log.counters().waiting.load(Relaxed) == 0);
    assert!(waiting() < before + 1000, "once is enough");
    // The pipe is read until nothing comes any more, since lines go to another file.
    let mut bytes = vec![0; 64 << 10];
    for _ in 0..60_000 {
        match io::Read::read(&mut pipe, &mut bytes) {
            Ok(_) => {}
            Err(_) if path.exists() => return,
            Err(_) => thread::sleep(Duration::from_millis(1)),
        }
    }
    panic!("the old file is still in use");
}
