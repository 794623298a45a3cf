//! `cbt-util`: makes, shows and changes logs of changed blocks, as storage managers know it.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    tools::cbt_util::main()
}
