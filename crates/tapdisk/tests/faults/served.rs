//! A tapdisk with one disk, told what to do by both protocols, and struck by rules of faults.

use std::{cell::RefCell, thread};

use block_core::Result;
use control_api::native::{Client, Command, Faults, OpenImages, Quiet, ResultOf, State};

use crate::{
    host::{Host, minor},
    pipeline::{Answered, Asked, Pipeline},
};

/// The engines, all of which must behave the same.
const ENGINES: [&str; 3] = ["io_uring", "libaio", "threads"];

/// Tells the same story of each engine, all at the same time: most of it is waiting. The number tells them apart.
pub(crate) fn with_each_engine(story: impl Fn(u64, &str) + Sync) {
    thread::scope(|scope| {
        let story = &story;
        for (number, engine) in (0..).zip(ENGINES) {
            scope.spawn(move || story(number, engine));
        }
    });
}

pub(crate) struct Served {
    pub(crate) host: Host,
    pub(crate) pid: u32,
    control: RefCell<Client>,
}

impl Served {
    /// A tapdisk with minor 0 attached and nothing open.
    pub(crate) fn new(engine: &str) -> Served {
        let host = Host::new();
        let spawned = host.command(&["spawn"]).env("OXTAP_ENGINE", engine).output().unwrap();
        assert!(spawned.status.success(), "{engine}: {spawned:?}");
        let pid = String::from_utf8(spawned.stdout).unwrap().trim().parse().unwrap();
        assert_eq!(host.attach(pid), "0");
        let control = RefCell::new(host.native(pid));
        Served { host, pid, control }
    }

    /// Another way to ask, for what takes long.
    pub(crate) fn native(&self) -> Client {
        self.host.native(self.pid)
    }

    pub(crate) fn ask(&self, command: Command) -> Result<ResultOf> {
        self.control.borrow_mut().ask(command)
    }

    /// Opens an image that can be struck; nothing strikes it yet.
    pub(crate) fn open(&self, image: &str) {
        self.ask(Command::Open(OpenImages {
            minor: 0,
            image: image.to_owned(),
            faults: Some(String::new()),
            ..OpenImages::default()
        }))
        .unwrap();
    }

    /// From now on storage fails by these rules.
    pub(crate) fn strike(&self, rules: &str) {
        self.ask(Command::Faults(Faults { minor: 0, rules: rules.to_owned() })).unwrap();
    }

    pub(crate) fn pause(&self, deadline_ms: Option<u64>) -> Result<Quiet> {
        self.ask(Command::Pause { minor: 0, deadline_ms }).map(|result| match result {
            ResultOf::Pause(quiet) => quiet,
            other => panic!("the answer to a pause: {other:?}"),
        })
    }

    pub(crate) fn quiesce(&self, deadline_ms: Option<u64>) -> Result<Quiet> {
        self.ask(Command::Quiesce { minor: 0, deadline_ms }).map(|result| match result {
            ResultOf::Quiesce(quiet) => quiet,
            other => panic!("the answer to a quiesce: {other:?}"),
        })
    }

    pub(crate) fn resume(&self) -> Result<()> {
        self.ask(Command::Resume { minor: 0, image: None }).map(drop)
    }

    pub(crate) fn close(&self) -> Result<()> {
        self.ask(Command::Close { minor: 0, force: false, deadline_ms: None }).map(drop)
    }

    pub(crate) fn state(&self) -> State {
        self.control.borrow_mut().list().unwrap().remove(0).state
    }

    /// Requests that have begun and not ended.
    pub(crate) fn running(&self) -> u64 {
        self.control.borrow_mut().list().unwrap()[0].in_flight
    }

    pub(crate) fn connect(&self) -> Pipeline {
        Pipeline::connect(&self.host.run.nbd_socket(self.pid, minor("0")))
    }

    /// Takes everything away, and finds that nothing is left.
    pub(crate) fn destroy(self) {
        self.host.ok(&["destroy", "-p", &self.pid.to_string(), "-m", "0"]);
        self.host.place.assert_nothing_left();
    }

    /// Makes an image with vhd-util among the test's files.
    pub(crate) fn vhd_util(&self, line: &str) {
        let mut command = self.host.place.program("vhd-util");
        let made = command.args(line.split_whitespace()).current_dir(self.host.place.scratch()).output().unwrap();
        assert!(made.status.success(), "{line}: {made:?}");
    }

    /// `type:path` of one of the test's files.
    pub(crate) fn image(&self, kind: &str, name: &str) -> String {
        format!("{kind}:{}", self.host.place.scratch().join(name).display())
    }
}

pub(crate) fn write(offset: u64, byte: u8, length: usize) -> Asked {
    Asked::Write { offset, bytes: vec![byte; length] }
}

pub(crate) fn read(offset: u64, length: u32) -> Asked {
    Asked::Read { offset, length }
}

/// What a read gave, if all of it is the same byte.
pub(crate) fn only_byte(answered: &Answered) -> Option<u8> {
    match answered {
        Answered::Done(bytes) => bytes.iter().all(|byte| *byte == bytes[0]).then_some(bytes[0]),
        Answered::Failed(error) => panic!("a read failed with {error}"),
    }
}
