//! The native protocol against strangers.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod speech;

#[test]
fn whatever_is_said_is_understood_or_refused() {
    test_support::feed("native", 2048, (3000, 300_000), speech::hear_anything);
}
