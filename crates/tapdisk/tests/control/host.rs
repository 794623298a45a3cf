//! A host of one test: tapdisk and tap-ctl in a place of their own.

// Every test file compiles this for itself and uses what it needs.
#![allow(dead_code)]

use std::{
    fs::{self, File},
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use control_api::{Client, Minor, RunDir, native};
use test_support::RunDirectory;

/// A hang limit, not a measure.
pub(crate) const LONG: Duration = Duration::from_secs(60);

pub(crate) struct Host {
    pub(crate) place: RunDirectory,
    pub(crate) run: RunDir,
}

/// How a command of tap-ctl ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Host {
    pub(crate) fn new() -> Host {
        let place = RunDirectory::new();
        let run = RunDir::at(place.path());
        Host { place, run }
    }

    /// A command in this place, with nothing on stdin.
    pub(crate) fn command(&self, line: &[&str]) -> Command {
        let mut command = self.place.program("tap-ctl");
        command.args(line).stdin(Stdio::null());
        command
    }

    pub(crate) fn tap_ctl(&self, line: &[&str]) -> Said {
        said(self.command(line).output().unwrap())
    }

    /// What a command says on stdout; it must succeed and say nothing on stderr.
    pub(crate) fn ok(&self, line: &[&str]) -> String {
        let said = self.tap_ctl(line);
        assert_eq!((said.status, said.stderr.as_str()), (0, ""), "tap-ctl {line:?}");
        said.stdout
    }

    /// The status of a command that must fail, and the one line that it says on stderr.
    pub(crate) fn fails(&self, line: &[&str]) -> (i32, String) {
        let said = self.tap_ctl(line);
        assert_ne!(said.status, 0, "tap-ctl {line:?}: {said:?}");
        assert_eq!(said.stderr.lines().count(), 1, "tap-ctl {line:?}: {said:?}");
        (said.status, said.stderr.trim_end().to_owned())
    }

    pub(crate) fn spawn(&self) -> u32 {
        self.ok(&["spawn"]).trim().parse().unwrap()
    }

    /// A tapdisk with this many minors attached, counted from the lowest free one.
    pub(crate) fn attached(&self, count: usize) -> (u32, Vec<String>) {
        let pid = self.spawn();
        let minors: Vec<String> = (0..count).map(|_| self.attach(pid)).collect();
        (pid, minors)
    }

    pub(crate) fn attach(&self, pid: u32) -> String {
        let minor = self.run.allocate_minor().unwrap().to_string();
        assert_eq!(self.ok(&["attach", "-p", &pid.to_string(), "-m", &minor]), "");
        minor
    }

    pub(crate) fn client(&self, pid: u32) -> Client {
        Client::new(&self.run, pid).timeout(LONG)
    }

    /// A connection in the native protocol.
    pub(crate) fn native(&self, pid: u32) -> native::Client {
        native::Client::connect(&self.run, pid, Some(LONG)).unwrap()
    }

    /// A raw image of this many bytes.
    pub(crate) fn raw_image(&self, name: &str, bytes: u64) -> PathBuf {
        let path = self.place.scratch().join(name);
        File::create(&path).unwrap().set_len(bytes).unwrap();
        path
    }

    /// Somebody who speaks to a tapdisk in bytes.
    pub(crate) fn connect(&self, pid: u32) -> UnixStream {
        let stream = UnixStream::connect(self.run.control_socket(pid)).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream
    }
}

pub(crate) fn said(output: Output) -> Said {
    Said {
        status: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

pub(crate) fn minor(text: &str) -> Minor {
    Minor::new(text.parse().unwrap()).unwrap()
}

pub(crate) fn aio(path: &Path) -> String {
    format!("aio:{}", path.display())
}

/// The names in a directory, sorted.
pub(crate) fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Sends bytes and gives everything that comes back until the end.
pub(crate) fn ask(stream: &mut UnixStream, bytes: &[u8]) -> Vec<u8> {
    stream.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    answer
}

/// Waits until something holds that another process brings about.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + LONG;
    while !holds() {
        assert!(std::time::Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
