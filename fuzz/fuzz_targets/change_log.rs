//! A log of changed blocks that may be any bytes.

#![no_main]

#[path = "../../crates/image-format/tests/parts_fuzz/change_log.rs"]
mod change_log;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| change_log::read_anything(bytes));
