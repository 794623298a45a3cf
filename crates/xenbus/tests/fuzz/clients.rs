//! Clients that ask what bytes say, in messages that are well formed.

use std::collections::{BTreeSet, HashMap};

use test_support::Choices;
use wire::xenstore::{Message, MessageReader, Operation, PAYLOAD_BYTES_MAX};
use xenbus::server::{ConnectionId, Faults, Quotas, Store};

const QUOTAS: Quotas = Quotas {
    nodes: 40,
    watches: 8,
    transactions: 3,
    transaction_nodes: 24,
    permissions: 5,
    value_bytes: 2048,
    waiting_bytes: 2 << 20,
};
const DOMAINS: [u16; 3] = [0, 1, 2];
/// Steps of one session, if the bytes suffice.
const STEPS_MAX: usize = 300;

/// What clients say.
struct Speech<'a>(Choices<'a>);

impl Speech<'_> {
    /// A path of few names, so that requests meet; sometimes one that is none.
    fn path(&mut self) -> Vec<u8> {
        if self.0.one_in(40) {
            return self
                .0
                .pick(&[b"".as_slice(), b"//", b"/a//b", b"/a/", b"a b", b"@x", b"@releaseDomain", b"/\xff"])
                .to_vec();
        }
        if self.0.one_in(30) {
            return [b"/local/domain/1/".as_slice(), &vec![b'l'; 1 + self.0.index(3100)]].concat();
        }
        let mut path = self.0.pick(&["/local/domain/1", "/local/domain/2", "/tool", "x", ""]).to_owned();
        for _ in 0..self.0.index(4) {
            path.push('/');
            path.push_str(self.0.pick(&["a", "b", "c", "state"]));
        }
        if path.is_empty() { b"/".to_vec() } else { path.into_bytes() }
    }

    fn bytes(&mut self, length_max: usize) -> Vec<u8> {
        let length = self.0.index(length_max);
        self.0.take(length).to_vec()
    }

    fn payload(&mut self, operation: Operation) -> Vec<u8> {
        let path = self.path();
        let with = |parts: &[&[u8]]| [&path, parts.concat().as_slice()].concat();
        match operation {
            Operation::Write => with(&[b"\0", &self.bytes(12)]),
            Operation::SetPermissions => {
                let lists = [
                    b"n1\0".as_slice(),
                    b"b2\0",
                    b"r0\0b1\0",
                    b"n1\0r2\0w0\0",
                    b"x1\0",
                    b"",
                    b"r1\0r1\0r1\0r1\0r1\0r1\0",
                ];
                with(&[b"\0", self.0.pick(&lists)])
            }
            Operation::Watch | Operation::Unwatch => {
                let token =
                    if self.0.one_in(10) { vec![b't'; self.0.index(4000)] } else { vec![b't'; 1 + self.0.index(2)] };
                with(&[b"\0", &token, b"\0"])
            }
            Operation::TransactionEnd => self.0.pick(&[b"T\0".as_slice(), b"T\0", b"F\0", b"T", b"", b"X\0"]).to_vec(),
            Operation::Introduce | Operation::Release | Operation::GetDomainPath | Operation::IsDomainIntroduced => {
                self.0.pick(&[b"1\0".as_slice(), b"2\0", b"2\x005\x006\0", b"0\0", b"65536\0", b"-1\0", b""]).to_vec()
            }
            Operation::DirectoryPart => {
                with(&[b"\0", self.0.pick(&[b"0\0".as_slice(), b"3\0", b"99999\0", b"x\0", b""])])
            }
            _ => with(&[b"\0"]),
        }
    }

    fn operation(&mut self) -> Operation {
        use Operation::*;
        let often = [Write, Write, Write, Remove, Remove, MakeDirectory, Read, Directory, SetPermissions];
        let seldom = [
            Watch,
            Unwatch,
            TransactionStart,
            TransactionStart,
            TransactionEnd,
            TransactionEnd,
            GetPermissions,
            Introduce,
            Release,
            GetDomainPath,
            IsDomainIntroduced,
            ResetWatches,
            DirectoryPart,
            Control,
            Resume,
            SetTarget,
            WatchEvent,
            Error,
            Unknown(77),
        ];
        if self.0.one_in(3) { seldom[self.0.index(seldom.len())] } else { often[self.0.index(often.len())] }
    }
}

/// A client and what it knows.
struct Client {
    id: ConnectionId,
    domain: u16,
    transactions: BTreeSet<u32>,
}

struct Session<'a> {
    store: Store,
    clients: Vec<Client>,
    speech: Speech<'a>,
    /// The first domain takes part. What it makes below others is theirs, beyond any quota.
    has_first: bool,
    /// Asked so far.
    requests: u32,
}

