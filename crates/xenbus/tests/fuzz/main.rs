//! A server of clients that say anything.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod clients;
mod connection;

#[test]
fn whatever_clients_ask_the_tree_stays_a_tree() {
    test_support::feed("xenstore-clients", 2048, (250, 30_000), clients::ask_anything);
}

#[test]
fn whatever_a_connection_brings_is_messages_or_its_end() {
    test_support::feed("xenstore-bytes", 1024, (2000, 200_000), connection::receive_anything);
}
