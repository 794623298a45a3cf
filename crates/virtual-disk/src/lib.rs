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

mod budget;
mod counters;
mod disk;
mod door;
mod histogram;
mod in_flight;
mod kind;
mod limits;
mod queue;
mod report;
mod retry;
mod serve;
mod settings;
mod source;
mod state;
mod status;
mod waiting;

pub use budget::{Account, Budget, BudgetStatus};
pub use counters::{Count, LatencyClass, QueueStatus, Totals};
pub use disk::{Disk, FORCED_CLOSE_GRACE};
pub use histogram::Latencies;
pub use kind::RequestKind;
pub use limits::{Limiter, Limits, Pass, Rate, RateLimits, Turn};
pub use report::{Failure, Report, Reporter, Retrying, StuckRequest};
pub use retry::{Attempts, Verdict, is_repeatable, verdict};
pub use settings::{RetryPolicy, Settings};
pub use source::{Operation, Outcome, Request, RequestSource};
pub use state::DiskState;
pub use status::{FailureCount, Geometry, Status};
