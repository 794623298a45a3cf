//! Starting a tapdisk, and believing it only when it answers.
//!
//! ```text
//!   we: start the program -> read its line -> ask for its pid -> done
//!   it:                  start, listen, print "/run/blktap-control/ctl<pid>" -> answer
//! ```
//!
//! What it prints on stderr becomes the reason when it does not get that far.

use std::{
    env,
    ffi::OsString,
    fs::File,
    io::{self, Read, Seek},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use block_core::{Error, Result, ResultExt};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{MemfdFlags, memfd_create},
    io::Errno,
    process::{Pid, Signal, kill_process},
};

use crate::{Client, RunDir, errno, paths::RUN_DIRECTORY_VARIABLE, reason};

const NAME: &str = "tapdisk";
const LIBEXEC: &str = "/usr/libexec/tapdisk";

/// Names another program to start, searched in `PATH`; the first that is set counts.
pub const PROGRAM_VARIABLES: [&str; 2] = ["TAPDISK", "TAPDISK2"];

/// How long a tapdisk may take until it is ready. A hang limit, wide enough for one under an instrumenting debugger.
const READY_MAX: Duration = Duration::from_secs(120);
/// How long a program that gave up may take to end.
const END_MAX: Duration = Duration::from_secs(5);
/// A readiness line is a path.
const LINE_BYTES_MAX: usize = 4096;
/// How much of what the program said is kept as the reason.
const REASON_BYTES_MAX: u64 = 4096;

/// A tapdisk that was started and has answered.
#[derive(Debug)]
pub struct Spawned {
    /// Its process id.
    pub pid: u32,
    /// What was started. It has usually ended by now, having put the tapdisk into the background: a long-lived caller
    /// should wait for it. If it has the tapdisk's own id, it *is* the tapdisk.
    pub child: Child,
}

impl Spawned {
    /// Asks the tapdisk to end: for those who can do nothing with it after all. One that has gone already is fine.
    pub fn terminate(&self) {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            let _ = kill_process(pid, Signal::TERM);
        }
    }
}

/// Starts a tapdisk: the program that the environment names, else the one beside our own program, else the installed
/// one. Succeeds only when it has answered on its control socket.
pub fn spawn(run: &RunDir) -> Result<Spawned> {
    spawn_with(run, &[])
}

/// The variable that has a tapdisk end which is given nothing to do within so many seconds of its start.
pub const UNUSED_VARIABLE: &str = "OXTAP_UNUSED_SECONDS";
/// How long whoever starts a tapdisk for itself may take to give it something: many times what that takes.
const UNUSED_SECONDS: u32 = 15;

