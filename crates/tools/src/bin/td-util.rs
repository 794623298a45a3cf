//! `td-util`: makes, shows and marks images of any kind, as storage managers know it.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    tools::td_util::main()
}
