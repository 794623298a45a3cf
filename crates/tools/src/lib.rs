//! The command-line programs: each is a module here and a thin `src/bin/*.rs`.

#![forbid(unsafe_code)]

pub mod cbt_util;
mod getopt;
mod new_file;
pub mod oxtap;
pub mod progress;
pub mod tap_ctl;
pub mod td_rated;
pub mod td_util;
pub mod vhd_util;
