//! A tapdisk that is killed at any step of its life: the next one cleans up, and the disk is served again.

use std::thread;

use control_api::native::{Command, OpenImages, State};
use rustix::process::Signal;
use test_support::ProcessGuard;

use crate::{
    host::{LONG, eventually},
    pipeline::{Answered, Asked},
    served::{Served, only_byte, read, write},
};

const UNIT: usize = 4096;
const DURABLE: u8 = 7;

/// Brings a disk, which is open and has written and flushed something, to a step.
type Reach = fn(&Served);

/// Asks for something that will not end, and waits until the disk is in this state.
fn begin(disk: &Served, command: Command, state: State) {
    disk.native().begin(command).unwrap();
    eventually("the step is reached", || disk.state() == state);
}

fn close() -> Command {
    Command::Close { minor: 0, force: false, deadline_ms: None }
}

/// A write that does not end.
fn hang_a_write(disk: &Served) {
    disk.strike("write=hang");
    let mut client = disk.connect();
    client.ask(write(1 << 20, 9, UNIT));
    eventually("the write is taken", || disk.running() == 1);
}

const STEPS: [(&str, Reach); 9] = [
    ("while it serves", |_| ()),
    ("while a write runs", hang_a_write),
    ("while it drains for a pause", |disk| {
        hang_a_write(disk);
        begin(disk, Command::Pause { minor: 0, deadline_ms: None }, State::Pausing);
    }),
    ("while it drains for its end", |disk| {
        hang_a_write(disk);
        begin(disk, close(), State::Closing);
    }),
    ("while it flushes for its end", |disk| {
        disk.connect().one(write(3 << 20, 9, UNIT));
        disk.strike("sync=hang");
        begin(disk, close(), State::Closing);
    }),
    ("while it is paused", |disk| assert!(disk.pause(None).is_ok())),
    ("while it is quiet", |disk| assert!(disk.quiesce(None).is_ok())),
    ("when it is closed", |disk| disk.close().unwrap()),
    ("while it opens", |disk| {
        disk.close().unwrap();
        let faults = Some("open=hang".to_owned());
        let image = disk.image("vhd", "a.vhd");
        begin(disk, Command::Open(OpenImages { image, faults, ..OpenImages::default() }), State::Opening);
    }),
];

fn is_killed(story: &str, reach: Reach) {
    let disk = Served::new("probe");
    disk.vhd_util("create -n a.vhd -s 8");
    let image = disk.image("vhd", "a.vhd");
    disk.open(&image);
    let mut client = disk.connect();
    assert_eq!(client.burst(vec![write(0, DURABLE, UNIT)])[0].1, Answered::Done(Vec::new()));
    assert_eq!(client.one(Asked::Flush), Answered::Done(Vec::new()));
    reach(&disk);

    let process = ProcessGuard::new(disk.pid).unwrap();
    process.signal(Signal::KILL).unwrap();
    assert!(process.wait_for_end(LONG).unwrap(), "{story}");
    let host = &disk.host;
    assert_eq!(host.ok(&["list"]), "minor=0\n", "{story}");
    host.ok(&["free", "-m", "0"]);

    // Whoever starts next removes what is left, and has the image.
    let created = host.ok(&["create", "-a", &image]);
    assert!(created.trim().ends_with("tapdisk-0"), "{story}: {created}");
    let next = host.run.tapdisks().unwrap();
    assert!(next.len() == 1 && next[0] != disk.pid, "{story}: {next:?}");
    let socket = host.run.nbd_socket(next[0], crate::host::minor("0"));
    let mut client = crate::pipeline::Pipeline::connect(&socket);
    assert_eq!(only_byte(&client.one(read(0, 4096))), Some(DURABLE), "{story}");
    assert_eq!(client.one(write(1 << 20, 1, UNIT)), Answered::Done(Vec::new()), "{story}");
    drop(client);
    host.ok(&["destroy", "-p", &next[0].to_string(), "-m", "0"]);
    host.place.assert_nothing_left();
}

#[test]
fn at_each_step_of_its_life() {
    thread::scope(|scope| {
        for (story, reach) in STEPS {
            scope.spawn(move || is_killed(story, reach));
        }
    });
}
