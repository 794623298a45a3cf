//! Slots and pages of segments of a guest, in both layouts, and the names of the layouts.

#![no_main]
#![allow(clippy::unwrap_used, reason = "what cannot go on is a finding")]

#[path = "../../crates/wire/tests/blkif/slot.rs"]
mod slot;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| slot::anything(bytes));
