//! `oxtap`, the program for people. See [`tools::oxtap`].

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use tools::oxtap::{arguments::Arguments, run};

fn main() -> ExitCode {
    run(Arguments::parse())
}
