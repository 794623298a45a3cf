//! `td-rated`: a rate that several disks share. Disks connect, say what they want to move, and are granted it when it is
//! their turn; [`wire::rate_limit`] is what they say.
//!
//! ```text
//!   tapdisk --valve--> socket --> Bridge: who wants what --> Limiter: is there something to grant?
//!   tapdisk --valve-->              '--> grants, first come, first served
//! ```
//!
//! It listens before it goes to the background, so that whoever started it learns of every failure, and may connect when
//! it has returned.

mod arguments;
mod bridge;
mod bucket;
mod limiter;
mod log;
mod serve;
mod socket;

use std::{
    env,
    fs::File,
    io::{self, Write},
    process::ExitCode,
};

use block_core::{Result, ResultExt};
use command_line::Program;
use control_api::{RunDir, errno};
use rustix::{
    process::{Resource, chdir, getrlimit, setrlimit, setsid},
    stdio::{dup2_stderr, dup2_stdin, dup2_stdout},
};
use storage_io::{Fork, fork};

use arguments::{Arguments, Command, USAGE};
use log::Log;
use socket::Socket;

const EINVAL: u8 = 22;

/// What the program understands.
pub fn program() -> Program {
    Program {
        name: "td-rated",
        section: 8,
        about: "A rate that several disks share",
        commands: vec![arguments::SYNTAX, arguments::TOKEN, arguments::MEMINFO],
        common: &[],
        page: include_str!("../../manual/td-rated.roff"),
    }
}

/// Runs the program.
pub fn main() -> ExitCode {
    let arguments = match arguments::parse(env::args_os().skip(1)) {
        Ok(Command::Serve(arguments)) => arguments,
        Ok(Command::Help) => {
            say(USAGE);
            return ExitCode::SUCCESS;
        }
        Err(words) => {
            say(&format!("td-rated: {words}\n{USAGE}"));
            return ExitCode::from(EINVAL);
        }
    };
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("td-rated: {error}\n"));
            u8::try_from(errno(&error)).map_or(ExitCode::FAILURE, ExitCode::from)
        }
    }
}

fn say(words: &str) {
    // Whoever closed stderr does not want to know.
    let _ = io::stderr().write_all(words.as_bytes());
}

fn run(arguments: Arguments) -> Result<()> {
    let socket = Socket::bind(RunDir::from_environment().rate_limiter(&arguments.name))?;
    let log = if arguments.level > 0 {
        Log::to_stderr(arguments.level)
    } else if leave()? {
        Log::to_host()
    } else {
        // The one in the background has the socket now.
        socket.leave();
        return Ok(());
    };
    allow_descriptors();
    serve::serve(socket, arguments.limiter, log, arguments.level > 0)
}

/// Goes to the background. Whether this is the process that did; the other one has nothing left to do.
fn leave() -> Result<bool> {
    if let Fork::Parent { .. } = fork()? {
        return Ok(false);
    }
    setsid().map_err(io::Error::from).context("setsid")?;
    chdir("/").map_err(io::Error::from).context("chdir /")?;
    const NULL: &str = "/dev/null";
    let null = File::options().read(true).write(true).open(NULL).context(NULL)?;
    let moved = dup2_stdin(&null).and_then(|()| dup2_stdout(&null)).and_then(|()| dup2_stderr(&null));
    moved.map_err(io::Error::from).context(NULL)?;
    Ok(true)
}

/// Each client has a descriptor, and there may be as many clients as a process has descriptors by default.
fn allow_descriptors() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Without it there may be a few clients less.
    let _ = setrlimit(Resource::Nofile, limit);
}
