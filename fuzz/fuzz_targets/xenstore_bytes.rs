//! A connection to the XenStore server that brings anything.

#![no_main]
#![allow(clippy::unwrap_used, reason = "what cannot go on is a finding")]

#[path = "../../crates/xenbus/tests/fuzz/connection.rs"]
mod connection;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| connection::receive_anything(bytes));
