//! Parts of a VHD that may be any bytes: footer, header, locators, batmap with the hash of a key.

#![no_main]
#![allow(clippy::unwrap_used, reason = "what cannot go on is a finding")]

#[path = "../../crates/image-format/tests/parts_fuzz/parts.rs"]
mod parts;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| parts::read_anything(bytes));
