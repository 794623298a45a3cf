//! Bytes of a guest's connection, cut anywhere: messages come out, each of which has one answer, or the connection ends.

use wire::xenstore::{Header, Message, MessageReader, Operation, PAYLOAD_BYTES_MAX, TooLong, WatchEvent};
use xenbus::server::{ConnectionId, Quotas, Store};

/// The guest's own directory is the toolstack's and counts, too.
const NODES_MAX: usize = 20;

/// The first byte says in what portions the others come.
pub(crate) fn receive_anything(bytes: &[u8]) {
    let Some((&portion, bytes)) = bytes.split_first() else { return };
    let found = messages(bytes, usize::from(portion) + 1);
    assert_eq!(found, messages(bytes, bytes.len().max(1)), "wherever they are cut");
    let mut store = Store::new(Quotas { nodes: NODES_MAX, ..Quotas::default() });
    let first = store.connect(0);
    for payload in [b"/local/domain/1\0".as_slice(), b"/local/domain/1\0n1\0"] {
        let operation = if payload.ends_with(b"n1\0") { Operation::SetPermissions } else { Operation::Write };
        store.handle(first, &Message { operation, request: 1, transaction: 0, payload: payload.to_vec() });
    }
    let before = store.nodes();
    let client = store.connect(1);
    for message in found.0 {
        store.handle(client, &message);
        has_one_answer(&mut store, client, &message);
    }
    assert!(store.nodes() <= before + NODES_MAX, "{} nodes", store.nodes());
    store.disconnect(client);
}

/// The messages in a string of bytes, and how it ended if it made no sense.
fn messages(bytes: &[u8], portion: usize) -> (Vec<Message>, Option<TooLong>) {
    let (mut reader, mut found) = (MessageReader::new(), Vec::new());
    for mut portion in bytes.chunks(portion) {
        while !portion.is_empty() {
            let (taken, message) = match reader.feed(portion) {
                Ok(fed) => fed,
                Err(too_long) => return (found, Some(too_long)),
            };
            assert!(taken > 0, "it goes on");
            portion = &portion[taken..];
            if let Some(message) = message {
                assert!(message.payload.len() <= PAYLOAD_BYTES_MAX);
                let header = Header { operation: message.operation, request: 0, transaction: 0, length: 0 };
                assert_eq!(Header::decode(&header.encode()).operation, message.operation);
                found.push(message);
            }
        }
    }
    (found, None)
}

fn has_one_answer(store: &mut Store, client: ConnectionId, asked: &Message) {
    let mut answers = 0;
    while let Some(bytes) = store.pop(client) {
        let (taken, message) = MessageReader::new().feed(&bytes).unwrap();
        assert_eq!(taken, bytes.len(), "one message, and nothing else");
        let message = message.unwrap();
        if message.operation == Operation::WatchEvent && (message.request, message.transaction) == (0, 0) {
            WatchEvent::decode(&message.payload).unwrap();
            continue;
        }
        assert_eq!((message.request, message.transaction), (asked.request, asked.transaction));
        assert!(message.operation == asked.operation || message.operation == Operation::Error);
        answers += 1;
    }
    // An event and the answer to somebody who asks for one, as the number 0, look the same.
    let is_like_an_event = asked.operation == Operation::WatchEvent && (asked.request, asked.transaction) == (0, 0);
    assert!(answers == 1 || is_like_an_event, "{asked:?} has {answers} answers");
}
