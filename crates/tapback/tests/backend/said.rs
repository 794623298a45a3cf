//! What bytes have a frontend say of its rings, and what may come of it.

use std::{
    collections::{BTreeSet, HashMap},
    rc::Rc,
};

use control_api::native::ConnectRing;
use storage_io::{EngineChoice, Executor};
use tapback::{DeviceName, Offer, read_rings};
use test_support::Choices;
use wire::xenstore::{Message, Operation, Path};
use xen::{
    DomainId,
    store::{Address, Store},
};
use xenbus::server::{Quotas, Sockets, Store as Server};

const QUEUES: usize = 5;
const FRONTEND: &str = "/local/domain/7/device/vbd/51712";

/// A number that is a small one more often than not.
fn value(choices: &mut Choices<'_>) -> Vec<u8> {
    const ODD: [&[u8]; 12] = [
        b"",
        b"0",
        b"31",
        b"-1",
        b"+1",
        b" 1",
        b"0x1",
        b"4294967295",
        b"4294967296",
        b"99999999999999999999",
        b"\xff\xfe",
        &[b'1'; 3000],
    ];
    if choices.one_in(60) {
        let length = choices.index(12);
        return choices.take(length).to_vec();
    }
    match choices.one_in(30) {
        true => ODD[choices.index(ODD.len())].to_vec(),
        false => (1 + choices.index(400)).to_string().into_bytes(),
    }
}

/// The nodes of one frontend, some of them left behind by others.
pub(crate) fn nodes(choices: &mut Choices<'_>) -> Vec<(String, Vec<u8>)> {
    let mut nodes = Vec::new();
    let order = choices.index(4);
    let counts: [(&str, Vec<u8>); 3] = [
        ("ring-page-order", order.to_string().into_bytes()),
        ("num-ring-pages", (1_u32 << order).to_string().into_bytes()),
        ("multi-queue-num-queues", choices.index(QUEUES + 1).to_string().into_bytes()),
    ];
    for (name, usual) in counts {
        if choices.one_in(2) {
            let value = if choices.one_in(12) { value(choices) } else { usual };
            nodes.push((name.to_owned(), value));
        }
    }
    if choices.one_in(2) {
        let known: [&[u8]; 5] = [b"x86_64-abi", b"x86_32-abi", b"arm-abi", b"x86_64-ab", b"\xff"];
        let index = if choices.one_in(8) { 3 + choices.index(2) } else { choices.index(3) };
        nodes.push(("protocol".to_owned(), known[index].to_vec()));
    }
    let queues = (0..QUEUES).map(|queue| format!("queue-{queue}/"));
    for directory in std::iter::once(String::new()).chain(queues) {
        for name in ["event-channel", "ring-ref"] {
            if !choices.one_in(10) {
                nodes.push((format!("{directory}{name}"), value(choices)));
            }
        }
        for index in 0..1 << order {
            if !choices.one_in(40) {
                nodes.push((format!("{directory}ring-ref{index}"), value(choices)));
            }
        }
    }
    nodes
}

/// Whether a tapdisk may be asked for this.
pub(crate) fn makes_sense(ring: &ConnectRing) -> bool {
    let pages: Vec<u32> = ring.queues.iter().flat_map(|queue| queue.pages.iter().copied()).collect();
    let ports: BTreeSet<u32> = ring.queues.iter().map(|queue| queue.port).collect();
    let is_length = |count: usize| count.is_power_of_two() && count <= 16;
    (1..=4).contains(&ring.queues.len())
        && ring.queues.iter().all(|queue| is_length(queue.pages.len()))
        && pages.iter().collect::<BTreeSet<_>>().len() == pages.len()
        && ports.len() == ring.queues.len()
}

/// A backend that reads what frontends say, and does nothing else.
pub(crate) struct Reader {
    executor: Executor,
    sockets: Rc<Sockets>,
    store: Store,
    name: DeviceName,
    frontend: Path,
    _directory: tempfile::TempDir,
}

impl Reader {
    pub(crate) fn new() -> Reader {
        let directory = tempfile::tempdir().unwrap();
        let executor = Executor::new(EngineChoice::Inline).unwrap();
        let sockets = Rc::new(Sockets::new(&executor, Server::new(Quotas::default())));
        sockets.listen(&directory.path().join("socket"), 0).unwrap();
        let store = Store::connect(&executor, Address::Socket(directory.path().join("socket"))).unwrap();
        let name = DeviceName::new(&"vbd3".into(), DomainId(7), 51712);
        Reader { executor, sockets, store, name, frontend: FRONTEND.parse().unwrap(), _directory: directory }
    }

    /// A frontend comes, says what the bytes say, is understood or refused with words, and goes.
    pub(crate) fn read_anything(&self, bytes: &[u8]) {
        let nodes = nodes(&mut Choices::new(bytes));
        self.put(&nodes);
        let offer = Offer::default();
        let read = read_rings(&self.store, &self.name, &self.frontend, &offer);
        match self.executor.block_on(read) {
            Ok(ring) => {
                assert!(makes_sense(&ring), "{ring:?}");
                are_what_was_said(&ring, &nodes);
            }
            Err(error) => {
                assert!(error.os_error().is_some(), "{error:?} has no number");
                assert!((10..400).contains(&error.to_string().len()), "{error}");
            }
        }
    }

    /// These nodes and no others, directly in the server.
    fn put(&self, nodes: &[(String, Vec<u8>)]) {
        self.sockets.with_store(|server| {
            let client = server.connect(0);
            let mut ask = |operation, payload: Vec<u8>| {
                server.handle(client, &Message { operation, request: 1, transaction: 0, payload });
                server.pop(client)
            };
            ask(Operation::Remove, format!("{FRONTEND}\0").into_bytes());
            for (name, value) in nodes {
                ask(Operation::Write, [format!("{FRONTEND}/{name}\0").as_bytes(), value].concat());
            }
            server.disconnect(client);
        });
    }
}

/// Every number that is asked for was said, in the place where it belongs.
fn are_what_was_said(ring: &ConnectRing, nodes: &[(String, Vec<u8>)]) {
    let said: HashMap<&str, &[u8]> = nodes.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect();
    let is = |name: String, number: u32| said.get(name.as_str()).is_some_and(|said| is_number(said, number));
    for (index, queue) in ring.queues.iter().enumerate() {
        let directory = if ring.queues.len() == 1 { String::new() } else { format!("queue-{index}/") };
        assert!(is(format!("{directory}event-channel"), queue.port), "{queue:?}");
        for (page, reference) in queue.pages.iter().enumerate() {
            let is_only = queue.pages.len() == 1 && is(format!("{directory}ring-ref"), *reference);
            assert!(is_only || is(format!("{directory}ring-ref{page}"), *reference), "{queue:?}");
        }
    }
}

/// A number may be written with zeroes in front of it.
fn is_number(said: &[u8], number: u32) -> bool {
    let digits = number.to_string();
    said.ends_with(digits.as_bytes()) && said[..said.len() - digits.len()].iter().all(|byte| *byte == b'0')
}
