//! `oxtap` as people use it: what it says, how it ends, and what it leaves.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

mod control;
mod demo;
mod doctor;
mod guest;
mod jobs;
mod limits;
mod list;
mod metrics;
mod openmetrics;
mod orphans;
mod serve;
mod served;
mod tapdisk;
mod top;