/// As [`spawn_with`], for a tapdisk that ends by itself if whoever has started it is killed before it has used it.
pub fn spawn_for_use(run: &RunDir, variables: &[(&'static str, OsString)]) -> Result<Spawned> {
    let unused = (UNUSED_VARIABLE, UNUSED_SECONDS.to_string().into());
    spawn_with(run, &[variables, &[unused]].concat())
}

/// As [`spawn`], with more in the environment of the tapdisk, which may also name the program.
pub fn spawn_with(run: &RunDir, variables: &[(&str, OsString)]) -> Result<Spawned> {
    let given = |name: &str| variables.iter().find(|variable| variable.0 == name).map(|variable| variable.1.clone());
    let mut command = program(|name| given(name).or_else(|| env::var_os(name)));
    command.envs(variables.iter().map(|(name, value)| (name, value)));
    start(run, command)
}

fn start(run: &RunDir, mut command: Command) -> Result<Spawned> {
    let name = command.get_program().to_string_lossy().into_owned();
    // A file and not a pipe: a wrapper may go on writing to it long after we have gone.
    let messages =
        File::from(memfd_create("messages", MemfdFlags::CLOEXEC).map_err(io::Error::from).context("stderr")?);
    let stderr = messages.try_clone().context("stderr")?;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr);
    if *run != RunDir::from_environment() {
        command.env(RUN_DIRECTORY_VARIABLE, run.path());
    }
    let mut child = command.spawn().context(&name)?;
    let stdout = child.stdout.take().expect("stdout was asked to be a pipe");
    let ready = wait_until_ready(stdout).and_then(|pid| Ok((pid, answers(run, pid)?)));
    match ready {
        Ok((pid, ())) => Ok(Spawned { pid, child }),
        Err(error) => Err(end(child, messages, error).context(name)),
    }
}

fn program(variable: impl Fn(&str) -> Option<OsString>) -> Command {
    if let Some(named) = named_program(variable) {
        return Command::new(named);
    }
    let beside = env::current_exe().ok().and_then(|ours| Some(ours.parent()?.join(NAME)));
    let mut command = Command::new(installed_program(beside, LIBEXEC.into()));
    // Storage managers look for processes of this name.
    command.arg0(NAME);
    command
}

/// What the environment names. A variable that is empty names nothing.
fn named_program(variable: impl Fn(&str) -> Option<OsString>) -> Option<OsString> {
    PROGRAM_VARIABLES.iter().find_map(|name| variable(name).filter(|value| !value.is_empty()))
}

/// The one beside our own program, else the installed one, whether it is there or not: the error will name it.
fn installed_program(beside: Option<PathBuf>, libexec: PathBuf) -> PathBuf {
    beside.filter(|place| place.is_file()).unwrap_or(libexec)
}

/// Reads the readiness line, the path of a control socket, and takes the process id from it.
fn wait_until_ready(mut stdout: ChildStdout) -> Result<u32> {
    let deadline = Instant::now() + READY_MAX;
    let mut line = Vec::new();
    while !line.contains(&b'\n') {
        wait_readable(&stdout, deadline)?;
        let mut bytes = [0; 256];
        match stdout.read(&mut bytes) {
            Ok(0) => return Err(os("ended before it was ready", Errno::CHILD)),
            Ok(length) => line.extend_from_slice(&bytes[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::from_os("readiness line", error)),
        }
        if line.len() > LINE_BYTES_MAX {
            return Err(os("readiness line is too long", Errno::PROTO));
        }
    }
    let line = String::from_utf8_lossy(&line);
    let pid = line.lines().next().and_then(|line| line.rsplit_once("/ctl")).and_then(|(_, pid)| pid.parse().ok());
    pid.ok_or_else(|| os(format!("readiness line names no control socket: {:?}", line.trim_end()), Errno::PROTO))
}

fn wait_readable(stdout: &ChildStdout, deadline: Instant) -> Result<()> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::new(stdout, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => {
                return Err(os(format!("not ready within {} s", READY_MAX.as_secs()), Errno::TIMEDOUT));
            }
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(os("readiness line", error)),
        }
    }
}

/// The line alone proves nothing: the process may have died behind it.
fn answers(run: &RunDir, pid: u32) -> Result<()> {
    let answer = Client::new(run, pid).timeout(READY_MAX).pid().context(format!("process {pid} does not answer"))?;
    if answer == pid { Ok(()) } else { Err(os(format!("process {pid} says that it is {answer}"), Errno::PROTO)) }
}

/// Ends what was started in vain, and finds out why.
fn end(mut child: Child, mut messages: File, error: Error) -> Error {
    let status = wait_bounded(&mut child);
    if status.is_none() {
        // It is our own child and nobody has waited for it, so its id is still its own.
        let _ = child.kill();
        let _ = child.wait();
    }
    let mut said = Vec::new();
    let _ = messages.rewind().and_then(|()| messages.take(REASON_BYTES_MAX).read_to_end(&mut said));
    let said = String::from_utf8_lossy(&said);
    let said = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ");
    let words = if said.is_empty() { reason(&error) } else { said };
    let code = status.and_then(|status| status.code()).filter(|code| (1..126).contains(code));
    Error::from_os(words, io::Error::from_raw_os_error(code.unwrap_or_else(|| errno(&error))))
}

