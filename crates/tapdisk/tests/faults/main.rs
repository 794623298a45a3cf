//! What goes wrong under a tapdisk, and how much of it there can be: storage that fails, hangs or changes, processes that
//! are killed, a host full of disks. One file, one behaviour.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

mod crowd;
mod full_storage;
mod grown_device;
#[path = "../control/host.rs"]
mod host;
mod hung_device;
mod killed;
mod pipeline;
mod quiet;
mod served;
mod single_failures;
mod turned_back;
