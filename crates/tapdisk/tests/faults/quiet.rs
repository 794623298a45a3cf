//! A disk that has come to rest writes no more, and says so only then. One that is quiet lets others write.

use std::{fs, thread, time::Duration};

use control_api::{
    errno,
    native::{AnswerBody, Command, ResultOf, State},
};

use crate::{
    host::{aio, eventually},
    pipeline::{Answered, Asked, Pipeline},
    served::{Served, only_byte, read, with_each_engine, write},
};

const UNIT: usize = 4096;
const WRITES: usize = 32;

const PAUSE: Command = Command::Pause { minor: 0, deadline_ms: None };
const QUIESCE: Command = Command::Quiesce { minor: 0, deadline_ms: None };
const CLOSE: Command = Command::Close { minor: 0, force: false, deadline_ms: None };

/// Lets a disk come to rest while `writes` writes run, which end only when it has begun to.
fn comes_to_rest(disk: &Served, client: &mut Pipeline, writes: usize, command: Command) -> ResultOf {
    disk.strike("write=hang");
    for index in 0..writes {
        client.ask(write((index * UNIT) as u64, 5, UNIT));
    }
    eventually("they run", || disk.running() == writes as u64);
    let mut asking = disk.native();
    asking.begin(command).unwrap();
    eventually("it has begun", || disk.state() != State::Running);
    // What hung begins, and the flush behind it takes its time.
    disk.strike("sync=delay(20ms)");
    loop {
        match asking.next_answer().unwrap().body {
            AnswerBody::Progress(_) | AnswerBody::Event(_) => {}
            AnswerBody::Result(result) => return *result,
            AnswerBody::Error(failure) => panic!("{failure:?}"),
        }
    }
}

/// Nothing is written behind the answer; what was held is done when the disk goes on.
fn writes_no_more(engine: &str, command: Command) {
    let is_closed = command == CLOSE;
    let disk = Served::new(engine);
    let path = disk.host.raw_image("a.img", 1 << 20);
    disk.open(&aio(&path));
    let mut client = disk.connect();
    comes_to_rest(&disk, &mut client, WRITES, command);
    let then = fs::read(&path).unwrap();
    assert!(then[..WRITES * UNIT].iter().all(|byte| *byte == 5), "{engine}: it did not wait for the writes");
    let held = if is_closed { None } else { Some(client.ask(write(1 << 19, 6, UNIT))) };
    thread::sleep(Duration::from_millis(100));
    assert!(fs::read(&path).unwrap() == then, "{engine}: a write came behind the answer");
    if let Some(held) = held {
        disk.resume().unwrap();
        let answers = client.all();
        assert!(answers.contains_key(&held) && answers.len() == 1 + WRITES);
        assert!(answers.values().all(|(_, answer)| *answer == Answered::Done(Vec::new())), "{answers:?}");
        assert_eq!(fs::read(&path).unwrap()[1 << 19], 6);
    }
    disk.destroy();
}

#[test]
fn no_write_comes_after_the_answer_to_a_pause() {
    with_each_engine(|_, engine| writes_no_more(engine, PAUSE));
}

#[test]
fn no_write_comes_after_the_answer_to_a_quiesce() {
    with_each_engine(|_, engine| writes_no_more(engine, QUIESCE));
}

#[test]
fn no_write_comes_after_the_answer_to_a_close() {
    with_each_engine(|_, engine| writes_no_more(engine, CLOSE));
}

#[test]
fn a_quiet_disk_says_how_long_it_took_and_what_ended_first() {
    let disk = Served::new("probe");
    disk.open(&aio(&disk.host.raw_image("a.img", 1 << 20)));
    let mut client = disk.connect();
    let quiet = match comes_to_rest(&disk, &mut client, 1, QUIESCE) {
        ResultOf::Quiesce(quiet) => quiet,
        other => panic!("the answer to a quiesce: {other:?}"),
    };
    assert_eq!(quiet.requests, 1);
    assert!(quiet.drained_us > 0 && quiet.flushed_us >= 20_000, "{quiet:?}");
    // A second time there is nothing to wait for.
    disk.resume().unwrap();
    assert_eq!(disk.quiesce(None).unwrap().requests, 0);
    drop(client);
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
