//! A file that may be anything, checked.

#![no_main]
#![allow(clippy::unwrap_used, reason = "what cannot go on is a finding")]

#[path = "../../crates/image-format/tests/common/mod.rs"]
mod common;
#[path = "../../crates/image-format/tests/parts_fuzz/verdict.rs"]
mod verdict;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| verdict::check_anything(bytes));
