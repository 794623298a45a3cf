//! The native control protocol: JSON, one message a line, over the socket `oxtap<pid>` of a tapdisk.
//!
//! ```text
//!   tapdisk: {"oxtap":{"version":1,"program":"tapdisk 0.1.0","pid":4711}}
//!   client:  {"id":1,"command":{"pause":{"minor":4,"deadline_ms":5000}}}
//!   tapdisk: {"id":1,"progress":{"job":9,"minor":4,"command":"pause","step":"waiting for requests to end",...}}
//!   tapdisk: {"id":1,"result":{"pause":{"requests":3,"drained_us":1870,"flushed_us":412}}}
//!        or: {"id":1,"error":{"errno":110,"reason":"1 request in flight: write 0x1000+0x1000"}}
//! ```
//!
//! It is spoken beside the protocol of `tap-ctl`, for what that has no message for. Several requests may be under way on
//! one connection; their answers come in the order in which they are ready. What takes time is a *job* with a number:
//! it goes on when the client goes away, and any client may watch or cancel it.
//!
//! A tapdisk refuses commands and fields that it does not know, since to ignore them would be to do something else than
//! was asked. A client ignores fields of answers that it does not know. Whoever changes a message adds a [`Version`].

mod client;
mod command;
mod lines;
mod message;
mod result;
mod ring;
mod status;
#[cfg(test)]
mod tests;
mod version;

pub use client::Client;
pub use command::{Command, Faults, Grow, Limit, Limits, OpenImages, Rate};
pub use lines::{LineReader, LineTooLong};
pub use message::{Answer, AnswerBody, Failure, Greeting, Hello, Progress, Request};
pub use result::{
    Cancelled, Disks, Done, Dump, JobList, JobStatus, LimitsInForce, LoopDump, LoopTurn, Opened, OutcomeOfJob, Quiet,
    Resized, ResultOf, RunningOperation, Statistics,
};
pub use ring::{
    ConnectRing, Handover, RingAbi, RingConnected, RingCounters, RingDisconnected, RingEvent, RingFailed, RingOffer,
    RingOperation, RingPages, RingQueue, RingQueueStatistics, RingSettled, RingStatistics,
};
pub use status::{
    Bucket, DiskStatistics, DiskSummary, ErrorCount, FailureCause, Geometry, Histogram, InFlightRequest, JobState,
    Latency, Layer, LogStatistics, ProcessStatistics, QueueStatistics, RequestCount, RequestPhase, State, Throttled,
    WriteAccess,
};
pub use version::Version;

/// The longest line that a tapdisk takes, without its end.
pub const REQUEST_BYTES_MAX: usize = 64 << 10;
/// The longest line that a client takes: statistics of very many disks are below.
pub const ANSWER_BYTES_MAX: usize = 64 << 20;
