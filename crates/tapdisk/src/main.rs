//! `tapdisk`: serves virtual disks; driven through its control socket.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    tapdisk::main()
}
