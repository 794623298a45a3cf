//! Parts of images and logs that may be any bytes: each is refused, or what it says holds.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod change_log;
#[path = "../common/mod.rs"]
mod common;
mod journal;
mod parts;
mod verdict;

#[test]
fn whatever_stands_for_a_part_of_an_image_is_refused_or_holds() {
    test_support::feed("vhd-parts", 4096, (4000, 1_000_000), parts::read_anything);
}

#[test]
fn whatever_is_in_a_file_has_a_verdict() {
    test_support::feed("vhd-check", 8192, (600, 60_000), verdict::check_anything);
}

#[test]
fn whatever_stands_for_a_journal_is_refused_or_undone() {
    test_support::feed("journal", 8192, (1500, 200_000), journal::undo_anything);
}

#[test]
fn whatever_stands_for_a_log_of_changes_is_read() {
    test_support::feed("change-log", 256, (4000, 1_000_000), change_log::read_anything);
}
