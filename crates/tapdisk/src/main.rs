//! `tapdisk`: serves virtual disks; driven through its control socket.

use std::process::ExitCode;

fn main() -> ExitCode {
    tapdisk::main()
}
