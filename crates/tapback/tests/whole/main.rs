//! All of it at once: a XenStore server, a broker of granted pages, a tapdisk, the backend's hands, a guest.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod features;
mod host;
mod killed;
mod migration;
mod owners;
mod pause;
mod release;
mod stories;
mod supervision;
mod teardown;
