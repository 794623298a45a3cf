//! Files that may be anything, taken for VHDs.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../common/mod.rs"]
mod common;
mod image;

#[test]
fn whatever_is_in_a_file_is_refused_or_a_disk() {
    test_support::feed("vhd", 8192, (600, 60_000), image::open_anything);
}
