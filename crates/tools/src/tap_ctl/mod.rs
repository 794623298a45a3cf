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
mod syntax;

use std::{
    env,
    ffi::{OsStr, OsString},
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use block_core::{Error, ErrorKind, Result, ResultExt};
use command_line::{Options, Program, Syntax};
use control_api::{Client, Facility, HostLog, Minor, Record, RunDir, Severity, describe, errno, reason};

const EINVAL: u8 = 22;

/// One of the commands: what it understands, and what it does.
struct Command {
    syntax: Syntax,
    run: fn(&Session, &Options) -> std::result::Result<(), Failure>,
}

const COMMANDS: &[Command] = &[
    Command { syntax: syntax::LIST, run: list::run },
    Command { syntax: syntax::ALLOCATE, run: minor::allocate },
    Command { syntax: syntax::FREE, run: minor::free },
    Command { syntax: syntax::CREATE, run: create::create },
    Command { syntax: syntax::DESTROY, run: destroy::destroy },
    Command { syntax: syntax::SPAWN, run: create::spawn },
    Command { syntax: syntax::ATTACH, run: disk::attach },
    Command { syntax: syntax::DETACH, run: disk::detach },
    Command { syntax: syntax::OPEN, run: disk::open },
    Command { syntax: syntax::CLOSE, run: disk::close },
    Command { syntax: syntax::PAUSE, run: disk::pause },
    Command { syntax: syntax::UNPAUSE, run: disk::unpause },
    Command { syntax: syntax::STATS, run: disk::stats },
];

/// What the program understands.
pub fn program() -> Program {
    Program {
        name: "tap-ctl",
        section: 1,
        about: "Control tapdisk processes",
        commands: COMMANDS.iter().map(|command| command.syntax).collect(),
        common: &[syntax::DEBUG],
        page: include_str!("../../manual/tap-ctl.roff"),
    }
}

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
    let debug = OsString::from(syntax::DEBUG.name());
    let is_traced = arguments.contains(&debug);
    arguments.retain(|word| *word != debug);
    let session = Session { run: RunDir::from_environment(), is_traced };
    match run(command, &session, &arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => ExitCode::from(report(command, failure)),
    }
}

fn find(name: &OsStr) -> Option<&'static Command> {
    COMMANDS.iter().find(|command| name == command.syntax.name)
}

fn run(command: &Command, session: &Session, arguments: &[OsString]) -> std::result::Result<(), Failure> {
    let options = command.syntax.parse(arguments).ok_or(Failure::Usage)?;
    if options.has(b'h') {
        return Ok(write(usage(command))?);
    }
    (command.run)(session, &options)
}

fn overview() -> String {
    let names: Vec<&str> = COMMANDS.iter().map(|command| command.syntax.name).collect();
    format!("usage: tap-ctl COMMAND [OPTIONS]\nCOMMAND := {{ {} }}\n", names.join(" | "))
}

fn usage(command: &Command) -> String {
    format!("usage: {} {}", command.syntax.name, command.syntax.usage()).trim_end().to_owned() + "\n"
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
    log.send(Record::now(Severity::Error, format!("tap-err:{}: {line}", command.syntax.name)));
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
