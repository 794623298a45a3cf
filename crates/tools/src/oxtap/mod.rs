//! `oxtap`: the one program for people.
//!
//! ```text
//!   arguments   what may be asked, help and completions from one source
//!   list        oxtap ls: every disk of this host, its process and state
//!   serve       oxtap serve: one image over NBD, in the foreground
//!   demo        oxtap demo: the whole system at work on a chain with a real file system, checked by others' tools
//! ```

pub mod arguments;
mod demo;
mod list;
mod serve;
mod size;
mod text;

use std::process::ExitCode;

use arguments::{Arguments, Command};

/// Does what the command line says. An error is one line on stderr.
pub fn run(arguments: Arguments) -> ExitCode {
    let result = match arguments.command {
        Command::Serve(serve) => serve::run(&serve),
        Command::Ls(list) => list::run(&list),
        Command::Demo(demo) => demo::run(&demo),
        Command::Completions(completions) => completions.print(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("oxtap: {error}");
            ExitCode::FAILURE
        }
    }
}
