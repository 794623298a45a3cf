//! The NBD server (protocol: `doc/proto.md` of the NBD project), and a small client.
//!
//! ```text
//!                          home            :         any queue's thread, home's too
//!   listener --accept--+                   :                                +-- input: requests, data into buffers
//!                      +--> roster --descriptor--> worker --> device: one --+-- session: what was agreed on
//!   handed-over fd ----+       ^           :         |          client |    +-- output: replies, many per call
//!                              +---- began, ended ---+                 v
//!                                          :         source: RequestSource --> virtual_disk::DiskQueue::serve
//! ```
//!
//! A connection belongs to the queue that has the fewest, from its first byte to its last; queues beyond home's are
//! started when there are connections for them, and end when they have been without for a while.
//!
//! Every connection has bounds of its own for requests and memory, and all together share a budget: a client that
//! stalls, or asks for too much, holds up itself. Any export name is accepted, since a server has one disk.

#![forbid(unsafe_code)]

mod budget;
pub mod client;
mod codes;
mod device;
mod input;
mod output;
mod roster;
mod server;
mod session;
mod socket;
mod source;
mod worker;

use std::time::Duration;

pub use server::Server;
pub use session::Style;
pub use wire::nbd::CommandFlags;
pub use worker::{Work, Worker};

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
    /// Queues that they are spread over, home's included, if there is somebody to start them.
    pub queues: usize,
    /// How long a queue may be without connections before its thread ends. (Home's stays.)
    pub idle_queue: Duration,
    /// Requests of one connection that wait for their answer.
    pub requests: usize,
    /// Bytes of one connection's requests and replies in memory, unless it is a single request.
    pub bytes: usize,
    /// Of these, so many are the connection's own; the others it takes from what all share.
    pub own_bytes: usize,
    /// What all connections of the server share. At least [`REQUEST_BYTES_MAX`] is.
    pub shared_bytes: usize,
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
            queues: 1,
            idle_queue: Duration::from_secs(10),
            requests: 128,
            bytes: 64 << 20,
            own_bytes: 1 << 20,
            shared_bytes: 256 << 20,
            negotiation: Duration::from_secs(30),
            lingering: Duration::from_secs(30),
        }
    }
}
