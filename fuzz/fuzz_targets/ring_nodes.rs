//! A frontend that says anything of its rings.

#![no_main]
#![allow(clippy::unwrap_used, reason = "what cannot go on is a finding")]

#[path = "../../crates/tapback/tests/backend/said.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod said;

use std::cell::RefCell;

use libfuzzer_sys::fuzz_target;

thread_local! {
    static READER: RefCell<said::Reader> = RefCell::new(said::Reader::new());
}

fuzz_target!(|bytes: &[u8]| {
    READER.with_borrow_mut(|reader| reader.read_anything(bytes));
});
