//! The journal of a resize that may be any bytes, undone on an image.

#![no_main]
#![allow(clippy::unwrap_used, reason = "what cannot go on is a finding")]

#[path = "../../crates/image-format/tests/common/mod.rs"]
mod common;
#[path = "../../crates/image-format/tests/parts_fuzz/journal.rs"]
mod journal;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| journal::undo_anything(bytes));
