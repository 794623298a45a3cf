//! A device that hangs: whoever waits for it is told for what, nobody else waits, and when it comes back all is clean.

use std::time::Instant;

use control_api::{
    errno,
    native::{Answer, AnswerBody, Command, OpenImages, ResultOf, State},
};
use test_support::{HangingFile, LoopDevice};

use crate::{
    host::{Host, LONG, aio, eventually, minor},
    pipeline::{Answered, Asked, Pipeline},
    served::{Served, only_byte, read, with_each_engine, write},
};

const PLACE: u64 = 0x1000;
const UNIT: usize = 4096;

/// Storage that can be stopped and goes on when it is told to.
trait Storage {
    fn stop(&self, disk: &Served);
    fn go_on(&self, disk: &Served);
}

impl Storage for HangingFile {
    fn stop(&self, _: &Served) {
        self.stop();
    }

    fn go_on(&self, _: &Served) {
        self.go_on();
    }
}

/// The layer of faults.
struct Layer;

impl Storage for Layer {
    fn stop(&self, disk: &Served) {
        disk.strike("any=hang");
    }

    fn go_on(&self, disk: &Served) {
        disk.strike("");
    }
}

/// One write that hangs in the storage.
fn hang(disk: &Served, storage: &dyn Storage) -> Pipeline {
    let mut client = disk.connect();
    assert_eq!(client.one(write(0, 1, UNIT)), Answered::Done(Vec::new()));
    storage.stop(disk);
    client.ask(write(PLACE, 2, UNIT));
    eventually("the write is taken", || disk.running() == 1);
    client
}

/// It says what it waits for, and gives up in time: the disk runs on.
fn gives_up_in_time(disk: &Served) {
    let what = [disk.pause(Some(100)).unwrap_err(), disk.quiesce(Some(100)).unwrap_err()];
    for error in what {
        assert_eq!(errno(&error), 110, "{error}");
        assert!(error.to_string().contains("1 request in flight: write 0x1000+0x1000"), "{error}");
    }
    assert_eq!(disk.state(), State::Running);
}

/// A pause that nobody limits goes on until it is turned back.
fn is_turned_back(disk: &Served) {
    let mut asking = disk.native();
    asking.begin(Command::Pause { minor: 0, deadline_ms: None }).unwrap();
    let Answer { body: AnswerBody::Progress(progress), .. } = asking.next_answer().unwrap() else {
        panic!("it takes long, so it says how far it is first")
    };
    eventually("it waits", || disk.state() == State::Pausing);
    let cancelled = disk.ask(Command::Cancel { job: progress.job }).unwrap();
    assert!(matches!(cancelled, ResultOf::Cancel(cancelled) if cancelled.cancelled));
    eventually("the disk runs on", || disk.state() == State::Running);
}

/// Another disk of the process, and one of another process, come and go as ever.
fn others_do_not_notice(disk: &Served) {
    let host = &disk.host;
    for (pid, is_ours) in [(disk.pid, true), (host.spawn(), false)] {
        let other = host.attach(pid);
        let (pid, image) = (pid.to_string(), aio(&host.raw_image(&format!("other-{is_ours}"), 1 << 20)));
        host.ok(&["open", "-p", &pid, "-m", &other, "-a", &image]);
        let mut client = Pipeline::connect(&host.run.nbd_socket(pid.parse().unwrap(), minor(&other)));
        assert_eq!(client.one(write(0, 3, UNIT)), Answered::Done(Vec::new()));
        assert_eq!(client.one(Asked::Flush), Answered::Done(Vec::new()));
        drop(client);
        host.ok(&["destroy", "-p", &pid, "-m", &other]);
    }
}

/// A close that does not wait for the storage says so, and is finished when the storage is back.
fn is_closed_while_it_hangs(disk: &Served, image: &str, storage: &dyn Storage, close: Command) {
    let begun = Instant::now();
    let error = disk.ask(close).unwrap_err();
    assert!(error.to_string().contains("storage hangs: 1 request in flight: write 0x1000+0x1000"), "{error}");
    assert!(begun.elapsed() < LONG, "{:?}", begun.elapsed());
    assert_eq!(disk.state(), State::Stuck);
    assert_eq!(errno(&disk.ask(Command::Detach { minor: 0 }).unwrap_err()), 16);
    let again = OpenImages { minor: 0, image: image.to_owned(), ..OpenImages::default() };
    assert_eq!(errno(&disk.ask(Command::Open(again)).unwrap_err()), 16);
    others_do_not_notice(disk);

    storage.go_on(disk);
    eventually("the disk is closed", || disk.state() == State::Closed);
    disk.open(image);
    assert_eq!(only_byte(&disk.connect().one(read(0, 4096))), Some(1));
}

