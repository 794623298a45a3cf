//! `td-rated` as disks and people meet it.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    fs,
    io::{ErrorKind, Read, Write},
    os::unix::{
        fs::PermissionsExt,
        net::{UnixDatagram, UnixStream},
    },
    path::PathBuf,
    time::Duration,
};

use control_api::RunDir;
use rustix::process::Signal;
use test_support::{Rated, RunDirectory};
use wire::rate_limit::{Demand, NEED_BYTES_MAX};

/// A hang limit, not a measure.
const LONG: Duration = Duration::from_secs(60);
/// Long enough to believe that nothing comes. If something came late, the test would not fail wrongly.
const A_WHILE: Duration = Duration::from_millis(150);

/// A host with one in the foreground.
struct Host {
    rated: Rated,
    place: RunDirectory,
}

impl Host {
    fn start(words: &[&str]) -> Host {
        let place = RunDirectory::new();
        let rated = Rated::start(&place, words);
        Host { rated, place }
    }

    fn socket(&self) -> PathBuf {
        RunDir::at(self.place.path()).rate_limiter("gold")
    }

    fn connect(&self) -> Disk {
        Disk::connect(&self.socket())
    }

    fn end(self) {
        let socket = self.socket();
        assert!(self.rated.end().success());
        assert!(!socket.exists());
        self.place.assert_nothing_left();
    }
}

/// A disk's side of a connection.
struct Disk(UnixStream);

impl Disk {
    fn connect(socket: &std::path::Path) -> Disk {
        let stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        Disk(stream)
    }

    fn say(&mut self, need: u64, done: u64) {
        self.0.write_all(&Demand { need, done }.encode()).unwrap();
    }

    fn grant(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.0.read_exact(&mut bytes).unwrap();
        u64::from_le_bytes(bytes)
    }

    fn hears_nothing(&mut self) {
        self.0.set_read_timeout(Some(A_WHILE)).unwrap();
        let error = loop {
            match self.0.read(&mut [0; 8]) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                other => break other.unwrap_err(),
            }
        };
        assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
        self.0.set_read_timeout(Some(LONG)).unwrap();
    }

    fn is_cut_off(&mut self) -> bool {
        matches!(self.0.read(&mut [0; 8]), Ok(0) | Err(_))
    }
}

#[test]
fn a_disk_gets_what_it_needs_while_there_is_credit() {
    let mut host = Host::start(&["-t", "token", "--", "--rate", "1", "--cap", "10000"]);
    let mut disk = host.connect();
    for _ in 0..2 {
        disk.say(4096, 0);
        assert_eq!(disk.grant(), 4096);
        disk.say(0, 4096);
    }
    disk.say(8192, 0);
    assert_eq!(disk.grant(), 8192, "the last one goes into debt");
    disk.say(1, 4096);
    disk.hears_nothing();
    // A byte on stdin, and a signal, have the same answer.
    host.rated.type_line();
    for _ in 0..2 {
        host.rated.line("token: rate=1 cap=10000 credit=-63");
        host.rated.line("clients=1 waiting=1 granted=16384");
        host.rated.line("client=1 need=1 granted=16384 done=12288 in-use=4096");
        host.rated.signal(Signal::USR1);
    }
    host.end();
}

#[test]
fn disks_share_what_there_is() {
    let mut host = Host::start(&["-t", "token", "--", "-r", "1", "-c", "1Mi"]);
    let mut disks: Vec<Disk> = (0..8).map(|_| host.connect()).collect();
    let mut granted = 0;
    // Each asks for what it got, until the credit is used up: one grant may go beyond it, and no more.
    'all: loop {
        for disk in &mut disks {
            if granted > 1 << 20 {
                break 'all;
            }
            disk.say(100_000, 0);
            granted += disk.grant();
        }
    }
    assert!(granted <= (1 << 20) + 100_000, "{granted}");
    for disk in &mut disks {
        disk.say(1, 0);
    }
    disks.iter_mut().for_each(Disk::hears_nothing);
    host.rated.signal(Signal::USR1);
    host.rated.line(&format!("clients=8 waiting=8 granted={granted}"));
    host.end();
}

