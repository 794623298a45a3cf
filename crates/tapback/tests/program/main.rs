//! The program: a XenStore server, a broker of granted pages, `tapback` and tapdisks as processes, and a guest.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod blocks;
mod finding;
mod host;
mod hotplug;
mod life;
mod manual;
mod packaging;
mod replay;
mod supervision;
