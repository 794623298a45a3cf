//! `vhd-util`: command line, output and exit status as storage managers know them.
//!
//! ```text
//!   arguments --options--> command --inline I/O--> image
//!                             |
//!                             +--> stdout: what storage managers parse, byte for byte
//!                             +--> stderr: one line, which file and why
//!                             +--> exit status: the error number
//! ```
//!
//! Start-up time matters: storage managers run this program thousands of times. So there is no thread, no ring, and no
//! more than one read per table.

mod check;
mod check_statistics;
mod coalesce;
mod copy;
mod create;
mod creating;
mod fill;
mod headers;
mod json;
mod key;
pub(crate) mod making;
mod modify;
mod opened;
mod parents;
mod query;
mod read;
mod repair;
mod resize;
mod revert;
mod scan;
mod set;
mod snapshot;
mod test_failures;
#[cfg(test)]
mod tests;

use std::{
    cell::RefCell,
    env,
    ffi::{OsStr, OsString},
    io::{self, Write},
    path::Path,
    process::ExitCode,
    rc::Rc,
};

use block_core::{Error, Result};
use command_line::{Flag, Options, Program, Syntax, Value};
use control_api::{Facility, HostLog, Record, Severity, describe, errno, leased_directories, reason};
use storage_io::{EngineChoice, Executor, LeasedFiles, Opener};

const EINVAL: u8 = 22;

/// One of the commands: what it understands, and what it does.
struct Command {
    syntax: Syntax,
    /// The exit status of `-h`.
    help: u8,
    run: fn(&Session, &Options) -> std::result::Result<(), Failure>,
}

const COMMANDS: &[Command] = &[
    Command { syntax: create::SYNTAX, help: EINVAL, run: create::run },
    Command { syntax: snapshot::SYNTAX, help: 0, run: snapshot::run },
    Command { syntax: query::SYNTAX, help: 0, run: query::run },
    Command { syntax: read::SYNTAX, help: EINVAL, run: read::run },
    Command { syntax: set::SYNTAX, help: EINVAL, run: set::run },
    Command { syntax: repair::SYNTAX, help: EINVAL, run: repair::run },
    Command { syntax: resize::SYNTAX, help: EINVAL, run: resize::run },
    Command { syntax: revert::SYNTAX, help: EINVAL, run: revert::run },
    Command { syntax: fill::SYNTAX, help: EINVAL, run: fill::run },
    Command { syntax: modify::SYNTAX, help: EINVAL, run: modify::run },
    Command { syntax: check::SYNTAX, help: 0, run: check::run },
    Command { syntax: scan::SYNTAX, help: 0, run: scan::run },
    Command { syntax: coalesce::SYNTAX, help: EINVAL, run: coalesce::run },
    Command { syntax: key::SYNTAX, help: EINVAL, run: key::run },
    Command { syntax: copy::SYNTAX, help: EINVAL, run: copy::run },
];

/// The image that a command is about.
const IMAGE: Flag = Flag::letter(b'n', "name").with(Value::file("image")).required();

/// How large a disk may become without moving data.
const TABLES: Flag = Flag::letter(b'S', "size in MiB that the tables have room for").with(Value::text("MiB")).explained(
    "The tables get room for a disk of this size, so that the disk can grow later without moving data. Not less than the \
     size of the disk.",
);

/// Taken anywhere behind the command.
const DEBUG: Flag = Flag::long("debug", "failures go to the host's log, too");

/// What the program understands.
pub fn program() -> Program {
    Program {
        name: "vhd-util",
        section: 1,
        about: "Make, show, change, check and repair VHD images",
        commands: COMMANDS.iter().map(|command| command.syntax).collect(),
        common: &[DEBUG],
        page: include_str!("../../manual/vhd-util.roff"),
    }
}

/// Why a command ended before its end.
enum Failure {
    /// It was not understood.
    Usage,
    /// It failed.
    Error(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Error(error)
    }
}

/// Which program speaks: its name, and its words for an image that cannot be opened.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Speaker {
    pub(crate) name: &'static str,
    pub(crate) cannot_open: &'static str,
}

const VHD_UTIL: Speaker = Speaker { name: "vhd-util", cannot_open: "error opening" };

/// What all commands need.
struct Session {
    executor: Executor,
    files: Rc<dyn Opener>,
    speaker: Speaker,
    said: RefCell<Vec<u8>>,
}

impl Session {
    fn new(speaker: Speaker) -> Result<Session> {
        let executor = Executor::new(EngineChoice::Inline)?;
        Ok(Session {
            executor,
            files: Rc::new(LeasedFiles::new(&leased_directories())),
            speaker,
            said: RefCell::default(),
        })
    }

    /// Adds a line to what the command says on stdout.
    fn say(&self, line: impl AsRef<[u8]>) {
        let mut said = self.said.borrow_mut();
        said.extend_from_slice(line.as_ref());
        said.push(b'\n');
    }

    /// Adds a line to what the command says on stderr: what is not its result, and no failure either.
    fn warn(&self, line: impl AsRef<str>) {
        let _ = writeln!(io::stderr(), "{}: {}", self.speaker.name, line.as_ref().replace('\n', " "));
    }

