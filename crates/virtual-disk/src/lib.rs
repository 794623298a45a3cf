//! A virtual disk: what a client or a guest sees of an image chain. It takes requests from sources, checks them at its
//! door, lets the chain carry them out, and answers each exactly once; it can be paused under its clients' feet while
//! the images change, and closed even while storage hangs.
//!
//! ```text
//!   RequestSource --poll_next--> door --> in flight --> image_chain::Queue      DiskQueue: one for each thread
//!        ^                                   |
//!        +------- answer .. publish ---------+           Disk: open, pause, quiesce, resume, grow, close, at home
//!                                                        Status: for other threads
//! ```
//!
//! It knows no protocol and no image format, and never learns who asks.

#![forbid(unsafe_code)]

mod budget;
mod counters;
mod disk;
mod door;
mod held;
mod histogram;
mod images;
mod in_flight;
mod jobs;
mod kind;
mod limits;
mod members;
mod outbox;
mod queue;
mod report;
mod request;
mod retry;
mod serve;
mod settings;
mod source;
mod state;
mod status;
mod waiting;
mod watchdog;
mod writing;

pub use budget::{Account, Budget, BudgetStatus};
pub use counters::{Count, LatencyClass, QueueStatus, Totals};
pub use disk::{Disk, FORCED_CLOSE_GRACE, Quiet};
pub use histogram::Latencies;
pub use in_flight::RunningRequest;
pub use kind::RequestKind;
pub use limits::{Limiter, Limits, Pass, Rate, RateLimits, Turn};
pub use queue::{DiskQueue, QueueSeed};
pub use report::{Failure, Report, Reporter, Retrying, StuckRequest};
pub use retry::{Attempts, Verdict, is_repeatable, verdict};
pub use settings::{RetryPolicy, Settings};
pub use source::{Operation, Outcome, Request, RequestSource};
pub use state::DiskState;
pub use status::{FailureCount, Geometry, Status};
pub use writing::{WriteAccess, Writer};
