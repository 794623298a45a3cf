//! The server: its connections, its domains, and what is asked of it.

use std::collections::{BTreeMap, BTreeSet};

use wire::xenstore::{ErrorName, Message, Operation, PAYLOAD_BYTES_MAX, Path, put_error, put_message};

use super::{
    connection::{Connection, ConnectionId, Delivery},
    events::{Change, ChangeKind},
    tree::Tree,
};

/// What a domain other than the first may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quotas {
    /// Nodes that it owns.
    pub nodes: usize,
    /// Watches.
    pub watches: usize,
    /// Transactions at a time.
    pub transactions: usize,
    /// Nodes in a transaction.
    pub transaction_nodes: usize,
    /// Entries in the permissions of a node.
    pub permissions: usize,
    /// Bytes of a node's value.
    pub value_bytes: usize,
    /// Bytes that wait to be fetched; whoever has more is cut off.
    pub waiting_bytes: usize,
}

impl Default for Quotas {
    /// Those of Xen's server.
    fn default() -> Quotas {
        Quotas {
            nodes: 1000,
            watches: 128,
            transactions: 10,
            transaction_nodes: 1024,
            permissions: 5,
            value_bytes: 2048,
            waiting_bytes: 2 << 20,
        }
    }
}

/// How the server misbehaves, within what the protocol allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Every so many ends of transactions fail with `EAGAIN`; 0: none.
    pub again_every: u32,
    /// Events come twice.
    pub duplicate_events: bool,
    /// An event that waits already is told again.
    pub keep_equal_events: bool,
    /// Events overtake replies.
    pub events_first: bool,
    /// Events wait until they are [let go](Store::let_go_of_events).
    pub hold_events: bool,
    /// Events that were held come in the opposite order.
    pub reverse_events: bool,
    /// Lists of more than so many bytes are too long for one message; 0: as the protocol says.
    pub directory_bytes_max: usize,
}

/// A XenStore server.
#[derive(Debug)]
pub struct Store {
    pub(super) tree: Tree,
    pub(super) connections: BTreeMap<ConnectionId, Connection>,
    /// Domains that were introduced.
    pub(super) domains: BTreeSet<u16>,
    pub(super) quotas: Quotas,
    pub(super) faults: Faults,
    pub(super) ends: u32,
    next: u64,
}

impl Default for Store {
    fn default() -> Store {
        Store::new(Quotas::default())
    }
}

impl Store {
    /// A server with the root alone; only the first domain is there.
    pub fn new(quotas: Quotas) -> Store {
        Store {
            tree: Tree::new(),
            connections: BTreeMap::new(),
            domains: BTreeSet::from([0]),
            quotas,
            faults: Faults::default(),
            ends: 0,
            next: 0,
        }
    }

    /// From now on it misbehaves like this.
    pub fn set_faults(&mut self, faults: Faults) {
        self.faults = faults;
    }

    /// From now on clients may have so much; what they have more stays.
    pub fn set_quotas(&mut self, quotas: Quotas) {
        self.quotas = quotas;
    }

    /// What clients may have.
    pub fn quotas(&self) -> Quotas {
        self.quotas
    }

    /// How it misbehaves.
    pub fn faults(&self) -> Faults {
        self.faults
    }

    /// Sends the events that were held back.
    pub fn let_go_of_events(&mut self) {
        let is_reversed = self.faults.reverse_events;
        self.connections.values_mut().for_each(|connection| connection.let_go_of_events(is_reversed));
    }

    /// A client of this domain has come.
    pub fn connect(&mut self, domain: u16) -> ConnectionId {
        let id = ConnectionId(self.next);
        self.next += 1;
        self.connections.insert(id, Connection::new(domain));
        id
    }

    /// A client has gone, with its watches and transactions.
    pub fn disconnect(&mut self, id: ConnectionId) {
        self.connections.remove(&id);
    }

    /// How many nodes there are.
    pub fn nodes(&self) -> usize {
        self.tree.len()
    }

    /// The next message for a client.
    pub fn pop(&mut self, id: ConnectionId) -> Option<Vec<u8>> {
        self.connections.get_mut(&id)?.pop()
    }

