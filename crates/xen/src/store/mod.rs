//! A client of XenStore, on our executor.
//!
//! ```text
//!   read, write, watch ...  -->  Driver: one task, one connection  <-->  xenstored's socket, or /dev/xen/xenbus
//!        ^                          |
//!        +---- replies by id -------+---- events by token ----> Watch
//! ```
//!
//! What was lost with a connection is found again: watches are registered anew (each then has an event, so whoever
//! watches looks), questions and writes that have no answer are asked again, and a transaction begins anew. A watch is a
//! hint that something is different; who is told looks at what is there.

mod client;
mod driver;
mod transaction;
mod watch;

pub use client::{Address, Store};
pub use transaction::Transaction;
pub use watch::Watch;
