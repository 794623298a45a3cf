//! `td-rated`: the rate limiter that several disks share.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    tools::td_rated::main()
}
