//! A guest that does anything with its ring, its memory and its grants, beside one that wants nothing but its disk.

#![no_main]
#![allow(clippy::unwrap_used, reason = "what cannot go on is a finding")]

#[path = "../../crates/export/tests/blkif/neighbour.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod neighbour;
#[path = "../../crates/export/tests/blkif/session.rs"]
mod session;
#[path = "../../crates/export/tests/blkif/world.rs"]
mod world;

use std::cell::RefCell;

use libfuzzer_sys::fuzz_target;

thread_local! {
    static HOST: RefCell<session::Host> = RefCell::default();
}

fuzz_target!(|bytes: &[u8]| {
    HOST.with_borrow_mut(|host| host.live(bytes));
});
