//! Lines of the native control protocol, of clients and of tapdisks.

#![no_main]
#![allow(clippy::unwrap_used, reason = "what cannot go on is a finding")]

#[path = "../../crates/control-api/tests/native/speech.rs"]
mod speech;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| speech::hear_anything(bytes));
