//! A client of the NBD server that sends anything.

#![no_main]
#![allow(clippy::unwrap_used, reason = "what cannot go on is a finding")]

#[path = "../../crates/export/tests/nbd_fuzz/client.rs"]
mod client;

use std::cell::RefCell;

use libfuzzer_sys::fuzz_target;

thread_local! {
    static HOST: RefCell<client::Host> = RefCell::new(client::Host::new());
}

fuzz_target!(|bytes: &[u8]| {
    HOST.with_borrow_mut(|host| host.serve(bytes));
});
