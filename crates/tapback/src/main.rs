//! `tapback`: the backend of guests' disks; driven by XenStore.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    tapback::main()
}
