//! `vhd-util`: makes, shows and changes VHD images, as storage managers know it.

use std::process::ExitCode;

fn main() -> ExitCode {
    tools::vhd_util::main()
}