/// The whole story of one disk.
fn hangs_and_comes_back(disk: Served, image: &str, storage: &dyn Storage) {
    disk.open(image);
    let client = hang(&disk, storage);
    gives_up_in_time(&disk);
    is_turned_back(&disk);
    others_do_not_notice(&disk);
    let in_time = Command::Close { minor: 0, force: false, deadline_ms: Some(100) };
    is_closed_while_it_hangs(&disk, image, storage, in_time);
    drop(client);
    let client = hang(&disk, storage);
    is_closed_while_it_hangs(&disk, image, storage, Command::Close { minor: 0, force: true, deadline_ms: None });
    drop(client);
    disk.destroy();
}

#[test]
fn a_file_whose_server_stands_still() {
    let disk = Served::new("probe");
    let test = "hung_device::a_file_whose_server_stands_still";
    let Some(file) = HangingFile::new(test, disk.host.place.scratch(), "16M") else { return };
    hangs_and_comes_back(disk, &aio(file.path()), &file);
}

#[test]
fn a_block_device_over_it() {
    let place = Host::new();
    let test = "hung_device::a_block_device_over_it";
    let Some(file) = HangingFile::new(test, place.place.scratch(), "16M") else { return };
    let Some(device) = LoopDevice::attach(test, file.path()) else { return };
    hangs_and_comes_back(Served::new("probe"), &aio(device.path()), &file);
}

#[test]
fn a_block_device_over_it_is_closed_by_force() {
    let place = Host::new();
    let test = "hung_device::a_block_device_over_it_is_closed_by_force";
    let Some(file) = HangingFile::new(test, place.place.scratch(), "16M") else { return };
    let Some(device) = LoopDevice::attach(test, file.path()) else { return };
    let disk = Served::new("probe");
    let image = aio(device.path());
    disk.open(&image);
    let client = hang(&disk, &file);
    is_closed_while_it_hangs(&disk, &image, &file, Command::Close { minor: 0, force: true, deadline_ms: None });
    drop(client);
    disk.destroy();
}

#[test]
fn the_layer_of_faults() {
    with_each_engine(|_, engine| {
        let disk = Served::new(engine);
        let image = aio(&disk.host.raw_image("a.img", 1 << 20));
        hangs_and_comes_back(disk, &image, &Layer);
    });
}

#[test]
fn a_close_by_force_waits_for_nothing_that_hangs() {
    with_each_engine(|_, engine| {
        let disk = Served::new(engine);
        let image = aio(&disk.host.raw_image("a.img", 1 << 20));
        disk.open(&image);
        let client = hang(&disk, &Layer);
        let by_force = Command::Close { minor: 0, force: true, deadline_ms: None };
        is_closed_while_it_hangs(&disk, &image, &Layer, by_force);
        drop(client);
        disk.destroy();
    });
}

#[test]
fn storage_that_is_only_slow_is_waited_for() {
    with_each_engine(|_, engine| {
        let disk = Served::new(engine);
        let image = aio(&disk.host.raw_image("a.img", 1 << 20));
        disk.open(&image);
        let mut client = disk.connect();
        let dawdle = |client: &mut Pipeline, byte| {
            disk.strike("any=delay(500ms)");
            client.ask(write(PLACE, byte, UNIT));
            eventually("the write is taken", || disk.running() == 1);
        };
        dawdle(&mut client, 2);
        disk.pause(None).unwrap();
        assert_eq!(client.next().2, Answered::Done(Vec::new()), "{engine}: it ends before the pause does");
        disk.resume().unwrap();
        dawdle(&mut client, 3);
        disk.quiesce(None).unwrap();
        assert_eq!(client.next().2, Answered::Done(Vec::new()), "{engine}: it ends before the quiesce does");
        disk.resume().unwrap();
        dawdle(&mut client, 4);
        disk.close().unwrap();
        assert_eq!(client.next().2, Answered::Done(Vec::new()), "{engine}: it ends before the close does");
        assert_eq!(disk.state(), State::Closed);

        disk.open(&image);
        assert_eq!(only_byte(&disk.connect().one(read(PLACE, 4096))), Some(4));
        disk.destroy();
    });
}

#[test]
fn what_hangs_in_a_close_is_told_until_it_ends() {
    let disk = Served::new("probe");
    disk.vhd_util("create -n a.vhd -s 8");
    disk.open(&disk.image("vhd", "a.vhd"));
    let mut client = disk.connect();
    assert_eq!(client.one(write(0, 1, UNIT)), Answered::Done(Vec::new()));
    disk.strike("sync=hang");
    let line = ["destroy", "-p", &disk.pid.to_string(), "-m", "0", "-t", "1"];
    let (status, words) = disk.host.fails(&line);
    assert_eq!(status, 110, "{words}");
    assert!(words.starts_with("close: close has not ended after 1 s: "), "{words}");
    disk.strike("");
    // What was asked for is done all the same.
    eventually("the disk is closed", || disk.state() == State::Closed);
    disk.destroy();
}
