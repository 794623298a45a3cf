//! A client of the server: its domain, its watches and transactions, and what it has not fetched yet.

use std::collections::{HashMap, VecDeque};

use wire::xenstore::{Operation, PAYLOAD_BYTES_MAX, put_message};

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

/// How an event is delivered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Delivery {
    /// Not again while the same one waits.
    pub(crate) once: bool,
    /// Not before events are let go.
    pub(crate) is_held: bool,
}

#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) domain: u16,
    pub(crate) watches: Vec<Watch>,
    pub(crate) transactions: HashMap<u32, Transaction>,
    pub(crate) next_transaction: u32,
    waiting: VecDeque<Waiting>,
    /// Events that are held back.
    held: Vec<Vec<u8>>,
}

impl Connection {
    pub(crate) fn new(domain: u16) -> Connection {
        Connection {
            domain,
            watches: Vec::new(),
            transactions: HashMap::new(),
            next_transaction: 1,
            waiting: VecDeque::new(),
            held: Vec::new(),
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

    /// Tells of an event, unless the same one waits already and that is enough, or it fits into no message: whoever has
    /// chosen so long a token must do without.
    pub(crate) fn send_event(&mut self, path: &str, token: &[u8], how: Delivery) {
        if path.len() + token.len() + 2 > PAYLOAD_BYTES_MAX {
            return;
        }
        let mut bytes = Vec::new();
        put_message(&mut bytes, Operation::WatchEvent, 0, 0, &[path.as_bytes(), b"\0", token, b"\0"]);
        let is_waiting = || self.waiting.iter().any(|waiting| waiting.is_event && waiting.bytes == bytes);
        if how.once && (self.held.contains(&bytes) || is_waiting()) {
            return;
        }
        match how.is_held {
            true => self.held.push(bytes),
            false => self.waiting.push_back(Waiting { bytes, is_event: true }),
        }
    }

    /// Sends what was held back, in order or not.
    pub(crate) fn let_go_of_events(&mut self, is_reversed: bool) {
        let mut held = std::mem::take(&mut self.held);
        if is_reversed {
            held.reverse();
        }
        self.waiting.extend(held.into_iter().map(|bytes| Waiting { bytes, is_event: true }));
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
        let waiting = self.waiting.iter().map(|waiting| waiting.bytes.len());
        waiting.chain(self.held.iter().map(Vec::len)).sum()
    }
}
