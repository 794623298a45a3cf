//! The NBD server (protocol: `doc/proto.md` of the NBD project), and a small client.
//!
//! ```text
//!   listener --accept--+                        +-- input: requests, data of writes into buffers
//!                      +--> device: one client -+-- session: what was agreed on
//!   handed-over fd ----+      |                 +-- output: replies, many per system call
//!                             v
//!                     source: RequestSource --> virtual_disk::Disk::serve
//! ```
//!
//! Every connection has its own bounds of requests and memory: a client that stalls, or asks for too much, holds up
//! itself. Any export name is accepted, since a server has one disk.

#![forbid(unsafe_code)]

pub mod client;
mod codes;
mod device;
mod input;
mod output;
mod server;
mod session;
mod socket;
mod source;

use std::time::Duration;

pub use server::Server;
pub use session::Style;
pub use wire::nbd::CommandFlags;

/// The one name that LIST tells.
pub const EXPORT_NAME: &str = "tapdisk_client";

/// The longest read and the longest write, in bytes; longer ones are refused. Told to clients that ask.
pub const REQUEST_BYTES_MAX: u32 = 32 << 20;

/// The block size that clients are told to prefer. They need not: any alignment is served.
pub const PREFERRED_BLOCK_BYTES: u32 = 4096;

/// The most extents in one answer to BLOCK_STATUS; the client asks again for the rest.
pub const EXTENTS_MAX: usize = 16 << 10;

/// Bounds of one server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections served at once; more wait to be accepted.
    pub connections: usize,
    /// Requests of one connection that wait for their answer.
    pub requests: usize,
    /// Bytes of one connection's requests and replies in memory. At least [`REQUEST_BYTES_MAX`].
    pub bytes: usize,
    /// How long a client that connected may take to negotiate. (Connections that were handed over may take forever: whoever
    /// handed them over may keep them in reserve.)
    pub negotiation: Duration,
    /// How long a client that has ended its requests may take to fetch the last replies.
    pub lingering: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 128,
            requests: 128,
            bytes: 64 << 20,
            negotiation: Duration::from_secs(30),
            lingering: Duration::from_secs(30),
        }
    }
}
