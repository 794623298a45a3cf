//! Our programs on a real Xen: the stock toolstack, Linux's frontend. One machine is booted for many stories; each test
//! looks for the end of its own.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod boot;
mod dom0;
mod guide;
mod hotplug;
mod life;
mod pvh;
