//! Clients of the XenStore server that ask anything, in messages that are well formed.

#![no_main]
#![allow(clippy::unwrap_used, reason = "what cannot go on is a finding")]

#[path = "../../crates/xenbus/tests/fuzz/clients.rs"]
mod clients;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| clients::ask_anything(bytes));