    /// Brings bytes to stdout at once, behind what was said before: output that need not fit memory.
    fn put(&self, bytes: &[u8]) -> Result<()> {
        let said = self.said.take();
        let mut stdout = io::stdout().lock();
        let put = stdout.write_all(&said).and_then(|()| stdout.write_all(bytes)).and_then(|()| stdout.flush());
        put.map_err(|error| Error::from_os("standard output", error))
    }

    /// Adds words to what the command says on stdout, without ending the line.
    fn say_unended(&self, words: &str) {
        self.said.borrow_mut().extend_from_slice(words.as_bytes());
    }

    /// Says that an image cannot be opened, as all commands say it.
    fn say_unopened(&self, name: &OsStr, error: &Error) {
        let (words, end) = (self.speaker.cannot_open, format!(": -{}", errno(error)));
        self.say([words.as_bytes(), b" ", name.as_encoded_bytes(), end.as_bytes()].concat());
    }
}

/// Runs the program.
pub fn main() -> ExitCode {
    let mut arguments: Vec<OsString> = env::args_os().skip(1).collect();
    let Some(command) = arguments.first().and_then(|name| COMMANDS.iter().find(|command| name == command.syntax.name))
    else {
        if let Some(name) = arguments.first() {
            let _ = writeln!(io::stderr(), "invalid COMMAND {}", name.display());
        }
        // Whoever does not know a command is told them all; that has always been no failure.
        let _ = io::stdout().write_all(overview().as_bytes());
        return ExitCode::SUCCESS;
    };
    arguments.remove(0);
    let debug = OsString::from(DEBUG.name());
    let is_logged = arguments.contains(&debug);
    arguments.retain(|word| *word != debug);
    ExitCode::from(run(VHD_UTIL, command, &arguments, is_logged))
}

/// Runs the command of this name for another program; the answer is the exit status.
pub(crate) fn run_for(speaker: Speaker, name: &str, arguments: &[OsString]) -> u8 {
    let command = COMMANDS.iter().find(|command| command.syntax.name == name).expect("a command that there is");
    run(speaker, command, arguments, false)
}

/// Runs a command; the answer is the exit status.
fn run(speaker: Speaker, command: &Command, arguments: &[OsString], is_logged: bool) -> u8 {
    let takes_operands = !command.syntax.operands.is_empty();
    let options = command.syntax.parse(arguments).filter(|options| takes_operands || !options.has_operands());
    let Some(options) = options else {
        say_usage(command, &[]);
        return EINVAL;
    };
    if options.has(b'h') {
        say_usage(command, &[]);
        return command.help;
    }
    let session = match Session::new(speaker) {
        Ok(session) => session,
        Err(error) => return report(speaker, command, &error, is_logged),
    };
    let result = (command.run)(&session, &options);
    let said = session.said.take();
    let status = match result {
        Ok(()) => 0,
        Err(Failure::Usage) => {
            say_usage(command, &said);
            return EINVAL;
        }
        Err(Failure::Error(error)) => report(speaker, command, &error, is_logged),
    };
    let _ = io::stdout().write_all(&said);
    status
}

/// Says the options, behind what was said before. Of `key` only results are read from stdout.
fn say_usage(command: &Command, said: &[u8]) {
    let words = [said, usage(command).as_bytes()].concat();
    let _ = if command.syntax.name == key::SYNTAX.name {
        io::stderr().write_all(&words)
    } else {
        io::stdout().write_all(&words)
    };
}

fn overview() -> String {
    let names: Vec<&str> = COMMANDS.iter().map(|command| command.syntax.name).collect();
    format!("usage: vhd-util COMMAND [OPTIONS]\nCOMMAND := {{ {} }}\n", names.join(" | "))
}

fn usage(command: &Command) -> String {
    format!("options: {} [-h help]\n", command.syntax.usage())
}

/// Says what failed, in one line, and to the host's log if that was asked for; the answer is the exit status.
fn report(speaker: Speaker, command: &Command, error: &Error, is_logged: bool) -> u8 {
    let line = words(error).replace('\n', " ");
    let _ = writeln!(io::stderr(), "{} {}: {line}", speaker.name, command.syntax.name);
    if is_logged {
        let mut log = HostLog::new(speaker.name, Facility::User);
        log.send(Record::now(Severity::Error, format!("{}: {line}", command.syntax.name)));
    }
    u8::try_from(errno(error)).unwrap_or(u8::MAX)
}

/// What happened; the operating system's part as everybody writes it.
fn words(error: &Error) -> String {
    match (error.os_error(), reason(error)) {
        (None, words) => words,
        (Some(number), words) if words.is_empty() => describe(number),
        (Some(number), words) => format!("{words}: {}", describe(number)),
    }
}

/// The image that is meant.
fn name(options: &Options, letter: u8) -> std::result::Result<&Path, Failure> {
    options.value(letter).map(Path::new).ok_or(Failure::Usage)
}

/// A size given in MiB, in bytes.
fn mebibytes(options: &Options, letter: u8) -> Result<Option<u64>> {
    let Some(number) = options.wide_number(letter) else { return Ok(None) };
    let bytes = u64::try_from(number).ok().and_then(|number| number.checked_mul(1 << 20));
    let words = || format!("{number} MiB is no size of a disk");
    bytes.map(Some).ok_or_else(|| Error::new(block_core::ErrorKind::Invalid, words()))
}
