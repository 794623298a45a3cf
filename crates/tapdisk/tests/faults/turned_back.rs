//! An open, a resume and a growing that wait for what may never come are cancelled: whoever asked is told at once, the disk
//! is as before as soon as storage lets go, and works.

use std::fs::File;

use block_core::Result;
use control_api::{
    errno,
    native::{Answer, AnswerBody, Client, Command, Grow, OpenImages, ResultOf, State},
};
use rustix::fs::{FlockOperation, flock};
use test_support::HangingFile;

use crate::{
    host::{aio, eventually},
    pipeline::Answered,
    served::{Served, only_byte, read, with_each_engine, write},
};

const UNIT: usize = 4096;

/// Something that has been begun, with the connection where its end is told.
struct Begun {
    client: Client,
    job: u64,
}

impl Begun {
    fn new(disk: &Served, command: Command, state: State) -> Begun {
        let mut client = disk.native();
        client.begin(command).unwrap();
        let Answer { body: AnswerBody::Progress(progress), .. } = client.next_answer().unwrap() else {
            panic!("it takes long, so it says how far it is first")
        };
        eventually("it waits", || disk.state() == state);
        Begun { client, job: progress.job }
    }

    /// Cancels it, and finds that it ends so.
    fn ends_cancelled(mut self, disk: &Served) {
        let cancelled = disk.ask(Command::Cancel { job: self.job }).unwrap();
        assert!(matches!(cancelled, ResultOf::Cancel(cancelled) if cancelled.cancelled));
        loop {
            match self.client.next_answer().unwrap().body {
                AnswerBody::Progress(_) | AnswerBody::Event(_) => {}
                AnswerBody::Error(failure) => return assert_eq!(failure.errno, 125, "{}", failure.reason),
                AnswerBody::Result(result) => panic!("it was cancelled: {result:?}"),
            }
        }
    }
}

fn open(image: &str, faults: &str) -> Command {
    let faults = Some(faults.to_owned());
    Command::Open(OpenImages { minor: 0, image: image.to_owned(), faults, ..OpenImages::default() })
}

fn works(disk: &Served) -> Result<()> {
    let mut client = disk.connect();
    assert_eq!(client.one(write(0, 7, UNIT)), Answered::Done(Vec::new()));
    assert_eq!(only_byte(&client.one(read(0, 4096))), Some(7));
    Ok(())
}

#[test]
fn an_open_whose_storage_hangs() {
    with_each_engine(|_, engine| {
        let disk = Served::new(engine);
        disk.vhd_util("create -n a.vhd -s 8");
        let image = disk.image("vhd", "a.vhd");
        for faults in ["open=hang", "read=hang"] {
            Begun::new(&disk, open(&image, faults), State::Opening).ends_cancelled(&disk);
            assert_eq!(disk.state(), State::Opening, "{engine}, {faults}: storage has not let go");
            assert_eq!(errno(&disk.ask(Command::Detach { minor: 0 }).unwrap_err()), 16);
            disk.strike("");
            eventually("storage has let go", || disk.state() == State::Attached);
        }
        disk.open(&image);
        works(&disk).unwrap();
        disk.destroy();
    });
}

#[test]
fn an_open_of_a_file_whose_server_stands_still() {
    let disk = Served::new("probe");
    let test = "turned_back::an_open_of_a_file_whose_server_stands_still";
    let Some(file) = HangingFile::new(test, disk.host.place.scratch(), "16M") else { return };
    file.stop();
    Begun::new(&disk, open(&aio(file.path()), ""), State::Opening).ends_cancelled(&disk);
    file.go_on();
    eventually("storage has let go", || disk.state() == State::Attached);
    disk.open(&aio(file.path()));
    works(&disk).unwrap();
    disk.destroy();
}

#[test]
fn an_open_that_waits_for_another_writer() {
    let disk = Served::new("probe");
    let path = disk.host.raw_image("a.img", 1 << 20);
    let writer = File::open(&path).unwrap();
    flock(&writer, FlockOperation::LockExclusive).unwrap();
    Begun::new(&disk, open(&aio(&path), ""), State::Opening).ends_cancelled(&disk);
    eventually("nobody waits any more", || disk.state() == State::Attached);
    drop(writer);
    disk.open(&aio(&path));
    works(&disk).unwrap();
    disk.destroy();
}

#[test]
fn a_resume_whose_storage_hangs() {
    with_each_engine(|_, engine| {
        let disk = Served::new(engine);
        disk.vhd_util("create -n a.vhd -s 8");
        disk.open(&disk.image("vhd", "a.vhd"));
        works(&disk).unwrap();
        type Rest = fn(&Served);
        let rests: [(Rest, State); 2] = [
            (|disk| assert!(disk.pause(None).is_ok()), State::ResumeFailed),
            (|disk| assert!(disk.quiesce(None).is_ok()), State::Quiesced),
        ];
        for (rest, state) in rests {
            rest(&disk);
            disk.strike("read=hang");
            let resume = Command::Resume { minor: 0, image: None };
            Begun::new(&disk, resume, State::Resuming).ends_cancelled(&disk);
            disk.strike("");
            eventually("storage has let go", || disk.state() == state);
            disk.resume().unwrap();
            works(&disk).unwrap();
        }
        disk.destroy();
    });
}

#[test]
fn a_growing_that_waits_for_requests() {
    let disk = Served::new("probe");
    let image = aio(&disk.host.raw_image("a.img", 1 << 20));
    disk.open(&image);
    let mut client = disk.connect();
    disk.strike("write=hang");
    client.ask(write(0, 7, UNIT));
    eventually("the write is taken", || disk.running() == 1);
    let grow = Command::Grow(Grow { minor: 0, bytes: Some(2 << 20) });
    Begun::new(&disk, grow, State::Growing).ends_cancelled(&disk);
    eventually("the disk runs on", || disk.state() == State::Running);
    disk.strike("");
    assert_eq!(client.next().2, Answered::Done(Vec::new()));
    drop(client);
    disk.destroy();
}
