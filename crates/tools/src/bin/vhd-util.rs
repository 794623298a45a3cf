//! `vhd-util`: makes, shows and changes VHD images, as storage managers know it.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    tools::vhd_util::main()
}
