//! A client of the server: its domain, its watches and transactions, and what it has not fetched yet.

use std::collections::{HashMap, VecDeque};

use wire::xenstore::{Operation, put_message};

use super::{events::Watch, transaction::Transaction};

/// Names a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub(crate) u64);

/// A message that waits to be sent.
#[derive(Debug)]
struct Waiting {
    bytes: Vec<u8>,
    is_event: bool,
}

#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) domain: u16,
    pub(crate) watches: Vec<Watch>,
    pub(crate) transactions: HashMap<u32, Transaction>,
    pub(crate) next_transaction: u32,
    waiting: VecDeque<Waiting>,
}

impl Connection {
    pub(crate) fn new(domain: u16) -> Connection {
        Connection {
            domain,
            watches: Vec::new(),
            transactions: HashMap::new(),
            next_transaction: 1,
            waiting: VecDeque::new(),
        }
    }

    /// A number that no open transaction has; never 0.
    pub(crate) fn new_transaction(&mut self) -> u32 {
        while self.next_transaction == 0 || self.transactions.contains_key(&self.next_transaction) {
            self.next_transaction = self.next_transaction.wrapping_add(1);
        }
        let number = self.next_transaction;
        self.transactions.insert(number, Transaction::default());
        self.next_transaction = number.wrapping_add(1);
        number
    }

    pub(crate) fn send(&mut self, bytes: Vec<u8>) {
        self.waiting.push_back(Waiting { bytes, is_event: false });
    }

    /// Tells of an event, unless the same one waits already and that is enough.
    pub(crate) fn send_event(&mut self, path: &str, token: &[u8], once: bool) {
        let mut bytes = Vec::new();
        put_message(&mut bytes, Operation::WatchEvent, 0, 0, &[path.as_bytes(), b"\0", token, b"\0"]);
        let is_there = || self.waiting.iter().any(|waiting| waiting.is_event && waiting.bytes == bytes);
        if once && is_there() {
            return;
        }
        self.waiting.push_back(Waiting { bytes, is_event: true });
    }

    /// The next message to send.
    pub(crate) fn pop(&mut self) -> Option<Vec<u8>> {
        self.waiting.pop_front().map(|waiting| waiting.bytes)
    }

    /// Puts the events that wait in front of the replies that wait, as some transports deliver them.
    pub(crate) fn put_events_first(&mut self) {
        self.waiting.make_contiguous().sort_by_key(|waiting| !waiting.is_event);
    }

    /// Bytes that wait.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.waiting.iter().map(|waiting| waiting.bytes.len()).sum()
    }
}
