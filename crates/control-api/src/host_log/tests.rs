//! What arrives of what was sent, whatever receivers do.

use std::{
    fs,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
};

use super::*;

/// A place for sockets.
struct Host(tempfile::TempDir);

impl Host {
    fn new() -> Host {
        Host(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A way to `journal` and `syslog` of this place, whether anybody listens there or not.
    fn log(&self) -> HostLog {
        let receivers = Receivers { journal: Some(self.path("journal")), syslog: Some(self.path("syslog")) };
        HostLog::at(receivers, "tapdisk", 7, Facility::Daemon)
    }

    fn listen(&self, name: &str) -> UnixDatagram {
        listen(&self.path(name))
    }
}

fn listen(path: &Path) -> UnixDatagram {
    let _ = fs::remove_file(path);
    let receiver = UnixDatagram::bind(path).unwrap();
    receiver.set_nonblocking(true).unwrap();
    receiver
}

fn say(log: &mut HostLog, text: impl Into<String>) {
    log.send(Record::now(Severity::Info, text));
}

/// Everything that a receiver has got, without what stands in front of the text.
fn received(receiver: &UnixDatagram) -> Vec<String> {
    let mut bytes = [0; 1024];
    let next = || receiver.recv(&mut bytes).ok().map(|length| String::from_utf8(bytes[..length].to_vec()).unwrap());
    std::iter::from_fn(next).map(|line| line.split_once("]: ").map_or(line.clone(), |(_, text)| text.into())).collect()
}

fn counts(log: &HostLog) -> [u64; 3] {
    let counters = log.counters();
    [counters.sent(), counters.delivered(), counters.dropped()]
}

#[test]
fn a_message_is_one_datagram() {
    let host = Host::new();
    let receiver = host.listen("syslog");
    let mut log = host.log();
    say(&mut log, "one");
    say(&mut log, "two");
    assert_eq!(received(&receiver), ["one", "two"]);
    assert_eq!(counts(&log), [2, 2, 0]);
}

#[test]
fn a_journal_that_listens_is_told_instead_of_syslog() {
    let host = Host::new();
    let (journal, syslog) = (host.listen("journal"), host.listen("syslog"));
    let mut log = host.log();
    say(&mut log, "one");
    assert!(received(&journal).concat().starts_with("MESSAGE=one\n"));
    // Only until it is gone for good.
    drop(journal);
    fs::remove_file(host.path("journal")).unwrap();
    say(&mut log, "two");
    assert_eq!(received(&syslog), ["two"]);
}

#[test]
fn a_deaf_receiver_gets_later_what_fits_and_the_number_of_the_rest_in_its_place() {
    let host = Host::new();
    let receiver = host.listen("syslog");
    let mut log = host.log();
    (0..5000).for_each(|number| say(&mut log, format!("line {number}, and words that make it a little longer")));
    let [_, delivered, dropped] = counts(&log);
    assert!(dropped > 0 && delivered < 1000, "{delivered} delivered");

    let mut lines = Vec::new();
    while log.is_waiting() {
        lines.extend(received(&receiver));
        log.retry();
    }
    say(&mut log, "afterwards");
    lines.extend(received(&receiver));
    let [sent, delivered, dropped] = counts(&log);
    assert_eq!((sent, delivered + dropped), (5001, sent), "nothing waits any more");
    assert_eq!(lines.pop().unwrap(), "afterwards");
    assert_eq!(lines.pop().unwrap(), format!("tapdisk-syslog: {dropped} messages dropped"));
    assert_eq!(lines.len() as u64 + 1, delivered);
    for (number, line) in lines.iter().enumerate() {
        assert!(line.starts_with(&format!("line {number},")), "the oldest are kept, in order: {line}");
    }
}

#[test]
fn notices_and_lines_add_up_however_the_receiver_stutters() {
    let host = Host::new();
    let receiver = host.listen("syslog");
    let mut log = host.log();
    let mut lines = Vec::new();
    for number in 0..20_000 {
        say(&mut log, format!("line {number}"));
        if number % 3000 == 0 {
            lines.extend(received(&receiver));
        }
    }
    while log.is_waiting() {
        lines.extend(received(&receiver));
        log.retry();
    }
    lines.extend(received(&receiver));
    let mut next = 0;
    for line in &lines {
        match line.strip_prefix("tapdisk-syslog: ").and_then(|rest| rest.strip_suffix(" messages dropped")) {
            Some(dropped) => next += dropped.parse::<u64>().unwrap(),
            None => {
                assert_eq!(line, &format!("line {next}"), "what is missing is told where it is missing");
                next += 1;
            }
        }
    }
    assert_eq!(next, 20_000);
}

#[test]
fn a_receiver_that_is_restarted_misses_nothing() {
    let host = Host::new();
    let first = host.listen("syslog");
    let mut log = host.log();
    say(&mut log, "one");
    drop(first);
    say(&mut log, "two");
    say(&mut log, "three");
    assert!(log.is_waiting());
    let second = host.listen("syslog");
    assert!(log.retry() && !log.is_waiting());
    say(&mut log, "four");
    assert_eq!(received(&second), ["two", "three", "four"]);
    assert_eq!(counts(&log), [4, 4, 0]);
}

#[test]
fn a_host_without_a_log_costs_bounded_memory_and_loses_messages_only() {
    let host = Host::new();
    let mut log = host.log();
    (0..10_000).for_each(|number| say(&mut log, format!("line {number}")));
    assert!(log.waiting_bytes <= WAITING_BYTES_MAX);
    log.finish(Duration::from_secs(60));
    assert_eq!(counts(&log), [10_000, 0, 10_000]);
}

#[test]
fn at_the_end_a_busy_receiver_gets_its_time_and_a_deaf_one_does_not() {
    let host = Host::new();
    let receiver = host.listen("syslog");
    let mut log = host.log();
    while !log.is_waiting() {
        say(&mut log, "hello");
    }
    let reader = std::thread::spawn(move || {
        receiver.set_nonblocking(false).unwrap();
        receiver.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        let got = received(&receiver).len();
        (got as u64, receiver)
    });
    log.finish(Duration::from_secs(60));
    let [sent, delivered, dropped] = counts(&log);
    let (got, receiver) = reader.join().unwrap();
    assert_eq!((got, delivered, dropped), (sent, sent, 0));

    while !log.is_waiting() {
        say(&mut log, "hello");
    }
    log.finish(Duration::from_millis(10));
    let [_, _, dropped] = counts(&log);
    assert!(dropped > 0 && !log.is_waiting());
    drop(receiver);
}
