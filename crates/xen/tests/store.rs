//! The client of XenStore against a server that does what real ones do at their worst.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    cell::Cell,
    future::Future,
    io::{Read, Write},
    rc::Rc,
};

use block_core::ErrorKind;
use storage_io::{EngineChoice, Executor};
use wire::xenstore::{MessageReader, Operation, Path, put_message};
use xen::store::{Address, Store};
use xenbus::server::{Faults, Quotas, SocketFaults, Sockets, Store as Server};

/// A server and a client of it on one executor.
struct World {
    executor: Executor,
    sockets: Rc<Sockets>,
    directory: tempfile::TempDir,
}

impl World {
    fn new() -> World {
        World::with(Server::default())
    }

    fn with(server: Server) -> World {
        let directory = tempfile::tempdir().unwrap();
        let executor = Executor::new(EngineChoice::Inline).unwrap();
        let sockets = Rc::new(Sockets::new(&executor, server));
        let world = World { executor, sockets, directory };
        world.listen();
        world
    }

    fn listen(&self) {
        self.sockets.listen(&self.directory.path().join("socket"), 0).unwrap();
    }

    fn store(&self) -> Store {
        Store::connect(&self.executor, Address::Socket(self.directory.path().join("socket"))).unwrap()
    }

    /// As a guest has it, to whom quotas apply.
    fn guest_store(&self) -> Store {
        let socket = self.directory.path().join("guest");
        self.sockets.listen(&socket, 5).unwrap();
        Store::connect(&self.executor, Address::Socket(socket)).unwrap()
    }

    fn run<T>(&self, body: impl Future<Output = T>) -> T {
        self.executor.block_on(body)
    }
}

fn path(text: &str) -> Path {
    text.parse().unwrap()
}

#[test]
fn nodes_are_read_written_listed_and_removed() {
    let world = World::new();
    let store = world.store();
    world.run(async {
        assert_eq!(store.read(&path("/a")).await.unwrap(), None);
        store.write(&path("/a/b"), b"value").await.unwrap();
        assert_eq!(store.read(&path("/a/b")).await.unwrap().as_deref(), Some(b"value".as_slice()));
        assert_eq!(store.directory(&path("/a")).await.unwrap().unwrap(), ["b"]);
        assert_eq!(store.directory(&path("/none")).await.unwrap(), None);
        let permissions = ["n0".parse().unwrap(), "r5".parse().unwrap()];
        store.set_permissions(&path("/a"), &permissions).await.unwrap();
        assert_eq!(store.permissions(&path("/a")).await.unwrap().unwrap(), permissions);
        store.remove(&path("/a")).await.unwrap();
        store.remove(&path("/none/at/all")).await.unwrap();
        assert_eq!(store.read(&path("/a/b")).await.unwrap(), None);
    });
}

#[test]
fn what_is_too_long_is_refused_before_it_is_sent() {
    let world = World::new();
    let store = world.store();
    let refused = world.run(store.write(&path("/a"), &[b'x'; 4094])).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::LimitReached);
    world.run(store.write(&path("/a"), &[b'x'; 4093])).unwrap();
}

#[test]
fn the_device_gets_each_message_with_its_header_in_4096_bytes() {
    // A pipe that is open for both directions gives back what it is given: an answer with the same number.
    let directory = tempfile::tempdir().unwrap();
    let device = directory.path().join("xenbus");
    let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR);
    rustix::fs::mknodat(rustix::fs::CWD, &device, kind, mode, 0).unwrap();
    let executor = Executor::new(EngineChoice::Inline).unwrap();
    let store = Store::connect(&executor, Address::Device(device)).unwrap();
    let with_its_path = |payload: usize| vec![b'x'; payload - "/a\0".len()];
    executor.block_on(store.write(&path("/a"), &with_its_path(4096 - 16))).unwrap();
    let refused = executor.block_on(store.write(&path("/a"), &with_its_path(4096 - 16 + 1))).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::LimitReached);
}

