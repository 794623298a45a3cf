//! `block-tapdisk`: the script of disks that a toolstack runs.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    tapback::hotplug_main()
}
