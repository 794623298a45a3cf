//! `tap-ctl`: controls tapdisk processes, as storage managers know it.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    tools::tap_ctl::main()
}
