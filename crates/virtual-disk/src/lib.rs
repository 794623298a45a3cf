//! A virtual disk: what a client or a guest sees of an image chain. It takes requests from sources, checks them at its
//! door, lets the chain carry them out, and answers each exactly once; it can be paused under its clients' feet while
//! the images change, and closed even while storage hangs.
//!
//! ```text
//!   RequestSource --poll_next--> door --> in flight --> image_chain::Queue
//!        ^                                   |
//!        +------- answer .. publish ---------+          Disk: open, pause, resume, close
//!                                                       Status: for other threads
//! ```
//!
//! It knows no protocol and no image format, and never learns who asks.

#![forbid(unsafe_code)]

mod counters;
mod disk;
mod door;
mod in_flight;
mod queue;
mod serve;
mod source;
mod state;
mod status;

pub use counters::{Count, Counters, RequestKind};
pub use disk::{Disk, FORCED_CLOSE_GRACE};
pub use source::{Operation, Outcome, Request, RequestSource};
pub use state::DiskState;
pub use status::{Geometry, Status};
