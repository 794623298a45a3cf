//! `td-util`: one command line for images of every kind. What it does to a VHD, [`vhd_util`] does; raw images are done here.
//!
//! ```text
//!   create|snapshot|query|set  vhd  ... --> the same command of vhd-util, its words put in order
//!   create|query               aio  ... --> a raw image: a file or a device that is nothing but its bytes
//! ```

mod raw;
mod syntax;

use std::{
    env,
    ffi::{OsStr, OsString},
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

use command_line::{Options, Program, Syntax};

use crate::vhd_util::{self, Speaker};

const EINVAL: u8 = 22;
/// The exit status for a command or a type that there is not.
const UNKNOWN: u8 = 255;
const SPEAKER: Speaker = Speaker { name: "td-util", cannot_open: "failed opening" };

const COMMANDS: &[Syntax] = &[syntax::CREATE, syntax::SNAPSHOT, syntax::QUERY, syntax::SET];

/// What the program understands.
pub fn program() -> Program {
    Program {
        name: "td-util",
        section: 1,
        about: "Make, show and mark images of any kind",
        commands: COMMANDS.to_vec(),
        common: &[],
        page: include_str!("../../manual/td-util.roff"),
    }
}

/// What an image is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Vhd,
    /// Called so after the way in which tapdisk once read it.
    Aio,
}

impl Kind {
    fn named(name: &OsStr) -> Option<Kind> {
        match name.as_encoded_bytes() {
            b"vhd" => Some(Kind::Vhd),
            b"aio" => Some(Kind::Aio),
            _ => None,
        }
    }
}

/// Runs the program.
pub fn main() -> ExitCode {
    let arguments: Vec<OsString> = env::args_os().skip(1).collect();
    let command = arguments.first().and_then(|name| COMMANDS.iter().find(|command| name == command.name));
    let kind = arguments.get(1).and_then(|name| Kind::named(name));
    let (Some(command), Some(kind)) = (command, kind) else {
        let names = COMMANDS.iter().map(|command| command.name).collect::<Vec<_>>().join(" | ");
        let overview =
            format!("usage: td-util COMMAND TYPE [OPTIONS]\nCOMMAND := {{ {names} }}\nTYPE := {{ vhd | aio }}\n");
        let _ = io::stderr().write_all(overview.as_bytes());
        return ExitCode::from(UNKNOWN);
    };
    // The type is the first of its operands.
    let options = command.parse(&arguments[1..]).filter(|options| !options.has(b'h'));
    let status = options.and_then(|options| run(command.name, kind, &options));
    ExitCode::from(status.unwrap_or_else(|| {
        let _ = writeln!(io::stderr(), "usage: td-util {} TYPE [-h help] {}", command.name, usage(command));
        EINVAL
    }))
}

/// What comes behind the type.
fn usage(command: &Syntax) -> String {
    Syntax { operands: &command.operands[1..], ..*command }.usage()
}

/// Runs a command; the answer is the exit status, or none if it was not understood.
fn run(command: &str, kind: Kind, options: &Options) -> Option<u8> {
    match (command, kind) {
        ("create", Kind::Vhd) => {
            let [_, size, name] = options.operands() else { return None };
            let mut words = vec!["-n".into(), name.clone(), "-s".into(), size.clone()];
            words.extend(options.has(b'r').then(|| "-r".into()));
            Some(vhd_util::run_for(SPEAKER, "create", &words))
        }
        // A raw image has all its room from the beginning, and whoever makes one must say that he knows.
        ("create", Kind::Aio) => {
            let [_, size, name] = options.operands() else { return None };
            if options.has(b'r') { raw::create(Path::new(name), size) } else { None }
        }
        ("snapshot", Kind::Vhd) => {
            let [_, name, parent] = options.operands() else { return None };
            let mut words = vec!["-n".into(), name.clone(), "-p".into(), parent.clone()];
            words.extend(options.has(b'm').then(|| "-m".into()));
            words.extend(options.value(b'l').into_iter().flat_map(|limit| ["-l".into(), limit.to_owned()]));
            Some(vhd_util::run_for(SPEAKER, "snapshot", &words))
        }
        ("query", _) => query(kind, options),
        ("set", Kind::Vhd) => {
            let [_, name, field, value] = options.operands() else { return None };
            let words = ["-n".into(), name.clone(), "-f".into(), field.clone(), "-v".into(), value.clone()];
            (field == "hidden").then(|| vhd_util::run_for(SPEAKER, "set", &words))
        }
        (_, _) => None,
    }
}

fn query(kind: Kind, options: &Options) -> Option<u8> {
    let [_, name] = options.operands() else { return None };
    match kind {
        Kind::Aio => Some(raw::query(Path::new(name), options)),
        Kind::Vhd => {
            let mut words = vec!["-n".into(), name.clone()];
            let letters = b"vpfdb".iter().filter(|letter| options.has(**letter));
            words.extend(letters.map(|letter| format!("-{}", char::from(*letter)).into()));
            Some(vhd_util::run_for(SPEAKER, "query", &words))
        }
    }
}
