//! The program: a XenStore server, a broker of granted pages, `tapback` and tapdisks as processes, and a guest.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod blocks;
mod census;
mod cycles;
mod disorder;
mod finding;
mod host;
mod hotplug;
mod life;
mod manual;
mod offers;
mod packaging;
mod random;
mod replay;
mod supervision;
