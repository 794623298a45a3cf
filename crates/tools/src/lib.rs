//! The command-line programs: each is a module here and a thin `src/bin/*.rs`.

#![forbid(unsafe_code)]

pub mod cbt_util;
mod new_file;
pub mod oxtap;
pub mod progress;
pub mod tap_ctl;
pub mod td_rated;
pub mod td_util;
pub mod vhd_util;

use command_line::Program;

/// What our programs with a table understand; the others say it themselves.
pub fn programs() -> Vec<Program> {
    vec![tap_ctl::program(), vhd_util::program(), td_util::program(), cbt_util::program(), td_rated::program()]
}
