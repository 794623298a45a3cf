//! The server's sockets at their worst.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use storage_io::{EngineChoice, Executor, mailbox};
use wire::xenstore::{Header, Message, MessageReader, Operation, put_message};
use xenbus::server::{SocketFaults, Sockets, Store};

/// A client that waits for its replies.
struct Client {
    stream: UnixStream,
    reader: MessageReader,
    received: Vec<u8>,
}

impl Client {
    fn connect(path: &Path) -> Client {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        Client { stream, reader: MessageReader::new(), received: Vec::new() }
    }

    fn send(&mut self, operation: Operation, payload: &[u8]) {
        let mut bytes = Vec::new();
        put_message(&mut bytes, operation, 1, 0, &[payload]);
        self.stream.write_all(&bytes).unwrap();
    }

    /// The next message; none at the end of the connection.
    fn next(&mut self) -> Option<Message> {
        loop {
            let (taken, message) = self.reader.feed(&self.received).unwrap();
            self.received.drain(..taken);
            if message.is_some() {
                return message;
            }
            let mut bytes = [0; 100];
            match self.stream.read(&mut bytes) {
                Ok(0) | Err(_) => return None,
                Ok(count) => self.received.extend_from_slice(&bytes[..count]),
            }
        }
    }

    fn ask(&mut self, operation: Operation, payload: &[u8]) -> Option<Vec<u8>> {
        self.send(operation, payload);
        self.next().map(|message| message.payload)
    }
}

/// Runs a client against a server that misbehaves like this.
fn against(faults: SocketFaults, client: impl FnOnce(PathBuf) + Send + 'static) {
    let directory = tempfile::tempdir().unwrap();
    let executor = Executor::new(EngineChoice::Inline).unwrap();
    let sockets = Sockets::new(&executor, Store::default());
    let path = directory.path().join("socket");
    sockets.listen(&path, 0).unwrap();
    sockets.set_faults(faults);
    let (done, mut is_done) = mailbox();
    let thread = thread::spawn(move || {
        client(path);
        let _ = done.send(());
    });
    executor.block_on(is_done.recv());
    thread.join().unwrap();
    executor.block_on(async {
        while sockets.connections() > 0 {
            executor.yield_now().await;
        }
    });
}

#[test]
fn byte_by_byte() {
    against(SocketFaults { portion_bytes: 1, ..SocketFaults::default() }, |path| {
        let mut client = Client::connect(&path);
        assert_eq!(client.ask(Operation::Write, b"/a\0value").as_deref(), Some(b"OK\0".as_slice()));
        assert_eq!(client.ask(Operation::Read, b"/a\0").as_deref(), Some(b"value".as_slice()));
    });
}

#[test]
fn a_connection_that_ends_takes_nobody_with_it() {
    against(SocketFaults { requests_max: 2, ..SocketFaults::default() }, |path| {
        let (mut first, mut second) = (Client::connect(&path), Client::connect(&path));
        assert!(first.ask(Operation::Write, b"/a\0value").is_some());
        first.send(Operation::Read, b"/a\0");
        while first.next().is_some() {}
        assert_eq!(second.ask(Operation::Read, b"/a\0").as_deref(), Some(b"value".as_slice()));
    });
}

#[test]
fn a_message_that_is_too_long_ends_the_connection() {
    against(SocketFaults::default(), |path| {
        let mut client = Client::connect(&path);
        let header = Header { operation: Operation::Write, request: 1, transaction: 0, length: 4097 };
        client.stream.write_all(&header.encode()).unwrap();
        assert!(client.next().is_none());
    });
}

#[test]
fn those_who_watch_are_told_while_they_ask_nothing() {
    against(SocketFaults::default(), |path| {
        let (mut watcher, mut writer) = (Client::connect(&path), Client::connect(&path));
        watcher.send(Operation::Watch, b"/a\0t\0");
        let kinds = [watcher.next().unwrap(), watcher.next().unwrap()].map(|message| message.operation);
        assert_eq!(kinds, [Operation::Watch, Operation::WatchEvent]);
        for round in 0..100 {
            writer.ask(Operation::Write, format!("/a/{round}\0").as_bytes()).unwrap();
            let event = watcher.next().unwrap();
            assert_eq!(event.payload, format!("/a/{round}\0t\0").into_bytes());
        }
    });
}

#[test]
fn events_that_come_late_come() {
    let faults =
        SocketFaults { event_delay: Duration::from_millis(1), reverse_events: true, ..SocketFaults::default() };
    against(faults, |path| {
        let (mut watcher, mut writer) = (Client::connect(&path), Client::connect(&path));
        watcher.ask(Operation::Watch, b"/a\0t\0").unwrap();
        assert_eq!(watcher.next().unwrap().operation, Operation::WatchEvent);
        for round in 0..20 {
            writer.ask(Operation::Write, format!("/a/{round}\0").as_bytes()).unwrap();
            assert_eq!(watcher.next().unwrap().payload, format!("/a/{round}\0t\0").as_bytes());
        }
    });
}
