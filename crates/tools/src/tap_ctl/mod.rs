//! `tap-ctl`: command line, output and exit status as storage managers know them.
//!
//! ```text
//!   arguments --options--> command --Client--> tapdisk
//!                             |
//!                             +--> stdout, one line on stderr, exit status = error number
//! ```
//!
//! Every failure is one line on stderr, what failed and why, and the number as the exit status. The same goes to the
//! host's log. Start-up time matters here: storage managers run this program thousands of times.

mod create;
mod destroy;
mod disk;
mod list;
mod minor;
mod patience;

use std::{
    env,
    ffi::{OsStr, OsString},
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use block_core::{Error, ErrorKind, Result, ResultExt};
use control_api::{Client, Facility, HostLog, Minor, Record, RunDir, Severity, describe, errno, reason};

use crate::getopt::Options;

const EINVAL: u8 = 22;

/// One of the commands: its name, its letters as `getopt` writes them, its usage, and what it does.
struct Command {
    name: &'static str,
    letters: &'static str,
    usage: &'static str,
    run: fn(&Session, &Options) -> std::result::Result<(), Failure>,
}

const COMMANDS: &[Command] = &[
    Command { name: "list", letters: "hp:m:t:f:", usage: "[-p pid] [-m minor] [-t type] [-f file]", run: list::run },
    Command { name: "allocate", letters: "h", usage: "", run: minor::allocate },
    Command { name: "free", letters: "hm:", usage: "<-m minor>", run: minor::free },
    Command {
        name: "create",
        letters: "ha:d:RDre:2:st:C:",
        usage: "<-a type:path> [-d name] [-R readonly] [-D no O_DIRECT] [-r local read cache] [-e parent minor] \
                [-2 secondary] [-s standby] [-t request timeout] [-C change log]",
        run: create::create,
    },
    Command {
        name: "destroy",
        letters: "hp:m:t:f",
        usage: "<-p pid> <-m minor> [-t seconds] [-f force]",
        run: destroy::destroy,
    },
    Command { name: "spawn", letters: "h", usage: "", run: create::spawn },
    Command { name: "attach", letters: "hp:m:", usage: "<-p pid> <-m minor>", run: disk::attach },
    Command { name: "detach", letters: "hp:m:", usage: "<-p pid> <-m minor>", run: disk::detach },
    Command {
        name: "open",
        letters: "ha:p:m:RDre:2:st:C:E",
        usage: "<-p pid> <-m minor> <-a type:path> [-R readonly] [-D no O_DIRECT] [-r local read cache] \
                [-e parent minor] [-2 secondary] [-s standby] [-t request timeout] [-C change log] [-E key on stdin]",
        run: disk::open,
    },
    Command {
        name: "close",
        letters: "hp:m:ft:",
        usage: "<-p pid> <-m minor> [-f force] [-t seconds]",
        run: disk::close,
    },
    Command { name: "pause", letters: "hp:m:t:", usage: "<-p pid> <-m minor> [-t seconds]", run: disk::pause },
    Command {
        name: "unpause",
        letters: "hp:m:a:2:c:",
        usage: "<-p pid> <-m minor> [-a type:path] [-2 secondary] [-c change log]",
        run: disk::unpause,
    },
    Command { name: "stats", letters: "hp:m:", usage: "<-p pid> <-m minor>", run: disk::stats },
];

/// Why a command ended before its end.
enum Failure {
    /// It was not understood.
    Usage,
    /// It failed.
    Error(Error),
    /// It failed with a status that is no error number.
    Status(u8, &'static str),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Error(error)
    }
}

/// What all commands need: where everything is, and whether messages are to be shown.
struct Session {
    run: RunDir,
    is_traced: bool,
}

impl Session {
    fn client(&self, pid: u32, timeout: Option<Duration>) -> Client {
        let client = Client::new(&self.run, pid);
        let client = if self.is_traced { client.traced(trace) } else { client };
        match timeout {
            Some(timeout) => client.timeout(timeout),
            None => client,
        }
    }
}

/// Runs the program.
pub fn main() -> ExitCode {
    let mut arguments: Vec<OsString> = env::args_os().skip(1).collect();
    let command = arguments.first().and_then(|name| find(name));
    let Some(command) = command else {
        // Whoever does not know a command is told them all; that has always been no failure.
        let _ = write(overview());
        return ExitCode::SUCCESS;
    };
    arguments.remove(0);
    let is_traced = arguments.iter().any(|word| word == "--debug");
    arguments.retain(|word| word != "--debug");
    let session = Session { run: RunDir::from_environment(), is_traced };
    match run(command, &session, &arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => ExitCode::from(report(command, failure)),
    }
}

fn find(name: &OsStr) -> Option<&'static Command> {
    COMMANDS.iter().find(|command| name == command.name)
}

fn run(command: &Command, session: &Session, arguments: &[OsString]) -> std::result::Result<(), Failure> {
    let options = Options::parse(command.letters, arguments).ok_or(Failure::Usage)?;
    if options.has(b'h') {
        return Ok(write(usage(command))?);
    }
    (command.run)(session, &options)
}

fn overview() -> String {
    let names: Vec<&str> = COMMANDS.iter().map(|command| command.name).collect();
    format!("usage: tap-ctl COMMAND [OPTIONS]\nCOMMAND := {{ {} }}\n", names.join(" | "))
}

fn usage(command: &Command) -> String {
    format!("usage: {} {}", command.name, command.usage).trim_end().to_owned() + "\n"
}

/// Says what failed, in one line, to whoever called and to the host's log; the answer is the exit status.
fn report(command: &Command, failure: Failure) -> u8 {
    let (status, line) = match failure {
        Failure::Usage => {
            let _ = io::stderr().write_all(usage(command).as_bytes());
            (EINVAL, describe(EINVAL.into()))
        }
        Failure::Status(status, line) => (status, line.to_owned()),
        Failure::Error(error) => {
            let (number, words) = (errno(&error), reason(&error));
            let line = [words, describe(number)].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>();
            (u8::try_from(number).unwrap_or(u8::MAX), line.join(": "))
        }
    };
    let _ = writeln!(io::stderr(), "{}", line.replace('\n', " "));
    let mut log = HostLog::new("tap-ctl", Facility::User);
    log.send(Record::now(Severity::Error, format!("tap-err:{}: {line}", command.name)));
    status
}

fn trace(line: &str) {
    let _ = write(format!("{line}\n"));
}

fn write(text: impl AsRef<[u8]>) -> Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_ref()).and_then(|()| stdout.flush()).context("stdout")
}

/// The process that is meant.
fn pid(options: &Options) -> std::result::Result<u32, Failure> {
    options.number(b'p').and_then(|pid| u32::try_from(pid).ok()).ok_or(Failure::Usage)
}

/// The minor that is meant.
fn minor(options: &Options) -> std::result::Result<Minor, Failure> {
    let number = options.number(b'm').filter(|number| *number >= 0).ok_or(Failure::Usage)?;
    let minor = u16::try_from(number).ok().and_then(Minor::new);
    minor.ok_or_else(|| Error::new(ErrorKind::Invalid, format!("{number} is no minor")).into())
}

/// How long to wait for an answer; for ever if nothing is said.
fn timeout(options: &Options) -> Option<Duration> {
    let seconds = options.number(b't').and_then(|seconds| u64::try_from(seconds).ok());
    seconds.filter(|seconds| *seconds > 0).map(Duration::from_secs)
}
