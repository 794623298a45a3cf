//! A toolstack that removes a device at the worst moment: between any two requests of the backend.

use std::{
    cell::Cell,
    future::Future,
    io::{self, Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    pin::pin,
    rc::Rc,
};

use futures_util::future::select;
use storage_io::{Executor, Task};
use tapback::{Host, Watcher};
use wire::xenstore::{Message, MessageReader, Operation, Path, put_message};
use xen::store::{Address, Store};

use crate::world::{GUEST, Vbd, World, XVDA, path};

/// Looks at a device after which its story is over, whatever became of it.
const LOOKS_MAX: usize = 400;

/// Stands between the backend and the server.
struct Between {
    socket: PathBuf,
    _directory: tempfile::TempDir,
    _task: Task<()>,
}

impl Between {
    /// `before` is called before each request is handed on.
    fn new(executor: &Executor, server: PathBuf, before: impl Fn() + 'static) -> Between {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("between");
        let listener = UnixListener::bind(&socket).unwrap();
        listener.set_nonblocking(true).unwrap();
        let relay = relay(executor.clone(), listener, server, before);
        Between { socket, _directory: directory, _task: executor.spawn(relay) }
    }
}

async fn relay(executor: Executor, listener: UnixListener, server: PathBuf, before: impl Fn()) {
    executor.readable(&listener).await.unwrap();
    let (client, _) = listener.accept().unwrap();
    let server = UnixStream::connect(server).unwrap();
    client.set_nonblocking(true).unwrap();
    server.set_nonblocking(true).unwrap();
    // A descriptor is waited for by one task: each direction has its own.
    let (from_client, from_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    let requests = async {
        let mut reader = MessageReader::new();
        pump(&executor, &from_client, async |bytes| {
            let mut rest = bytes;
            while !rest.is_empty() {
                let (taken, message) = reader.feed(rest).unwrap();
                rest = &rest[taken..];
                if let Some(Message { operation, request, transaction, payload }) = message {
                    before();
                    let mut out = Vec::new();
                    put_message(&mut out, operation, request, transaction, &[&payload]);
                    send(&executor, &server, &out).await;
                }
            }
        })
        .await;
    };
    let answers = async { pump(&executor, &from_server, async |bytes| send(&executor, &client, bytes).await).await };
    select(pin!(requests), pin!(answers)).await;
}

async fn pump(executor: &Executor, mut from: &UnixStream, mut take: impl AsyncFnMut(&[u8])) {
    let mut bytes = [0; 8192];
    loop {
        match from.read(&mut bytes) {
            Ok(0) => return,
            Ok(length) => take(&bytes[..length]).await,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => executor.readable(from).await.unwrap(),
            Err(_) => return,
        }
    }
}

async fn send(executor: &Executor, mut to: &UnixStream, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match to.write(bytes) {
            Ok(length) => bytes = &bytes[length..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => executor.writable(to).await.unwrap(),
            Err(_) => return,
        }
    }
}

/// Removes a node at once, as a toolstack on another connection does.
fn remove(world: &World, node: &Path) {
    let payload = [node.as_str().as_bytes(), b"\0"].concat();
    let message = Message { operation: Operation::Remove, request: 1, transaction: 0, payload };
    world.sockets.with_store(|store| {
        let toolstack = store.connect(0);
        store.handle(toolstack, &message);
        store.disconnect(toolstack);
    });
}

/// What everybody else does to a device that is attached, used and detached. Nobody writes after `is_over`.
async fn life(world: &World, vbd: &Vbd<'_>, is_over: &Cell<bool>) {
    let plant = |directory: &Path, nodes: &[(&str, &str)]| {
        nodes.iter().for_each(|(name, value)| world.plant(&directory.join(name).unwrap(), value.as_bytes()));
    };
    let (mut has_run, mut is_shown, mut is_detached) = (false, false, false);
    for _ in 0..LOOKS_MAX {
        let state = vbd.read("state").await;
        if is_over.get() {
            break;
        }
        match state.as_deref() {
            Some("2") if !has_run => {
                plant(&vbd.back, &[("physical-device-path", "/run/nbd1.2"), ("hotplug-status", "connected")]);
                has_run = true;
            }
            Some("2") if !is_shown => {
                plant(&vbd.front, &[("ring-ref", "8"), ("event-channel", "3"), ("state", "3")]);
                is_shown = true;
            }
            Some("4") if !is_detached => {
                plant(&vbd.back, &[("online", "0"), ("state", "5")]);
                plant(&vbd.front, &[("state", "6")]);
                is_detached = true;
            }
            Some("6") => is_over.set(true),
            _ => {}
        }
    }
    world.settle().await;
}

/// Has `removed` done before the backend's request of this number; false if the device's life was over by then.
fn story<T: Future<Output = ()>>(
    number: u32,
    removed: impl Fn(&World) + 'static,
    afterwards: impl Fn(Rc<World>) -> T,
) -> bool {
    let world = Rc::new(World::without_watcher());
    let (is_removed, is_over) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(false)));
    let between = {
        let (weak, is_removed, is_over) = (Rc::downgrade(&world), is_removed.clone(), is_over.clone());
        let requests = Cell::new(0);
        Between::new(&world.executor, world.guest_socket(0), move || {
            requests.set(requests.get() + 1);
            if requests.get() == number && !is_over.replace(true) {
                is_removed.set(true);
                removed(&weak.upgrade().unwrap());
            }
        })
    };
    let store = Store::connect(&world.executor, Address::Socket(between.socket.clone())).unwrap();
    let host = Rc::new(Host { store, ..(*world.host).clone() });
    world.run(async {
        let vbd = world.vbd(GUEST, XVDA).await;
        world.watcher.replace(Some(Watcher::start(&host, "vbd3")));
        life(&world, &vbd, &is_over).await;
        if is_removed.get() {
            afterwards(world.clone()).await;
        }
    });
    is_removed.get()
}

