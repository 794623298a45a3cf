//! Several images, one disk: read through the parents, write to the leaf, discard, zero, tell extents. Formats answer
//! where bytes are; this crate alone moves them.
//!
//! ```text
//!   queue A --+ read the owner map, do I/O in place, on their own executors
//!   queue B --+
//!      |  ^
//!      |  '--- claims and fences ----------+
//!      v                                   |
//!   home: one job per message: walk | write + commit | clear | flush | reclaim
//!      |
//!      +-- owner map: who owns each granule (a cache, written by home alone)
//!      +-- layers:    leaf --> parent --> base, each a Format over a Storage
//! ```
//!
//! Three rules keep many queues safe without a lock. What changes tables is a job at home. What is more than one I/O in
//! place holds a *claim* on its range: overlapping writes wait. Room that was freed is used again only behind a *fence*:
//! every request that could know the old place has ended.
//!
//! This crate knows no requests, tags or clients (that is the disk above it) and no bytes on disk (the formats below).

#![forbid(unsafe_code)]

mod chain;
mod claiming;
mod claims;
mod coalesce;
mod fences;
mod home;
mod jobs;
mod messages;
mod name;
mod open;
mod owners;
mod piece;
mod queue;
mod registry;
mod resting;
mod sealing;
mod shared;
mod statistics;
mod transfer;
mod walk;

pub use coalesce::Coalesce;
pub use home::{Home, HomeOptions, Layer, OWNER_BYTES_DEFAULT};
pub use image_format::{ImageKind, vhd::DiskKey};
pub use name::ImageName;
pub use open::{ChainSpec, DEPTH_DEFAULT, FoundChain, Writing};
pub use queue::{Queue, QueueSeed};
pub use resting::Resting;
pub use statistics::{ChainStatistics, LayerStatus};
