//! Programs of ours, built beside this one, as other processes.

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    time::Duration,
};

use block_core::{Error, ErrorKind, Result, ResultExt};
use rustix::process::{Pid, Signal, kill_process};

/// How long a program may take to end when it is asked to. A hang limit.
const END_MAX: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// A program beside this one.
pub(crate) fn program(name: &str) -> Result<PathBuf> {
    let ours = std::env::current_exe().context("this program")?;
    let path = ours.with_file_name(name);
    let missing = || Error::new(ErrorKind::NotFound, format!("{}: build it first", path.display()));
    path.is_file().then(|| path.clone()).ok_or_else(missing)
}

/// A process that is asked to end when this is dropped, and made to if it does not.
pub(crate) struct Process {
    child: Child,
    /// Kept open: it may have more to say.
    stdout: BufReader<ChildStdout>,
}

impl Process {
    /// Starts a program and waits for the first line that it prints.
    pub(crate) fn start(command: &mut Command) -> Result<Process> {
        let name = command.get_program().to_string_lossy().into_owned();
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context(&name)?;
        let stdout = child.stdout.take().expect("it was asked to be a pipe");
        let mut process = Process { child, stdout: BufReader::new(stdout) };
        let mut line = String::new();
        process.stdout.read_line(&mut line).context(&name)?;
        match line.is_empty() {
            true => Err(Error::new(ErrorKind::Closed, format!("{name}: has ended"))),
            false => Ok(process),
        }
    }

    /// Starts a program and waits until it listens. What it says is lost.
    pub(crate) fn start_listening(command: &mut Command, socket: &Path) -> Result<Process> {
        let name = command.get_program().to_string_lossy().into_owned();
        // One that was there before belongs to nobody any more.
        let _ = fs::remove_file(socket);
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().context(&name)?;
        let stdout = child.stdout.take().expect("it was asked to be a pipe");
        let mut process = Process { child, stdout: BufReader::new(stdout) };
        for _ in 0..END_MAX.as_millis() / LOOK_EVERY.as_millis() {
            if UnixStream::connect(socket).is_ok() {
                return Ok(process);
            }
            if let Ok(Some(status)) = process.child.try_wait() {
                return Err(Error::new(ErrorKind::Closed, format!("{name}: has ended ({status})")));
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Err(Error::new(ErrorKind::Closed, format!("{name}: does not listen")))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it without asking.
    pub(crate) fn kill(&mut self) {
        // It has ended already if this fails.
        let _ = self.child.kill();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        end(self.child.id());
        let ended = |child: &mut Child| matches!(child.try_wait(), Ok(Some(_)) | Err(_));
        for _ in 0..END_MAX.as_millis() / LOOK_EVERY.as_millis() {
            if ended(&mut self.child) {
                return;
            }
            std::thread::sleep(LOOK_EVERY);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks a process to end.
pub(crate) fn end(pid: u32) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // One that has ended is as good.
        let _ = kill_process(pid, Signal::TERM);
    }
}

/// Asks a process that is not our child to end when this is dropped.
pub(crate) struct EndedWhenDropped(pub(crate) u32);

impl Drop for EndedWhenDropped {
    fn drop(&mut self) {
        end(self.0);
    }
}
