//! Clients that are killed while they make a disk: what they began is done to its end or has not begun, whatever is left
//! is listed, and the next client goes on.

use std::{fs, io::Write, os::unix::net::UnixStream, process::Stdio, thread, time::Instant};

use control_api::{
    Minor,
    native::{Command, OpenImages, State},
    protocol::{Body, Message},
};
use rustix::process::Signal;
use test_support::{HangingFile, ProcessGuard};

use crate::host::{Host, LONG, aio, eventually, minor};

/// Who makes the disk.
#[derive(Clone, Copy, Debug)]
enum Protocol {
    C,
    Native,
}

const BOTH: [Protocol; 2] = [Protocol::C, Protocol::Native];

/// The bytes of a request to attach a minor.
fn attach(protocol: Protocol, minor: Minor) -> Vec<u8> {
    match protocol {
        Protocol::C => Message::new(minor.number(), Body::Attach).encode().to_vec(),
        Protocol::Native => format!("{{\"id\":1,\"command\":{{\"attach\":{{\"minor\":{minor}}}}}}}\n").into_bytes(),
    }
}

/// A connection of somebody who has nothing else to lose.
fn connect(host: &Host, pid: u32, protocol: Protocol) -> UnixStream {
    match protocol {
        Protocol::C => host.connect(pid),
        Protocol::Native => UnixStream::connect(host.run.native_socket(pid)).unwrap(),
    }
}

fn clients(host: &Host, pid: u32) -> usize {
    let ours = [host.run.control_socket(pid), host.run.native_socket(pid)];
    let table = fs::read_to_string("/proc/net/unix").unwrap();
    // Number, references, protocol, flags, type, state (3: connected), inode, path.
    let connected = table.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        (words.len() == 8 && words[5] == "03").then(|| words[7].to_owned())
    });
    connected.filter(|path| ours.iter().any(|socket| socket.to_string_lossy() == *path)).count()
}

#[test]
fn an_attach_that_was_said_is_done_without_the_client() {
    for protocol in BOTH {
        let host = Host::new();
        let (pid, slot) = (host.spawn(), host.run.allocate_minor().unwrap());
        let tapdisk = ProcessGuard::new(pid).unwrap();
        tapdisk.stop().unwrap();
        let mut killed = connect(&host, pid, protocol);
        killed.write_all(&attach(protocol, slot)).unwrap();
        drop(killed);
        tapdisk.signal(Signal::CONT).unwrap();
        eventually("it is attached", || host.client(pid).list().unwrap().len() == 1);
        assert!(host.run.free_minor(slot).is_err(), "it is held");
        eventually("its socket is closed", || clients(&host, pid) == 0);
        host.client(pid).detach(slot).unwrap();
        host.run.free_minor(slot).unwrap();
        assert!(tapdisk.wait_for_end(LONG).unwrap());
        host.place.assert_nothing_left();
    }
}

#[test]
fn an_attach_that_was_not_said_to_its_end_has_not_begun() {
    for protocol in BOTH {
        let host = Host::new();
        let (pid, slot) = (host.spawn(), host.run.allocate_minor().unwrap());
        let request = attach(protocol, slot);
        for length in [0, 1, 7, request.len() / 2, request.len() - 1] {
            let mut killed = connect(&host, pid, protocol);
            killed.write_all(&request[..length]).unwrap();
        }
        eventually("its sockets are closed", || clients(&host, pid) == 0);
        assert_eq!(host.client(pid).list().unwrap(), []);
        host.client(pid).attach(slot).unwrap();
        host.client(pid).detach(slot).unwrap();
        host.run.free_minor(slot).unwrap();
        host.place.assert_nothing_left();
    }
}

#[test]
fn an_open_goes_on_without_the_client_and_holds_up_nobody() {
    let host = Host::new();
    let test = "killed_clients::an_open_goes_on_without_the_client_and_holds_up_nobody";
    let Some(storage) = HangingFile::new(test, host.place.scratch(), "16M") else { return };
    let (pid, minors) = host.attached(1);
    let (slot, image, text) = (minor(&minors[0]), aio(storage.path()), pid.to_string());
    for protocol in BOTH {
        storage.stop();
        let has_begun = || host.native(pid).list().unwrap()[0].job.is_some();
        match protocol {
            Protocol::C => {
                let mut killed = host.command(&["open", "-p", &text, "-m", "0", "-a", &image]).spawn().unwrap();
                eventually("it has begun", has_begun);
                killed.kill().unwrap();
                killed.wait().unwrap();
            }
            Protocol::Native => {
                let mut killed = host.native(pid);
                let open = OpenImages { minor: 0, image: image.clone(), ..OpenImages::default() };
                killed.begin(Command::Open(open)).unwrap();
                eventually("it has begun", has_begun);
            }
        }
        let other = host.attach(pid);
        host.ok(&["open", "-p", &text, "-m", &other, "-a", &aio(&host.raw_image("a.img", 1 << 20))]);
        host.ok(&["close", "-p", &text, "-m", &other]);
        host.ok(&["detach", "-p", &text, "-m", &other]);
        host.ok(&["free", "-m", &other]);
        storage.go_on();
        eventually("it is open", || host.native(pid).list().unwrap()[0].state == State::Running);
        host.client(pid).close(slot).unwrap();
        eventually("its sockets are closed", || clients(&host, pid) == 0);
    }
    host.ok(&["destroy", "-p", &text, "-m", "0"]);
    host.place.assert_nothing_left();
}

/// Removes what `list` shows, by what it says.
fn clear(host: &Host) {
    for line in host.ok(&["list"]).lines() {
        let field = |key: &str| line.split(' ').find_map(|field| field.strip_prefix(key)?.strip_prefix('='));
        match (field("pid"), field("minor")) {
            (Some(pid), Some(minor)) => _ = host.ok(&["destroy", "-p", pid, "-m", minor]),
            (Some(pid), None) => {
                let idle = ProcessGuard::new(pid.parse().unwrap()).unwrap();
                idle.signal(Signal::TERM).unwrap();
                assert!(idle.wait_for_end(LONG).unwrap());
            }
            (None, Some(minor)) => _ = host.ok(&["free", "-m", minor]),
            (None, None) => panic!("{line}"),
        }
    }
}

#[test]
fn whoever_creates_a_disk_may_be_killed_at_any_moment() {
    let host = Host::new();
    let image = aio(&host.raw_image("a.img", 1 << 20));
    let begun = Instant::now();
    host.ok(&["create", "-a", &image]);
    let whole = begun.elapsed();
    clear(&host);
    let moments = u32::try_from(test_support::cycles(25, 400)).unwrap();
    for moment in 0..moments {
        let mut creating = host.command(&["create", "-a", &image]).stdout(Stdio::null()).spawn().unwrap();
        thread::sleep(whole * moment / moments);
        creating.kill().unwrap();
        creating.wait().unwrap();
        eventually("whoever was started is listed or has gone", || {
            let running = host.place.processes().unwrap();
            let listed = host.run.tapdisks().unwrap();
            let is_known = running.iter().all(|process| listed.contains(&process.pid()));
            running.into_iter().for_each(ProcessGuard::release);
            is_known
        });
        clear(&host);
        host.place.assert_nothing_left();
    }
    assert_eq!(host.ok(&["create", "-a", &image]).trim(), host.run.marker(minor("0")).display().to_string());
    clear(&host);
    host.place.assert_nothing_left();
}
