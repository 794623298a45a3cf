//! `oxtap serve` in the foreground of a test.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, ChildStdout, Command, Output, Stdio},
    time::Duration,
};

use rustix::process::Signal;
use test_support::{ProcessGuard, RunDirectory, require_tool};

/// How long it may take to end. A hang limit.
const END_MAX: Duration = Duration::from_secs(60);

/// A running `oxtap serve`.
pub(crate) struct Served {
    child: Child,
    guard: ProcessGuard,
    stdout: BufReader<ChildStdout>,
    /// What it said until it told its address.
    pub(crate) said: String,
    /// Where it serves.
    pub(crate) uri: String,
}

impl Served {
    /// Starts it in `place` and waits until it says where it serves.
    pub(crate) fn start(place: &RunDirectory, arguments: &[&str]) -> Served {
        let mut command = place.program("oxtap");
        command.arg("serve").args(arguments).current_dir(place.scratch()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let guard = ProcessGuard::new(child.id()).unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut said = String::new();
        while !said.contains("qemu ") {
            assert!(stdout.read_line(&mut said).unwrap() > 0, "it ended: {said}");
        }
        let uri = said.lines().find_map(|line| line.trim().strip_prefix("NBD URI")).unwrap().trim().to_owned();
        Served { child, guard, stdout, said, uri }
    }

    /// Ctrl-C; what it said then. It must end well.
    pub(crate) fn end(mut self) -> String {
        self.guard.signal(Signal::INT).unwrap();
        assert!(self.guard.wait_for_end(END_MAX).unwrap(), "it does not end");
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).unwrap();
        assert!(self.child.wait().unwrap().success(), "{rest}");
        rest
    }

    /// Runs `qemu-io` commands on the disk.
    pub(crate) fn qemu_io(&self, options: &[&str], commands: &[&str]) -> Output {
        let mut command = Command::new(require_tool("qemu-io"));
        command.args(["-f", "raw"]).args(options);
        commands.iter().for_each(|line| _ = command.args(["-c", line]));
        command.arg(&self.uri).output().unwrap()
    }
}

/// What a program printed, for a test to look at.
pub(crate) fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
