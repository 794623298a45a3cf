//! An NBD server of clients that send anything.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod client;

#[test]
fn whatever_a_client_sends_is_answered_once_or_ends_the_connection() {
    let mut host = client::Host::new();
    test_support::feed("nbd", 2048, (500, 50_000), |bytes| host.serve(bytes));
}
