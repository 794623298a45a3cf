//! Disks that draw on a shared rate.

use std::{
    fs,
    io::{Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    thread,
};

use control_api::{OpenRequest, native::Command};
use export::nbd::client::Client;
use rustix::process::Signal;
use test_support::{ProcessGuard, Rated};

use crate::host::{Host, LONG, aio, eventually, minor};

/// Bytes of one request of the tests below.
const REQUEST: u64 = 64 << 10;

/// A rate limiter that counts tokens.
fn start(host: &Host, options: &[&str]) -> Rated {
    Rated::start(&host.place, &[&["-t", "token", "--"], options].concat())
}

/// How many disks wait for a grant, and all bytes that it has granted.
fn status(rated: &mut Rated) -> (u64, u64) {
    rated.signal(Signal::USR1);
    let line = rated.line("waiting=");
    let number = |key: &str| line.split(key).nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    (number("waiting="), number("granted="))
}

/// Opens a raw image behind a rate limiter, in a tapdisk of its own. Its NBD socket.
fn open(host: &Host, name: &str, valve: &str) -> (u32, PathBuf) {
    let (pid, minors) = host.attached(1);
    let image = format!("valve:{valve}:aio:{}", host.raw_image(name, 64 << 20).display());
    let slot = minor(&minors[0]);
    host.client(pid).open(slot, &OpenRequest::new(image).unwrap()).unwrap();
    (pid, host.run.nbd_socket(pid, slot))
}

fn statistics(host: &Host, pid: u32) -> String {
    String::from_utf8(host.client(pid).stats(None).unwrap()).unwrap()
}

fn is_connected(host: &Host, pid: u32) -> bool {
    statistics(host, pid).contains("\"flags\": 1,")
}

/// The number behind a key of the first disk.
fn number(host: &Host, pid: u32, key: &str) -> u64 {
    let all = statistics(host, pid);
    let rest = all.split_once(&format!("\"{key}\": ")).unwrap().1;
    rest.split([',', ' ']).next().unwrap().parse().unwrap()
}

/// Writes until it is told to stop or its disk goes; says how many requests were answered.
fn write_until_it_ends(socket: PathBuf) -> thread::JoinHandle<u64> {
    thread::spawn(move || {
        let mut nbd = Client::connect_unix(&socket, "").unwrap();
        let block = vec![7; usize::try_from(REQUEST).unwrap()];
        (0..).take_while(|count| nbd.write(count % 512 * REQUEST, &block).is_ok()).count() as u64
    })
}

#[test]
fn disks_share_one_rate_and_none_is_limited_when_it_is_gone() {
    let host = Host::new();
    let mut rated = start(&host, &["--rate", "1", "--cap", "2Mi"]);
    let disks = [open(&host, "a.img", "gold"), open(&host, "b.img", "gold")];
    for (pid, _) in &disks {
        eventually("it is connected", || is_connected(&host, *pid));
    }
    let writers = disks.clone().map(|(_, socket)| write_until_it_ends(socket));
    // When all credit is used up and one grant went beyond it, a request of each disk waits for what takes hours.
    let cap = 2 << 20;
    eventually("both wait", || matches!(status(&mut rated), (2, granted) if granted > cap));
    assert_eq!(status(&mut rated), (2, cap + REQUEST));
    let passed: u64 = disks.iter().map(|(pid, _)| number(&host, *pid, "forw")).sum();
    assert_eq!(passed * REQUEST, cap + REQUEST, "what was granted has been written, and nothing else");
    // Reads are free.
    Client::connect_unix(&disks[0].1, "").unwrap().read(0, &mut [0; 512]).unwrap();

    drop(rated);
    for (pid, _) in &disks {
        eventually("it goes on without", || number(&host, *pid, "forw") > 2 * cap / REQUEST);
        host.client(*pid).close(minor(if *pid == disks[0].0 { "0" } else { "1" })).unwrap();
    }
    for writer in writers {
        assert!(writer.join().unwrap() > 0);
    }
}

#[test]
fn a_disk_finds_a_rate_limiter_that_comes_later() {
    let host = Host::new();
    let (pid, socket) = open(&host, "a.img", "gold,reads");
    let mut nbd = Client::connect_unix(&socket, "").unwrap();
    nbd.write(0, &[7; 4096]).unwrap();
    assert!(!is_connected(&host, pid));
    let mut rated = start(&host, &["--rate", "1", "--cap", "4096"]);
    eventually("it is connected", || is_connected(&host, pid));
    nbd.read(0, &mut [0; 8192]).unwrap();
    assert_eq!(status(&mut rated).1, 8192, "reads are limited, too, if asked");
    let reading = thread::spawn(move || nbd.read(0, &mut [0; 512]).map(|()| nbd));
    eventually("a read waits", || number(&host, pid, "stor") == 1);
    // A disk with a request that waits can be paused and closed like any other.
    host.client(pid).pause(minor("0")).unwrap();
    host.client(pid).resume(minor("0"), &OpenRequest::default()).unwrap();
    assert!(!reading.is_finished());
    host.client(pid).close(minor("0")).unwrap();
    assert!(reading.join().unwrap().is_err());
    drop(rated);
}

/// A rate limiter that the test plays itself.
struct Bridge {
    listener: UnixListener,
    stream: UnixStream,
}

impl Bridge {
    fn listen(host: &Host) -> UnixListener {
        let path = host.run.rate_limiter("gold");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        UnixListener::bind(path).unwrap()
    }

    fn accept(listener: UnixListener) -> Bridge {
        let stream = listener.accept().unwrap().0;
        stream.set_read_timeout(Some(LONG)).unwrap();
        Bridge { listener, stream }
    }

    /// What the disk needs and what it has done.
    fn demand(&mut self) -> (u64, u64) {
        let mut bytes = [0; 16];
        self.stream.read_exact(&mut bytes).unwrap();
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        (word(0), word(8))
    }

    fn grant(&mut self, bytes: u64) {
        self.stream.write_all(&bytes.to_le_bytes()).unwrap();
    }

    fn is_left(&mut self) -> bool {
        matches!(self.stream.read(&mut [0; 16]), Ok(0) | Err(_))
    }
}

#[test]
fn every_byte_is_asked_for_and_given_account_of() {
    let host = Host::new();
    let listener = Bridge::listen(&host);
    let (_, socket) = open(&host, "a.img", "gold");
    let mut bridge = Bridge::accept(listener);
    let mut nbd = Client::connect_unix(&socket, "").unwrap();
    let writing = thread::spawn(move || {
        nbd.write(0, &[7; 4096]).unwrap();
        nbd.write(9999, &[8; 1234]).unwrap();
        nbd.write(1 << 20, &vec![9; 12 << 20]).unwrap();
    });
    let (mut needed, mut done) = (0, 0);
    let all = 4096 + 1234 + (12 << 20);
    while done < all {
        let (need, more) = bridge.demand();
        assert!(need < 8 << 20, "more than may be granted at once: {need}");
        needed += need;
        done += more;
        // In two grants, if they can be two: what was granted in part is asked for again.
        if need > 1 {
            bridge.grant(need - 1);
        }
        if need > 0 {
            bridge.grant(1);
        }
    }
    assert_eq!((needed, done), (all, all));
    writing.join().unwrap();
}

#[test]
fn a_grant_that_nobody_asked_for_is_an_end_that_may_be_followed_by_a_beginning() {
    let host = Host::new();
    let listener = Bridge::listen(&host);
    let (pid, socket) = open(&host, "a.img", "gold");
    let mut bridge = Bridge::accept(listener);
    let mut nbd = Client::connect_unix(&socket, "").unwrap();
    let writing = thread::spawn(move || nbd.write(0, &[7; 4096]).map(|()| nbd));
    assert_eq!(bridge.demand(), (4096, 0));
    bridge.grant(4097);
    assert!(bridge.is_left());
    let mut nbd = writing.join().unwrap().unwrap();
    let mut bridge = Bridge::accept(bridge.listener);
    eventually("it is connected again", || is_connected(&host, pid));
    let writing = thread::spawn(move || nbd.write(0, &[7; 512]).unwrap());
    assert_eq!(bridge.demand(), (512, 0), "of what was done before, the new one knows nothing");
    bridge.grant(512);
    assert_eq!(bridge.demand(), (0, 512));
    writing.join().unwrap();
}

#[test]
fn a_grant_that_is_too_large_ends_it_for_good() {
    let host = Host::new();
    let listener = Bridge::listen(&host);
    let (pid, socket) = open(&host, "a.img", "gold");
    let mut bridge = Bridge::accept(listener);
    eventually("it is connected", || is_connected(&host, pid));
    bridge.grant(8 << 20);
    assert!(bridge.is_left());
    let mut nbd = Client::connect_unix(&socket, "").unwrap();
    nbd.write(0, &[7; 4096]).unwrap();
    // Longer than until the next attempt, if there were one.
    thread::sleep(std::time::Duration::from_millis(2500));
    bridge.listener.set_nonblocking(true).unwrap();
    assert!(bridge.listener.accept().is_err());
}

#[test]
fn a_resume_by_another_name_may_bring_another_limit_or_none() {
    let host = Host::new();
    let rated = start(&host, &["--rate", "1", "--cap", "1"]);
    let (pid, socket) = open(&host, "a.img", "gold");
    eventually("it is connected", || is_connected(&host, pid));
    let mut nbd = Client::connect_unix(&socket, "").unwrap();
    nbd.write(0, &[7; 4096]).unwrap();
    let writing = thread::spawn(move || nbd.write(0, &[7; 4096]).unwrap());
    eventually("a request waits", || number(&host, pid, "stor") == 1);
    host.client(pid).pause(minor("0")).unwrap();
    let plain = format!("aio:{}", host.place.scratch().join("a.img").display());
    host.client(pid).resume(minor("0"), &OpenRequest::new(plain).unwrap()).unwrap();
    writing.join().unwrap();
    assert!(!statistics(&host, pid).contains("valve"));
    drop(rated);
}

#[test]
fn a_disk_begins_and_ends_to_draw_on_a_rate_while_it_serves() {
    let host = Host::new();
    let mut rated = start(&host, &["--rate", "1", "--cap", "1"]);
    let (pid, _) = host.attached(1);
    let slot = minor("0");
    host.client(pid).open(slot, &OpenRequest::new(aio(&host.raw_image("a.img", 1 << 20))).unwrap()).unwrap();
    let mut nbd = Client::connect_unix(&host.run.nbd_socket(pid, slot), "").unwrap();
    nbd.write(0, &[7; 4096]).unwrap();
    let mut client = host.native(pid);
    let mut draw_on = |valve: Option<&str>| {
        let valve = valve.map(str::to_owned);
        client.ask(Command::Budget { minor: 0, valve }).map(|_| client.stats(Some(0)).unwrap().disks.remove(0).valve)
    };
    assert_eq!(draw_on(Some("gold")).unwrap(), Some("gold".into()));
    eventually("it is connected", || is_connected(&host, pid));
    nbd.write(0, &[7; 4096]).unwrap();
    let writing = thread::spawn(move || nbd.write(0, &[7; 4096]).unwrap());
    eventually("a request waits", || status(&mut rated) == (1, 4096));
    assert!(draw_on(Some("")).is_err());
    assert_eq!(draw_on(None).unwrap(), None);
    writing.join().unwrap();
    eventually("it has left", || status(&mut rated).0 == 0);
    drop(rated);
}

#[test]
fn names_that_make_no_sense_are_refused() {
    let host = Host::new();
    let (pid, minors) = host.attached(1);
    let tapdisk = ProcessGuard::new(pid).unwrap();
    host.raw_image("a.img", 1 << 20);
    for name in ["valve:gold", "valve::aio:/a", "valve:gold,writes:aio:/a", "valve:a:valve:b:aio:/a"] {
        let error = host.client(pid).open(minor(&minors[0]), &OpenRequest::new(name).unwrap()).unwrap_err();
        assert_eq!(error.os_error(), Some(22), "{name}: {error}");
    }
    tapdisk.release();
}