fn wait_bounded(child: &mut Child) -> Option<std::process::ExitStatus> {
    let deadline = Instant::now() + END_MAX;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if Instant::now() < deadline => thread::sleep(Duration::from_millis(5)),
            _ => return None,
        }
    }
}

fn os(context: impl Into<std::borrow::Cow<'static, str>>, error: Errno) -> Error {
    Error::from_os(context, error.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;
    use wire::control::{Body, Message, RequestReader};

    fn script(text: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", text]);
        command
    }

    /// Answers one question for its process id.
    fn tapdisk(run: &RunDir, pid: u32) -> thread::JoinHandle<()> {
        let listener = UnixListener::bind(run.control_socket(pid)).unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let (mut reader, mut byte) = (RequestReader::new(), [0; 544]);
            stream.read_exact(&mut byte).unwrap();
            while reader.feed(&byte).1.is_none() {
                stream.read_exact(&mut byte).unwrap();
            }
            let answer = Message::new(0, Body::PidResponse(pid.cast_signed()));
            io::Write::write_all(&mut stream, &answer.encode()).unwrap();
        })
    }

    #[test]
    fn the_first_variable_that_names_a_program_counts() {
        let set = |tapdisk: &'static str, tapdisk2: &'static str| {
            named_program(move |name| Some(if name == "TAPDISK" { tapdisk } else { tapdisk2 }.into()))
        };
        assert_eq!(set("valgrind-tapdisk", "other"), Some("valgrind-tapdisk".into()));
        assert_eq!(set("", "other"), Some("other".into()));
        assert_eq!(set("", ""), None);
        assert_eq!(named_program(|_| None), None);
    }

    #[test]
    fn without_a_name_the_program_is_beside_ours_or_in_libexec() {
        let directory = tempfile::tempdir().unwrap();
        let beside = directory.path().join(NAME);
        let found = || installed_program(Some(beside.clone()), LIBEXEC.into());
        assert_eq!(found(), PathBuf::from(LIBEXEC));
        std::fs::write(&beside, "").unwrap();
        assert_eq!(found(), beside);
    }

    #[test]
    fn a_tapdisk_that_says_its_line_and_answers_was_spawned() {
        let directory = tempfile::tempdir().unwrap();
        let run = RunDir::at(directory.path());
        let server = tapdisk(&run, 4711);
        let mut spawned = start(&run, script("echo $OXTAP_RUN_DIR/ctl4711")).unwrap();
        assert_eq!(spawned.pid, 4711);
        spawned.child.wait().unwrap();
        server.join().unwrap();
    }

    #[test]
    fn a_program_that_fails_gives_the_reason_and_the_status() {
        let run = RunDir::at("/nonexistent");
        let error = start(&run, script("echo tapdisk: no engine >&2; exit 38")).unwrap_err();
        assert_eq!((errno(&error), reason(&error).as_str()), (38, "sh: tapdisk: no engine"));
    }

    #[test]
    fn a_program_that_dies_silently_is_told_from_one_that_is_ready() {
        let run = RunDir::at("/nonexistent");
        let error = start(&run, script("exit 0")).unwrap_err();
        assert_eq!((errno(&error), reason(&error).as_str()), (10, "sh: ended before it was ready"));
    }

    #[test]
    fn a_line_from_a_dead_tapdisk_is_not_believed() {
        let directory = tempfile::tempdir().unwrap();
        let run = RunDir::at(directory.path());
        let error = start(&run, script("echo $OXTAP_RUN_DIR/ctl4711")).unwrap_err();
        assert_eq!(errno(&error), 2);
        assert!(reason(&error).contains("process 4711 does not answer"), "{error}");
    }

    #[test]
    fn a_line_that_names_no_socket_is_refused() {
        let error = start(&RunDir::at("/nonexistent"), script("echo hello")).unwrap_err();
        assert_eq!(errno(&error), 71);
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = start(&RunDir::at("/nonexistent"), Command::new("no-such-tapdisk")).unwrap_err();
        assert_eq!((errno(&error), reason(&error).as_str()), (2, "no-such-tapdisk"));
    }
}