fn back() -> Path {
    path("/local/domain/0/backend/vbd3")
}

#[test]
fn nothing_comes_back_whenever_a_device_is_removed() {
    let mut number = 1;
    let removed = |world: &World| {
        remove(world, &path("/local/domain/7/device"));
        remove(world, &back());
    };
    while story(number, removed, async |world| {
        assert_eq!(world.store.directory(&back()).await.unwrap(), None, "removed before request {number}");
        assert!(!world.worker.is_connected(GUEST, XVDA), "before request {number}");
        assert_eq!(world.opener.open.get(), 0, "before request {number}");
    }) {
        number += 1;
    }
    assert!(number > 20, "only {number} requests were there to be interrupted");
}

#[test]
fn nothing_of_the_old_device_gets_into_the_new_one() {
    let mut number = 1;
    let recreated = |world: &World| {
        remove(world, &back());
        let (back, front) =
            (back().join("7").unwrap().join("51712").unwrap(), path("/local/domain/7/device/vbd/51712"));
        let nodes =
            [("frontend", front.as_str()), ("params", "aio:/b"), ("script", "block"), ("online", "1"), ("state", "1")];
        nodes.iter().for_each(|(name, value)| world.plant(&back.join(name).unwrap(), value.as_bytes()));
        remove(world, &front);
        world.plant(&front.join("state").unwrap(), b"1");
    };
    while story(number, recreated, async |world| {
        let vbd = Vbd::new(&world, GUEST, XVDA);
        assert_eq!(vbd.settled().await, "2", "made anew before request {number}");
        let left = vbd.reads(&["sectors", "feature-flush-cache", "kthread-pid", "hotplug-status"]).await;
        assert_eq!(left, ["-"; 4], "before request {number}");
        assert!(!world.worker.is_connected(GUEST, XVDA), "before request {number}");
    }) {
        number += 1;
    }
    assert!(number > 20, "only {number} requests were there to be interrupted");
}
