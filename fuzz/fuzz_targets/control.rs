//! Streams of the control protocol, of clients and of tapdisks.

#![no_main]
#![allow(clippy::unwrap_used, reason = "what cannot go on is a finding")]

#[path = "../../crates/wire/tests/control/stream.rs"]
mod stream;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| stream::receive_anything(bytes));