#[test]
fn a_long_list_comes_in_parts() {
    let world = World::new();
    let store = world.store();
    let names: Vec<String> = (0..400).map(|number| format!("a-rather-long-name-{number:04}")).collect();
    world.run(async {
        for name in &names {
            store.write(&path("/dir").join(name).unwrap(), b"").await.unwrap();
        }
        assert_eq!(store.directory(&path("/dir")).await.unwrap().unwrap(), names);
        store.write(&path("/one/x"), b"").await.unwrap();
        world.sockets.with_store(|server| {
            server.set_faults(Faults { directory_bytes_max: 1, ..Faults::default() });
        });
        assert_eq!(store.directory(&path("/one")).await.unwrap().unwrap(), ["x"]);
        store.remove(&path("/one/x")).await.unwrap();
        assert_eq!(store.directory(&path("/one")).await.unwrap().unwrap(), [""; 0]);
    });
}

#[test]
fn who_watches_is_told_once_for_each_place() {
    let world = World::new();
    let store = world.store();
    world.run(async {
        let watch = store.watch(&path("/a"));
        assert_eq!(watch.next().await, "/a");
        for _ in 0..3 {
            store.write(&path("/a/b"), b"").await.unwrap();
            store.write(&path("/a/c"), b"").await.unwrap();
        }
        assert_eq!((watch.next().await, watch.next().await), ("/a/b".into(), "/a/c".into()));
        store.write(&path("/other"), b"").await.unwrap();
        assert_eq!(watch.take(), [""; 0]);
    });
}

#[test]
fn a_guest_that_makes_nodes_without_end_costs_no_memory() {
    let world = World::new();
    let (store, writer) = (world.store(), world.store());
    world.run(async {
        let watch = store.watch(&path("/a"));
        watch.next().await;
        for number in 0..1000 {
            writer.write(&path(&format!("/a/{number:04}")), b"").await.unwrap();
        }
        store.read(&path("/a")).await.unwrap();
        let told = watch.take();
        assert!(told.len() <= 256 && told.contains(&"/a".to_owned()), "{} paths", told.len());
    });
}

#[test]
fn a_watch_that_has_ended_tells_nothing_and_others_go_on() {
    let world = World::new();
    let store = world.store();
    world.run(async {
        let (first, second) = (store.watch(&path("/a")), store.watch(&path("/a")));
        first.next().await;
        second.next().await;
        drop(first);
        store.write(&path("/a"), b"").await.unwrap();
        assert_eq!(second.next().await, "/a");
    });
}

#[test]
fn a_watch_that_is_refused_says_so_and_is_tried_again_until_there_is_room() {
    let world = World::with(Server::new(Quotas { watches: 1, ..Quotas::default() }));
    let (store, writer) = (world.guest_store(), world.store());
    world.run(async {
        let others = store.watch(&path("/a"));
        assert_eq!((others.next().await.as_str(), others.refusal()), ("/a", None));
        let watch = store.watch(&path("/b"));
        assert_eq!(watch.next().await, "/b", "whoever watches looks");
        let refusal = watch.refusal().unwrap();
        assert!(refusal.starts_with("XenStore: "), "{refusal}");
        assert_eq!(store.refused_watches(), [(path("/b"), refusal)]);
        // What changes is not told; to look again is, whenever it is refused again.
        writer.write(&path("/b/x"), b"").await.unwrap();
        for _ in 0..2 {
            assert_eq!((watch.next().await.as_str(), watch.refusal().is_some()), ("/b", true));
        }
        drop(others);
        while watch.refusal().is_some() {
            assert_eq!(watch.next().await, "/b");
        }
        assert_eq!(store.refused_watches(), []);
        writer.write(&path("/b/y"), b"").await.unwrap();
        assert_eq!(watch.next().await, "/b/y");
    });
}

#[test]
fn a_watch_that_is_refused_is_tried_again_on_the_next_connection() {
    let world = World::with(Server::new(Quotas { watches: 1, ..Quotas::default() }));
    let store = world.guest_store();
    world.run(async {
        let (first, second) = (store.watch(&path("/a")), store.watch(&path("/b")));
        assert_eq!((first.next().await, second.next().await), ("/a".into(), "/b".into()));
        assert!(first.refusal().is_none() && second.refusal().is_some());
        for _ in 0..3 {
            world.sockets.drop_connections();
            assert_eq!((first.next().await, second.next().await), ("/a".into(), "/b".into()), "each is told to look");
            assert!(first.refusal().is_none() && second.refusal().is_some());
        }
        store.suspend().await;
        drop(first);
        store.resume().await;
        assert_eq!((second.next().await.as_str(), second.refusal()), ("/b", None));
    });
}

