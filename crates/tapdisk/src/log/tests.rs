//! The life of a log, from its first line to its last.

use std::{fs, path::Path, thread};

use super::*;

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
