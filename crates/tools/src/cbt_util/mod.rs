//! `cbt-util`: logs of changed blocks, as storage managers know them.
//!
//! A log is a small header and a bitmap ([`image_format::change_log`]), in a file or at the start of a device. A header is
//! written in one piece, so that whoever is killed leaves the old one or the new one; a bitmap grows before its header says
//! so, and what `coalesce` has done is done again by the next one without harm.

mod log;
mod syntax;

use std::{
    env,
    ffi::{OsStr, OsString},
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

use block_core::Error;
use command_line::{Options, Program, Syntax};
use control_api::{describe, errno};
use image_format::change_log::Header;
use uuid::Uuid;

use self::log::Log;

const EINVAL: u8 = 22;

/// One of the commands: what it understands, and what it does.
struct Command {
    syntax: Syntax,
    run: fn(&Options) -> Result<(), Failure>,
}

const COMMANDS: &[Command] = &[
    Command { syntax: syntax::CREATE, run: create },
    Command { syntax: syntax::SET, run: set },
    Command { syntax: syntax::GET, run: get },
    Command { syntax: syntax::COALESCE, run: coalesce },
];

/// What the program understands.
pub fn program() -> Program {
    Program {
        name: "cbt-util",
        section: 1,
        about: "Logs of the blocks of a disk that have changed",
        commands: COMMANDS.iter().map(|command| command.syntax).collect(),
        common: &[],
        page: include_str!("../../manual/cbt-util.roff"),
    }
}

/// Why a command ended before its end.
enum Failure {
    /// It was not understood.
    Usage,
    /// It failed: what is said on stderr, as it is, and the exit status.
    Said(String, u8),
}

impl Failure {
    /// A step that failed by the operating system.
    fn of(step: String, error: &Error) -> Failure {
        let number = errno(error);
        Failure::Said(format!("{step}. {}\n", describe(number)), u8::try_from(number).unwrap_or(u8::MAX))
    }
}

/// Runs the program.
pub fn main() -> ExitCode {
    let mut arguments: Vec<OsString> = env::args_os().skip(1).collect();
    let Some(command) = arguments.first().and_then(|name| COMMANDS.iter().find(|command| name == command.syntax.name))
    else {
        let _ = io::stdout().write_all(overview().as_bytes());
        let Some(name) = arguments.first() else { return ExitCode::from(EINVAL) };
        let _ = writeln!(io::stderr(), "Invalid COMMAND {}", name.display());
        // That has always been no failure.
        return ExitCode::SUCCESS;
    };
    arguments.remove(0);
    let options = command.syntax.parse(&arguments).filter(|options| !options.has(b'h'));
    let failure = match options.map(|options| (command.run)(&options)) {
        Some(Ok(())) => return ExitCode::SUCCESS,
        Some(Err(failure)) => failure,
        None => Failure::Usage,
    };
    match failure {
        Failure::Usage => {
            let _ =
                writeln!(io::stdout(), "usage: cbt-util {} {} [-h help]", command.syntax.name, command.syntax.usage());
            ExitCode::from(EINVAL)
        }
        Failure::Said(words, status) => {
            let _ = io::stderr().write_all(words.as_bytes());
            ExitCode::from(status)
        }
    }
}

fn overview() -> String {
    let names: Vec<&str> = COMMANDS.iter().map(|command| command.syntax.name).collect();
    format!("usage: cbt-util COMMAND [OPTIONS]\nCOMMAND := {{ {} }}\n", names.join(" | "))
}

fn path(options: &Options, letter: u8) -> Result<&Path, Failure> {
    options.value(letter).map(Path::new).ok_or(Failure::Usage)
}

/// The size of a disk; none that is not a positive number.
fn size(options: &Options) -> Result<Option<u64>, Failure> {
    let Some(number) = options.wide_number(b's') else { return Ok(None) };
    u64::try_from(number).ok().filter(|bytes| *bytes > 0).map(Some).ok_or(Failure::Usage)
}

fn create(options: &Options) -> Result<(), Failure> {
    let path = path(options, b'n')?;
    let disk_bytes = size(options)?.ok_or(Failure::Usage)?;
    let header = Header { disk_bytes, ..Header::default() };
    Log::create(path, &header).map_err(|error| failed("create", path, &error))
}

fn set(options: &Options) -> Result<(), Failure> {
    let path = path(options, b'n')?;
    if !b"pcfs".iter().any(|letter| options.has(*letter)) {
        return Err(Failure::Usage);
    }
    let mut log = open(path, true)?;
    let mut header = log.header;
    // What is no UUID changes nothing; callers count on that.
    header.parent = options.value(b'p').and_then(uuid).unwrap_or(header.parent);
    header.child = options.value(b'c').and_then(uuid).unwrap_or(header.child);
    header.consistent = options.number(b'f').unwrap_or(header.consistent);
    header.disk_bytes = size(options)?.unwrap_or(header.disk_bytes);
    if header.disk_bytes < log.header.disk_bytes {
        let words = format!("Size smaller than current file size ({})\n", log.header.disk_bytes);
        return Err(Failure::Said(words, EINVAL));
    }
    log.change(&header).map_err(|error| failed("write", path, &error))
}

/// A UUID as everybody writes it, and in no other form.
fn uuid(text: &OsStr) -> Option<Uuid> {
    let text = text.to_str().filter(|text| text.len() == 36)?;
    Uuid::try_parse(text).ok()
}

fn get(options: &Options) -> Result<(), Failure> {
    let path = path(options, b'n')?;
    let asked: Vec<u8> = b"pcfsb".iter().copied().filter(|letter| options.has(*letter)).collect();
    let [asked] = asked[..] else { return Err(Failure::Usage) };
    let log = open(path, false)?;
    let Header { parent, child, consistent, disk_bytes } = log.header;
    let line = match asked {
        b'p' => parent.to_string(),
        b'c' => child.to_string(),
        b'f' => consistent.to_string(),
        b's' => disk_bytes.to_string(),
        _ => return log.copy_bitmap(&mut io::stdout().lock()).map_err(|error| failed("read bitmap of", path, &error)),
    };
    // A reader who has gone wanted to know no more.
    let _ = writeln!(io::stdout(), "{line}");
    Ok(())
}

fn coalesce(options: &Options) -> Result<(), Failure> {
    let (parent_path, child_path) = (path(options, b'p')?, path(options, b'c')?);
    let (parent, child) = (open(parent_path, false)?, open(child_path, true)?);
    if parent.header.bitmap_bytes() > child.header.bitmap_bytes() {
        let words = "Parent bitmap larger than child bitmap,can't coalesce";
        return Err(Failure::Said(words.to_owned(), EINVAL));
    }
    child.take_over(&parent).map_err(|error| failed("coalesce", child_path, &error))
}

fn open(path: &Path, to_write: bool) -> Result<Log, Failure> {
    let file = Log::open_file(path, to_write)
        .map_err(|error| Failure::of(format!("Failed to open log file {}", path.display()), &error))?;
    Log::read(file).map_err(|error| {
        let words = format!("Failed to read CBT metadata from file {}\n", path.display());
        Failure::Said(words, u8::try_from(errno(&error)).unwrap_or(u8::MAX))
    })
}

fn failed(doing: &str, path: &Path, error: &Error) -> Failure {
    Failure::of(format!("Failed to {doing} log file {}", path.display()), error)
}
