//! `vhd-util` as storage managers call it: what it prints, byte for byte, how it ends, and what it leaves on disk.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod bad_input;
mod check;
mod coalesce;
mod command_line;
mod create;
mod devices;
mod disks;
mod encryption;
mod fill;
mod json;
mod key;
mod killed;
mod modify;
mod mounts;
mod others;
mod place;
mod query;
mod read;
mod readers;
mod repair;
mod resize;
mod scan;
mod set;
mod snapshot;
