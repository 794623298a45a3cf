//! `tap-ctl`: controls tapdisk processes, as storage managers know it.

use std::process::ExitCode;

fn main() -> ExitCode {
    tools::tap_ctl::main()
}