impl<'a> Session<'a> {
    fn new(bytes: &'a [u8]) -> Session<'a> {
        let mut store = Store::new(QUOTAS);
        let mut speech = Speech(Choices::new(bytes));
        if speech.0.one_in(2) {
            store.set_faults(Faults {
                again_every: if speech.0.one_in(2) { 3 } else { 0 },
                duplicate_events: speech.0.one_in(2),
                keep_equal_events: speech.0.one_in(2),
                events_first: speech.0.one_in(2),
                ..Faults::default()
            });
        }
        let clients = DOMAINS.into_iter().chain([1]).map(|domain| Client {
            id: store.connect(domain),
            domain,
            transactions: BTreeSet::new(),
        });
        let clients = clients.collect();
        let has_first = !speech.0.one_in(3);
        let mut session = Session { store, clients, speech, has_first, requests: 0 };
        for domain in ["1", "2"] {
            session.ask(0, Operation::Introduce, 0, format!("{domain}\0").into_bytes());
            session.ask(0, Operation::Write, 0, format!("/local/domain/{domain}\0").into_bytes());
            session.ask(0, Operation::SetPermissions, 0, format!("/local/domain/{domain}\0b{domain}\0").into_bytes());
        }
        session
    }

    /// Asks; gives the answer. Events that come with it are read, too.
    fn ask(&mut self, client: usize, operation: Operation, transaction: u32, payload: Vec<u8>) -> Message {
        let id = self.clients[client].id;
        self.requests += 1;
        let request = self.requests;
        let asked = Message { operation, request, transaction, payload };
        self.store.handle(id, &asked);
        let mut replies = Vec::new();
        while let Some(bytes) = self.store.pop(id) {
            let (taken, message) = MessageReader::new().feed(&bytes).unwrap();
            assert_eq!(taken, bytes.len(), "one message, and nothing else");
            let message = message.unwrap();
            if message.operation == Operation::WatchEvent && message.request == 0 {
                wire::xenstore::WatchEvent::decode(&message.payload).unwrap();
            } else {
                replies.push(message);
            }
        }
        assert_eq!(replies.len(), 1, "{asked:?} has one answer");
        let reply = replies.remove(0);
        assert_eq!((reply.request, reply.transaction), (request, transaction));
        assert!(reply.operation == operation || reply.operation == Operation::Error);
        reply
    }

    fn step(&mut self) {
        let client = match self.has_first {
            true => self.speech.0.index(self.clients.len()),
            false => 1 + self.speech.0.index(self.clients.len() - 1),
        };
        let operation = self.speech.operation();
        let payload = match self.speech.0.one_in(50) {
            true => self.speech.bytes(64),
            false => self.speech.payload(operation),
        };
        if payload.len() > PAYLOAD_BYTES_MAX {
            return;
        }
        let known = &self.clients[client].transactions;
        let transaction = match (operation, known.len()) {
            (Operation::TransactionStart, _) | (_, 0) => 0,
            (Operation::TransactionEnd, count) => *known.iter().nth(self.speech.0.index(count)).unwrap(),
            (_, count) if self.speech.0.one_in(2) => *known.iter().nth(self.speech.0.index(count)).unwrap(),
            _ => 0,
        };
        let reply = self.ask(client, operation, transaction, payload);
        let known = &mut self.clients[client].transactions;
        match (operation, reply.operation) {
            (Operation::TransactionStart, Operation::TransactionStart) => {
                known.insert(wire::xenstore::transaction_id(&reply.payload).unwrap());
            }
            (Operation::TransactionEnd, _) => _ = known.remove(&transaction),
            (Operation::ResetWatches, Operation::ResetWatches) => known.clear(),
            _ => {}
        }
        // Whoever only listens is not forgotten.
        for other in 0..self.clients.len() {
            while self.store.pop(self.clients[other].id).is_some() {}
        }
    }

    /// The names below a node, in as many parts as it takes.
    fn children(&mut self, path: &str) -> Vec<String> {
        let mut list = Vec::new();
        loop {
            let offset = list.len();
            let reply = self.ask(0, Operation::DirectoryPart, 0, format!("{path}\0{offset}\0").into_bytes());
            assert_eq!(reply.operation, Operation::DirectoryPart, "{path} is there: its parent has it");
            let (_, part) = wire::xenstore::path_and_rest(&reply.payload).unwrap();
            list.extend_from_slice(part);
            if part == b"\0" || list.ends_with(b"\0\0") {
                list.pop();
                break;
            }
        }
        let names = wire::xenstore::strings(&list).unwrap();
        names.map(|name| String::from_utf8(name.to_vec()).unwrap()).collect()
    }

    /// Every node hangs on the root, and nobody owns more than he may.
    fn is_a_tree(&mut self) {
        let (mut waiting, mut count, mut owned) = (vec![String::new()], 0, HashMap::<u16, usize>::new());
        while let Some(path) = waiting.pop() {
            count += 1;
            let whole = if path.is_empty() { "/" } else { path.as_str() };
            let permissions = self.ask(0, Operation::GetPermissions, 0, format!("{whole}\0").into_bytes());
            let owner = wire::xenstore::strings(&permissions.payload).unwrap().next().unwrap();
            let owner = std::str::from_utf8(&owner[1..]).unwrap().parse().unwrap();
            *owned.entry(owner).or_default() += 1;
            waiting.extend(self.children(whole).into_iter().map(|name| format!("{path}/{name}")));
        }
        assert_eq!(count, self.store.nodes(), "there are nodes that nobody can reach");
        for client in self.clients.iter().filter(|client| client.domain != 0 && !self.has_first) {
            let owned = owned.get(&client.domain).copied().unwrap_or(0);
            assert!(owned <= QUOTAS.nodes, "domain {} owns {owned} nodes", client.domain);
        }
    }
}

/// Clients ask what the bytes say: each request has one answer, the tree stays a tree, and quotas hold.
pub(crate) fn ask_anything(bytes: &[u8]) {
    let mut session = Session::new(bytes);
    for step in 0..STEPS_MAX {
        if session.speech.0.is_over() {
            break;
        }
        session.step();
        if step % 50 == 0 {
            session.is_a_tree();
        }
    }
    session.is_a_tree();
}