    /// Whether a client does not fetch what it is sent: it is to be cut off.
    pub fn is_overdue(&self, id: ConnectionId) -> bool {
        self.connections.get(&id).is_some_and(|connection| connection.waiting_bytes() > self.quotas.waiting_bytes)
    }

    /// Carries out what a client asks; answers and events wait to be [popped](Self::pop).
    pub fn handle(&mut self, id: ConnectionId, message: &Message) {
        if !self.connections.contains_key(&id) {
            return;
        }
        let (result, changes) = self.carry_out(id, message);
        let Message { operation, request, transaction, .. } = *message;
        let mut reply = Vec::new();
        match result {
            // As Xen's server says of a value that fits into no answer.
            Ok(payload) if payload.len() > PAYLOAD_BYTES_MAX => {
                put_error(&mut reply, request, transaction, ErrorName::E2big);
            }
            Ok(payload) => put_message(&mut reply, operation, request, transaction, &[&payload]),
            Err(error) => put_error(&mut reply, request, transaction, error),
        }
        let is_new_watch = operation == Operation::Watch && !is_error(&reply);
        self.connection(id).send(reply);
        if is_new_watch {
            self.tell_new_watch(id);
        }
        self.tell(&changes);
        if self.faults.events_first {
            self.connection(id).put_events_first();
        }
    }

    pub(super) fn connection(&mut self, id: ConnectionId) -> &mut Connection {
        self.connections.get_mut(&id).expect("asked by a client that is there")
    }

    /// A watch begins with an event: whoever watches looks at once.
    fn tell_new_watch(&mut self, id: ConnectionId) {
        let how = Delivery { once: !self.faults.keep_equal_events, is_held: self.faults.hold_events };
        let connection = self.connection(id);
        let watch = connection.watches.last().cloned().expect("it was just made");
        connection.send_event(watch.told(&watch.path), &watch.token, how);
    }

    /// Tells everybody who watches and may know.
    pub(super) fn tell(&mut self, changes: &[Change]) {
        let times = if self.faults.duplicate_events { 2 } else { 1 };
        let once = !self.faults.keep_equal_events && times == 1;
        let how = Delivery { once, is_held: self.faults.hold_events };
        for change in changes {
            for connection in self.connections.values_mut() {
                if !change.is_visible_to(connection.domain) {
                    continue;
                }
                let concerned = connection.watches.iter().filter(|watch| change.concerns(&watch.path));
                for watch in concerned.cloned().collect::<Vec<_>>() {
                    for _ in 0..times {
                        connection.send_event(watch.told(&change.path), &watch.token, how);
                    }
                }
            }
        }
    }

    /// A domain has come, or has gone with all its nodes.
    pub(super) fn tell_special(&mut self, name: &str) {
        let path = Path::new(name).expect("a name that is known to be good");
        self.tell(&[Change::special(path)]);
    }

    /// A domain is there from now on.
    ///
    /// # Errors
    /// `EINVAL` for one that is there already.
    pub fn introduce(&mut self, domain: u16) -> Result<(), ErrorName> {
        if !self.domains.insert(domain) {
            return Err(ErrorName::Einval);
        }
        self.tell_special("@introduceDomain");
        Ok(())
    }

    /// A domain has died: its nodes go, and everybody is told.
    ///
    /// # Errors
    /// `ENOENT` for one that is not there.
    pub fn release(&mut self, domain: u16) -> Result<(), ErrorName> {
        if domain == 0 || !self.domains.remove(&domain) {
            return Err(ErrorName::Enoent);
        }
        let changes = self.remove_nodes_of(domain);
        self.tell(&changes);
        self.tell_special("@releaseDomain");
        Ok(())
    }

    /// Something about a domain has changed (it has shut down): whoever watches for that looks.
    pub fn domain_changed(&mut self) {
        self.tell_special("@releaseDomain");
    }
}

fn is_error(reply: &[u8]) -> bool {
    reply.first_chunk().is_some_and(|kind| u32::from_le_bytes(*kind) == Operation::Error.number())
}

impl Change {
    /// Whether a node has gone.
    pub(super) fn is_removal(&self) -> bool {
        self.kind != ChangeKind::Changed
    }
}
