//! A guest that goes from host to host, with two backends and one image: no write of the host that it leaves lands after
//! the first of the one that it comes to, whatever storage, toolstack and guest do meanwhile.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod stories;
#[path = "../../../virtual-disk/tests/support/mod.rs"]
mod support;
mod tapdisk;
mod world;