#[test]
fn a_watch_that_is_refused_and_dropped_leaves_nothing() {
    let world = World::with(Server::new(Quotas { watches: 0, ..Quotas::default() }));
    let store = world.guest_store();
    world.run(async {
        let watch = store.watch(&path("/a"));
        watch.next().await;
        drop(watch);
        assert_eq!(store.refused_watches(), []);
        assert_eq!(store.read(&path("/a")).await.unwrap(), None, "the connection is as good as ever");
    });
}

#[test]
fn events_that_come_before_their_watch_is_answered_are_not_lost() {
    let world = World::new();
    world.sockets.with_store(|server| {
        server.set_faults(Faults { events_first: true, duplicate_events: true, ..Faults::default() });
    });
    let store = world.store();
    world.run(async {
        let watch = store.watch(&path("@releaseDomain"));
        assert_eq!(watch.next().await, "@releaseDomain");
    });
}

#[test]
fn a_transaction_is_repeated_until_nobody_has_been_faster() {
    let world = World::new();
    let (store, other) = (world.store(), world.store());
    world.run(async {
        store.write(&path("/count"), b"0").await.unwrap();
        let attempts = Cell::new(0);
        let result = store
            .transaction(async |transaction| {
                attempts.set(attempts.get() + 1);
                let value = transaction.read(&path("/count")).await?.unwrap();
                if attempts.get() <= 3 {
                    other.write(&path("/count"), attempts.get().to_string().as_bytes()).await?;
                }
                transaction.write(&path("/count"), &[value.as_slice(), b"+"].concat()).await?;
                Ok(value)
            })
            .await;
        assert_eq!((attempts.get(), result.unwrap()), (4, b"3".to_vec()));
        assert_eq!(store.read(&path("/count")).await.unwrap().unwrap(), b"3+");
    });
}

#[test]
fn a_transaction_whose_body_fails_changes_nothing() {
    let world = World::new();
    let store = world.store();
    world.run(async {
        let result: block_core::Result<()> = store
            .transaction(async |transaction| {
                transaction.write(&path("/a"), b"1").await?;
                Err(block_core::Error::new(ErrorKind::Invalid, "changed my mind"))
            })
            .await;
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!(store.read(&path("/a")).await.unwrap(), None);
    });
}

#[test]
fn transactions_get_through_when_the_server_refuses_every_other() {
    let world = World::new();
    world.sockets.with_store(|server| server.set_faults(Faults { again_every: 2, ..Faults::default() }));
    let store = world.store();
    world.run(async {
        for number in 0..10_u32 {
            let write = async |transaction: &xen::store::Transaction| {
                transaction.write(&path("/a"), number.to_string().as_bytes()).await
            };
            store.transaction(write).await.unwrap();
        }
        assert_eq!(store.read(&path("/a")).await.unwrap().unwrap(), b"9");
    });
}

#[test]
fn a_lost_connection_is_found_again_with_all_its_watches() {
    let world = World::new();
    let store = world.store();
    world.run(async {
        let (first, second) = (store.watch(&path("/a")), store.watch(&path("/b")));
        first.next().await;
        second.next().await;
        for round in 0..5_u32 {
            world.sockets.drop_connections();
            assert_eq!((first.next().await, second.next().await), ("/a".into(), "/b".into()), "each is told to look");
            store.write(&path("/a/x"), round.to_string().as_bytes()).await.unwrap();
            assert_eq!(first.next().await, "/a/x");
        }
    });
}

#[test]
fn what_was_asked_on_a_lost_connection_is_asked_again() {
    let world = World::new();
    world.sockets.set_faults(SocketFaults { requests_max: 3, ..SocketFaults::default() });
    let store = world.store();
    world.run(async {
        for number in 0..20_u32 {
            store.write(&path("/a"), number.to_string().as_bytes()).await.unwrap();
            assert_eq!(store.read(&path("/a")).await.unwrap().unwrap(), number.to_string().as_bytes());
        }
    });
}