#[test]
fn who_breaks_the_rules_is_cut_off_and_others_are_not() {
    let mut host = Host::start(&["-t", "token", "--", "-r", "1G", "-c", "1G"]);
    let mut honest = host.connect();
    for (need, done, reason) in [
        (NEED_BYTES_MAX + 1, 0, "bytes are needed"),
        (u64::MAX, 0, "bytes are needed"),
        (0, 1, "bytes are done of 0 granted"),
        (0, u64::MAX, "bytes are done of 0 granted"),
    ] {
        let mut disk = host.connect();
        disk.say(need, done);
        assert!(disk.is_cut_off(), "need {need} done {done}");
        host.rated.line(reason);
    }
    drop(host.connect());
    honest.say(NEED_BYTES_MAX, 0);
    assert_eq!(honest.grant() + honest.grant(), NEED_BYTES_MAX);
    host.end();
}

#[test]
fn a_demand_in_pieces_is_one() {
    let host = Host::start(&["-t", "token", "--", "-r", "1", "-c", "1M"]);
    let mut disk = host.connect();
    for byte in (Demand { need: 0x1234, done: 0 }).encode() {
        disk.0.write_all(&[byte]).unwrap();
    }
    assert_eq!(disk.grant(), 0x1234);
    let many: Vec<u8> = (1..=100).flat_map(|need| Demand { need, done: 0 }.encode()).collect();
    disk.0.write_all(&many).unwrap();
    let mut granted = 0;
    while granted < 5050 {
        granted += disk.grant();
    }
    assert_eq!(granted, 5050);
    host.end();
}

#[test]
fn without_congestion_everything_is_granted() {
    let mut host = Host::start(&["-t", "meminfo", "--", "-H", "100", "-L", "100", "-t", "token", "--", "-r", "1"]);
    let mut disk = host.connect();
    for _ in 0..10 {
        disk.say(1 << 20, 0);
        assert_eq!(disk.grant(), 1 << 20);
    }
    host.rated.signal(Signal::USR1);
    host.rated.line("meminfo: high=100% low=100% period=100ms congested=no; token: rate=1 cap=0 credit=0");
    host.end();
}

#[test]
fn under_congestion_the_other_limiter_decides() {
    let mut host = Host::start(&["-t", "meminfo", "--", "-H", "0", "-L", "0", "-t", "token", "--", "-r", "1"]);
    let mut disk = host.connect();
    disk.say(4096, 0);
    assert_eq!(disk.grant(), 4096);
    disk.say(4096, 0);
    disk.hears_nothing();
    host.rated.signal(Signal::USR1);
    host.rated.line("congested=yes; token: rate=1 cap=0 credit=-40");
    host.end();
}

#[test]
fn in_the_background_it_listens_before_it_is_let_go_and_speaks_to_the_hosts_log() {
    let place = RunDirectory::new();
    let log = UnixDatagram::bind(place.syslog()).unwrap();
    log.set_read_timeout(Some(LONG)).unwrap();
    let socket = RunDir::at(place.path()).rate_limiter("gold");
    let started = place.program("td-rated").args(["gold", "-t", "token", "--", "-r", "1M"]).output().unwrap();
    assert!(started.status.success() && started.stderr.is_empty(), "{started:?}");
    let mut disk = Disk::connect(&socket);
    disk.say(10, 0);
    assert_eq!(disk.grant(), 10);
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o077, 0, "for its owner only");

    let again = place.program("td-rated").args(["gold", "-t", "token", "--", "-r", "1M"]).output().unwrap();
    assert_eq!(again.status.code(), Some(98));
    assert!(String::from_utf8(again.stderr).unwrap().contains("Address already in use"));

    let daemons = place.processes().unwrap();
    assert_eq!(daemons.len(), 1);
    daemons[0].signal(Signal::INT).unwrap();
    assert!(daemons[0].wait_for_end(LONG).unwrap());
    assert!(!socket.exists());
    let mut said = String::new();
    while !said.contains("ended by signal 2") {
        let mut line = [0; 4096];
        let length = log.recv(&mut line).unwrap();
        said.push_str(std::str::from_utf8(&line[..length]).unwrap());
    }
    assert!(said.contains("listening on") && said.contains("client=1 has come"), "{said}");
}

#[test]
fn mistakes_in_the_command_line_are_explained() {
    let place = RunDirectory::new();
    let mistake = place.program("td-rated").args(["gold", "-t", "token", "--", "-r", "x"]).output().unwrap();
    assert_eq!(mistake.status.code(), Some(22));
    let said = String::from_utf8(mistake.stderr).unwrap();
    assert!(said.starts_with("td-rated: x: not a number\nusage: td-rated NAME -t token"), "{said}");
    assert!(place.program("td-rated").arg("-h").output().unwrap().status.success());
    place.assert_nothing_left();
}
