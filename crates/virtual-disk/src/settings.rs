//! How a disk treats errors and delays; given when it is opened.

use std::time::Duration;

/// How long an attempt at a request is repeated, and after what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The time from a request's first failure until it is given up.
    pub deadline: Duration,
    /// Whether EIO and its like may pass on local storage too: with several paths to a device, another may take over.
    pub retry_eio: bool,
}

impl Default for RetryPolicy {
    /// Two minutes, as storage managers have come to expect.
    fn default() -> Self {
        RetryPolicy { deadline: Duration::from_secs(120), retry_eio: false }
    }
}

/// What a disk is opened with, beside its images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What happens to requests that fail.
    pub retry: RetryPolicy,
    /// After how long a request that has not ended is reported; zero: never.
    pub stuck_after: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { retry: RetryPolicy::default(), stuck_after: Duration::from_secs(10) }
    }
}