#[test]
fn a_transaction_on_a_lost_connection_begins_anew() {
    let world = World::new();
    let store = world.store();
    world.run(async {
        let attempts = Cell::new(0);
        store
            .transaction(async |transaction| {
                attempts.set(attempts.get() + 1);
                transaction.write(&path("/a"), b"1").await?;
                if attempts.get() == 1 {
                    world.sockets.drop_connections();
                }
                transaction.write(&path("/b"), b"1").await
            })
            .await
            .unwrap();
        assert_eq!(attempts.get(), 2);
        assert!(store.read(&path("/a")).await.unwrap().is_some() && store.read(&path("/b")).await.unwrap().is_some());
    });
}

#[test]
fn byte_by_byte_it_is_the_same() {
    let world = World::new();
    world.sockets.set_faults(SocketFaults { portion_bytes: 1, ..SocketFaults::default() });
    let store = world.store();
    world.run(async {
        let watch = store.watch(&path("/a"));
        store.write(&path("/a/b"), &[b'x'; 1000]).await.unwrap();
        assert_eq!(store.read(&path("/a/b")).await.unwrap().unwrap(), [b'x'; 1000]);
        assert_eq!((watch.next().await, watch.next().await), ("/a".into(), "/a/b".into()));
    });
}

#[test]
fn nothing_is_watched_while_suspended_and_everything_afterwards() {
    let world = World::new();
    let (store, other) = (world.store(), world.store());
    world.run(async {
        let watch = store.watch(&path("/a"));
        watch.next().await;
        store.suspend().await;
        other.write(&path("/a"), b"1").await.unwrap();
        store.read(&path("/a")).await.unwrap();
        assert_eq!(watch.take(), [""; 0]);
        store.resume().await;
        assert_eq!(watch.next().await, "/a", "who watches looks again");
        other.write(&path("/a/b"), b"1").await.unwrap();
        assert_eq!(watch.next().await, "/a/b");
    });
}

#[test]
fn a_transaction_that_was_suspended_begins_anew() {
    let world = World::new();
    let store = world.store();
    world.run(async {
        let attempts = Cell::new(0);
        let body = async |transaction: &xen::store::Transaction| {
            attempts.set(attempts.get() + 1);
            transaction.write(&path(&format!("/attempt/{}", attempts.get())), b"").await?;
            if attempts.get() == 1 {
                store.suspend().await;
                store.resume().await;
            }
            Ok(())
        };
        store.transaction(body).await.unwrap();
        assert_eq!(attempts.get(), 2);
        assert_eq!(store.directory(&path("/attempt")).await.unwrap().unwrap(), ["2"]);
    });
}

#[test]
fn events_for_a_kernel_before_us_are_ignored() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("socket");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let (mut reader, mut bytes) = (MessageReader::new(), [0; 1024]);
        let message = loop {
            let count = stream.read(&mut bytes).unwrap();
            if let (_, Some(message)) = reader.feed(&bytes[..count]).unwrap() {
                break message;
            }
        };
        assert_eq!(message.operation, Operation::Watch);
        let mut answer = Vec::new();
        for token in ["1234567", "oxtap-1-1", ""] {
            put_message(&mut answer, Operation::WatchEvent, 0, 0, &[b"/of/another\0", token.as_bytes(), b"\0"]);
        }
        put_message(&mut answer, Operation::Watch, message.request, 0, &[b"OK\0"]);
        put_message(&mut answer, Operation::WatchEvent, 0, 0, &[&message.payload]);
        stream.write_all(&answer).unwrap();
        stream
    });
    let executor = Executor::new(EngineChoice::Inline).unwrap();
    let store = Store::connect(&executor, Address::Socket(socket)).unwrap();
    let watch = store.watch(&path("/a"));
    assert_eq!(executor.block_on(watch.next()), "/a");
    assert_eq!(watch.take(), [""; 0]);
    server.join().unwrap();
}

#[test]
fn many_questions_at_once_each_get_their_own_answer() {
    let world = World::new();
    let store = world.store();
    world.run(async {
        for number in 0..50 {
            store.write(&path(&format!("/n/{number}")), number.to_string().as_bytes()).await.unwrap();
        }
        let tasks: Vec<_> = (0..50)
            .map(|number| {
                let store = store.clone();
                world.executor.spawn(async move { store.read(&path(&format!("/n/{number}"))).await.unwrap().unwrap() })
            })
            .collect();
        for (number, task) in tasks.into_iter().enumerate() {
            assert_eq!(task.await, number.to_string().into_bytes());
        }
    });
}
