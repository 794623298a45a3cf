//! `td-util`: one command line for images of every kind. What it does to a VHD, [`vhd_util`] does; raw images are done here.
//!
//! ```text
//!   create|snapshot|query|set  vhd  ... --> the same command of vhd-util, its words put in order
//!   create|query               aio  ... --> a raw image: a file or a device that is nothing but its bytes
//! ```

mod raw;

use std::{
    env,
    ffi::{OsStr, OsString},
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

use crate::{
    getopt::Options,
    vhd_util::{self, Speaker},
};

const EINVAL: u8 = 22;
/// The exit status for a command or a type that there is not.
const UNKNOWN: u8 = 255;
const SPEAKER: Speaker = Speaker { name: "td-util", cannot_open: "failed opening" };

/// One of the commands: its name, its letters as `getopt` writes them, and its usage.
struct Command {
    name: &'static str,
    letters: &'static str,
    usage: &'static str,
}

const COMMANDS: [Command; 4] = [
    Command { name: "create", letters: "hrb", usage: "[-h help] [-r all room at once] <size in MiB> <name>" },
    Command {
        name: "snapshot",
        letters: "hmbl:",
        usage: "[-h help] [-m the parent is raw] [-l longest chain] <name> <parent>",
    },
    Command {
        name: "query",
        letters: "hvpfdb",
        usage: "[-h help] [-v size in MiB] [-p parent] [-f hidden] [-d depth of the chain] \
                [-b by the footer at the start] <name>",
    },
    Command { name: "set", letters: "h", usage: "[-h help] <name> hidden <0..255>" },
];

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
        let names = COMMANDS.map(|command| command.name).join(" | ");
        let overview =
            format!("usage: td-util COMMAND TYPE [OPTIONS]\nCOMMAND := {{ {names} }}\nTYPE := {{ vhd | aio }}\n");
        let _ = io::stderr().write_all(overview.as_bytes());
        return ExitCode::from(UNKNOWN);
    };
    let options = Options::parse(command.letters, &arguments[2..]).filter(|options| !options.has(b'h'));
    let status = options.and_then(|options| run(command.name, kind, &options));
    ExitCode::from(status.unwrap_or_else(|| {
        let _ = writeln!(io::stderr(), "usage: td-util {} TYPE {}", command.name, command.usage);
        EINVAL
    }))
}

/// Runs a command; the answer is the exit status, or none if it was not understood.
fn run(command: &str, kind: Kind, options: &Options) -> Option<u8> {
    match (command, kind) {
        // A letter of another program, which vhd-util never knew.
        ("create" | "snapshot", _) if options.has(b'b') => None,
        ("create", Kind::Vhd) => {
            let [size, name] = options.operands() else { return None };
            let mut words = vec!["-n".into(), name.clone(), "-s".into(), size.clone()];
            words.extend(options.has(b'r').then(|| "-r".into()));
            Some(vhd_util::run_for(SPEAKER, "create", &words))
        }
        // A raw image has all its room from the beginning, and whoever makes one must say that he knows.
        ("create", Kind::Aio) => {
            let [size, name] = options.operands() else { return None };
            if options.has(b'r') { raw::create(Path::new(name), size) } else { None }
        }
        ("snapshot", Kind::Vhd) => {
            let [name, parent] = options.operands() else { return None };
            let mut words = vec!["-n".into(), name.clone(), "-p".into(), parent.clone()];
            words.extend(options.has(b'm').then(|| "-m".into()));
            words.extend(options.value(b'l').into_iter().flat_map(|limit| ["-l".into(), limit.to_owned()]));
            Some(vhd_util::run_for(SPEAKER, "snapshot", &words))
        }
        ("query", _) => query(kind, options),
        ("set", Kind::Vhd) => {
            let [name, field, value] = options.operands() else { return None };
            let words = ["-n".into(), name.clone(), "-f".into(), field.clone(), "-v".into(), value.clone()];
            (field == "hidden").then(|| vhd_util::run_for(SPEAKER, "set", &words))
        }
        (_, _) => None,
    }
}

fn query(kind: Kind, options: &Options) -> Option<u8> {
    let [name] = options.operands() else { return None };
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
