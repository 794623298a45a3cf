//! What a disk tells by itself, at once and without being asked: requests that failed for good, and those that take
//! very long.

use std::{sync::Arc, time::Duration};

use block_core::{Error, GuestRange};

use crate::RequestKind;

/// Takes reports. It is called on the data path, by every queue's thread: it never waits.
pub trait Reporter: Send + Sync {
    /// Takes one report.
    fn report(&self, report: Report);
}

/// Nobody listens.
impl Reporter for () {
    fn report(&self, _report: Report) {}
}

/// What is told.
#[derive(Clone, Debug)]
pub enum Report {
    /// A request failed for good.
    Failed(Failure),
    /// A request failed for the first time, and will be attempted again.
    Retrying(Retrying),
    /// A request has not ended for a long time, whether it hangs or fails again and again; told once for all its
    /// attempts. Nothing is done about it.
    Stuck(StuckRequest),
    /// A request that was told as stuck has ended after all: it was answered, or nobody waits for it any more.
    Ended(StuckRequest),
}

/// A request that failed for good.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The number of the queue that it came by.
    pub queue: u16,
    /// What it asked.
    pub kind: RequestKind,
    /// Which bytes; a flush is about none.
    pub range: Option<GuestRange>,
    /// What went wrong. Without an origin it never reached storage.
    pub error: Error,
    /// How often it was attempted; 0 if it was refused at the door.
    pub attempts: u32,
    /// From when it came until it failed.
    pub lasted: Duration,
    /// How often the queue was told of requests, until now.
    pub kicks_in: u64,
    /// How often the queue told of answers, until now.
    pub kicks_out: u64,
    /// How many requests the queue took, until now.
    pub requests: u64,
}

/// A request that will be attempted again.
#[derive(Clone, Debug)]
pub struct Retrying {
    /// The number of the queue that it came by.
    pub queue: u16,
    /// What it asked.
    pub kind: RequestKind,
    /// Which bytes.
    pub range: Option<GuestRange>,
    /// What went wrong in its first attempt.
    pub error: Error,
}

/// A request that has not ended for a long time, and its story.
#[derive(Clone, Debug)]
pub struct StuckRequest {
    /// The number of the queue that it came by.
    pub queue: u16,
    /// What it asked.
    pub kind: RequestKind,
    /// Which bytes; a flush is about none.
    pub range: Option<GuestRange>,
    /// Since its first attempt began; before that, limits may have held it.
    pub lasted: Duration,
    /// The images of the disk, leaf first.
    pub images: Arc<[String]>,
    /// What the queue's executor and the disk's home have under way, oldest first: a few of each, and the number of the
    /// rest.
    pub operations: Arc<[String]>,
}
