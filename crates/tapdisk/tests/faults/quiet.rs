//! A disk that has come to rest writes no more, and says so only then. One that is quiet lets others write.

use std::{fs, thread, time::Duration};

use control_api::{errno, native::State};

use crate::{
    host::{aio, eventually},
    pipeline::{Answered, Asked},
    served::{Served, only_byte, read, with_each_engine, write},
};

const UNIT: usize = 4096;
const WRITES: usize = 32;
const DELAY: Duration = Duration::from_millis(20);

/// Lets a disk whose writes take their time come to rest while many of them run.
fn comes_to_rest(engine: &str, rest: fn(&Served), is_closed: bool) {
    let disk = Served::new(engine);
    let path = disk.host.raw_image("a.img", 1 << 20);
    disk.open(&aio(&path));
    let mut client = disk.connect();
    disk.strike(&format!("write=delay({}ms)", DELAY.as_millis()));
    for index in 0..WRITES {
        client.ask(write((index * UNIT) as u64, 5, UNIT));
    }
    eventually("some run", || disk.running() > 1);
    rest(&disk);
    let then = fs::read(&path).unwrap();
    thread::sleep(DELAY * 5);
    assert!(fs::read(&path).unwrap() == then, "{engine}: a write came after the answer");

    if is_closed {
        disk.destroy();
        return;
    }
    // What was held is done when the disk goes on.
    disk.strike("");
    disk.resume().unwrap();
    let answers = client.all();
    assert!(answers.len() == WRITES && answers.values().all(|(_, answer)| *answer == Answered::Done(Vec::new())));
    assert!(fs::read(&path).unwrap()[..WRITES * UNIT].iter().all(|byte| *byte == 5));
    disk.destroy();
}

#[test]
fn no_write_comes_after_the_answer_to_a_pause() {
    with_each_engine(|_, engine| comes_to_rest(engine, |disk| assert!(disk.pause(None).is_ok()), false));
}

#[test]
fn no_write_comes_after_the_answer_to_a_quiesce() {
    with_each_engine(|_, engine| comes_to_rest(engine, |disk| assert!(disk.quiesce(None).is_ok()), false));
}

#[test]
fn no_write_comes_after_the_answer_to_a_close() {
    with_each_engine(|_, engine| comes_to_rest(engine, |disk| disk.close().unwrap(), true));
}

#[test]
fn a_quiet_disk_says_how_long_it_took_and_what_ended_first() {
    let disk = Served::new("probe");
    disk.open(&aio(&disk.host.raw_image("a.img", 1 << 20)));
    let mut client = disk.connect();
    disk.strike("write=delay(20ms),sync=delay(10ms)");
    client.ask(write(0, 1, UNIT));
    eventually("it runs", || disk.running() == 1);
    let quiet = disk.quiesce(None).unwrap();
    assert_eq!(quiet.requests, 1);
    assert!(quiet.drained_us > 0 && quiet.flushed_us >= 10_000, "{quiet:?}");
    // A second time there is nothing to wait for.
    disk.resume().unwrap();
    assert_eq!(disk.quiesce(None).unwrap().requests, 0);
    disk.destroy();
}

#[test]
fn others_may_write_while_a_disk_is_quiet_and_it_sees_what_they_did() {
    let (source, target) = (Served::new("probe"), Served::new("probe"));
    source.vhd_util("create -n a.vhd -s 8");
    let image = source.image("vhd", "a.vhd");
    source.open(&image);
    let mut client = source.connect();
    assert_eq!(client.one(write(0, 1, UNIT)), Answered::Done(Vec::new()));
    source.quiesce(None).unwrap();
    assert_eq!(source.state(), State::Quiesced);
    let held = client.ask(read(2 << 20, 4096));

    // Its guest moves to the target, which writes.
    target.open(&image);
    let mut other = target.connect();
    assert_eq!(only_byte(&other.one(read(0, 4096))), Some(1));
    assert_eq!(other.one(write(2 << 20, 2, UNIT)), Answered::Done(Vec::new()));
    // As long as it has the image, there is no way back.
    let error = source.resume().unwrap_err();
    assert_eq!(errno(&error), 16, "{error}");
    assert_eq!(other.one(Asked::Flush), Answered::Done(Vec::new()));
    drop(other);
    target.destroy();

    source.resume().unwrap();
    let (cookie, _, answered) = client.next();
    assert_eq!((cookie, only_byte(&answered)), (held, Some(2)));
    drop(client);
    source.destroy();
}
