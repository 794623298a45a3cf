//! A file that may be anything, taken for a VHD.

#![no_main]
#![allow(clippy::unwrap_used, reason = "what cannot go on is a finding")]

#[path = "../../crates/image-format/tests/common/mod.rs"]
mod common;
#[path = "../../crates/image-format/tests/vhd_fuzz/image.rs"]
mod image;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| image::open_anything(bytes));
