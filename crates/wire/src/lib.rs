//! Bytes to messages and back: the protocols that oxtap speaks.
//!
//! ```text
//!   bytes, cut anywhere --> feed() --> Event, Request, Message --> (whoever decides: export, tapdisk, tap-ctl)
//!   bytes to send       <-- put_..(), encode() <-- the answer  <--
//! ```
//!
//! Everything here is pure: no socket, no thread, no clock. A parser takes bytes in any portions, says how many it used,
//! and holds a bounded number of them until a message is whole; an encoder appends to a `Vec<u8>` or returns an array.
//! The other side is a stranger: counts, lengths and strings are checked here, what they *mean* is decided elsewhere, and
//! no errno or protocol error code is chosen here beyond "this cannot be parsed".

#![forbid(unsafe_code)]

mod flags;
mod scan;

pub mod blkif;
pub mod control;
pub mod nbd;
pub mod rate_limit;
pub mod xenstore;
