//! A host of one test: a XenStore server, a toolstack, guests, and the backend, all on one executor.

use std::{cell::RefCell, future::Future, path::PathBuf, pin::pin, rc::Rc, time::Duration};

use futures_util::future::{Either, select};
use storage_io::{EngineChoice, Executor};
use tapback::{DeviceName, Host, Log, Offer, OnDeath, Summary, Watcher};
use wire::xenstore::{Message, Operation, Path, Permission};
use xen::{
    DomainId,
    store::{Address, Store},
};
use xenbus::server::{Quotas, Sockets, Store as Server};

use crate::worker::{FakeOpener, FakeWorker};

/// A hang limit, not a measure.
const LONG: Duration = Duration::from_secs(60);
/// Round trips after which everybody has done what there was to do.
const ROUND_TRIPS: usize = 150;

pub(crate) const GUEST: u16 = 7;
pub(crate) const XVDA: u32 = 51712;

pub(crate) struct World {
    pub(crate) executor: Executor,
    pub(crate) sockets: Rc<Sockets>,
    pub(crate) worker: Rc<FakeWorker>,
    pub(crate) opener: Rc<FakeOpener>,
    pub(crate) host: Rc<Host>,
    pub(crate) watcher: RefCell<Option<Watcher>>,
    pub(crate) lines: Rc<Lines>,
    /// The toolstack's connection.
    pub(crate) store: Store,
    directory: tempfile::TempDir,
}

/// What was logged.
#[derive(Default)]
pub(crate) struct Lines(RefCell<Vec<String>>);

impl Log for Lines {
    fn note(&self, device: &DeviceName, words: &str) {
        self.0.borrow_mut().push(format!("{device}: {words}"));
    }

    fn note_all(&self, kind: &str, words: &str) {
        self.0.borrow_mut().push(format!("{kind}: {words}"));
    }
}

impl Lines {
    /// About all devices of a kind.
    pub(crate) fn of_kind(&self) -> Vec<String> {
        let lines = self.0.borrow();
        lines.iter().filter_map(|line| line.strip_prefix("vbd3: ")).map(str::to_owned).collect()
    }

    pub(crate) fn of(&self, device: u32) -> Vec<String> {
        let middle = format!("/{device}: ");
        let lines = self.0.borrow();
        lines.iter().filter_map(|line| line.split_once(&middle)).map(|(_, words)| words.to_owned()).collect()
    }
}

pub(crate) fn path(text: &str) -> Path {
    text.parse().unwrap()
}

impl World {
    pub(crate) fn new() -> World {
        let world = World::without_watcher();
        world.start();
        world
    }

    pub(crate) fn without_watcher() -> World {
        let directory = tempfile::tempdir().unwrap();
        let executor = Executor::new(EngineChoice::Inline).unwrap();
        let quotas = Quotas { value_bytes: 1 << 20, ..Quotas::default() };
        let sockets = Rc::new(Sockets::new(&executor, Server::new(quotas)));
        sockets.listen(&directory.path().join("socket"), 0).unwrap();
        let store = || Store::connect(&executor, Address::Socket(directory.path().join("socket"))).unwrap();
        let (worker, opener, lines) =
            (Rc::<FakeWorker>::default(), Rc::<FakeOpener>::default(), Rc::<Lines>::default());
        let host = Rc::new(Host {
            executor: executor.clone(),
            store: store(),
            domain: DomainId(0),
            worker: worker.clone(),
            opener: opener.clone(),
            log: lines.clone(),
            offer: Offer::default(),
            on_death: OnDeath::default(),
        });
        let store = store();
        let world =
            World { executor, sockets, worker, opener, host, watcher: RefCell::default(), lines, store, directory };
        world.run(async {
            world.store.write(&path("/local/domain/0/name"), b"Domain-0").await.unwrap();
        });
        world
    }

    pub(crate) fn start(&self) {
        self.watcher.replace(Some(Watcher::start(&self.host, "vbd3")));
    }

    /// The backend's process ends; what it has published and connected stays.
    pub(crate) fn stop(&self) {
        self.watcher.replace(None);
    }

    /// Runs a story; one that hangs fails.
    pub(crate) fn run<T>(&self, story: impl Future<Output = T>) -> T {
        self.executor.block_on(async {
            match select(pin!(story), pin!(self.executor.sleep(LONG))).await {
                Either::Left((told, _)) => told,
                Either::Right(_) => panic!("it hangs: {:?}", self.watcher.borrow()),
            }
        })
    }

    /// Ends when everybody has done what there was to do.
    pub(crate) async fn settle(&self) {
        for _ in 0..ROUND_TRIPS {
            self.store.read(&path("/local")).await.unwrap();
        }
    }

    /// A value gets into the store that fits into no message, as an administrator's tool may put it there.
    pub(crate) fn plant(&self, node: &Path, value: &[u8]) {
        let payload = [node.as_str().as_bytes(), b"\0", value].concat();
        let message = Message { operation: Operation::Write, request: 1, transaction: 0, payload };
        self.sockets.with_store(|store| {
            let toolstack = store.connect(0);
            store.handle(toolstack, &message);
            store.disconnect(toolstack);
        });
    }

    /// The server crashes, and the next one has nothing but the domains that a toolstack writes first.
    pub(crate) fn forget(&self) {
        self.sockets.drop_connections();
        self.sockets.with_store(|store| {
            let toolstack = store.connect(0);
            for (operation, payload) in [
                (Operation::Remove, b"/local\0".as_slice()),
                (Operation::Write, b"/local/domain/0/name\0Domain-0"),
                (Operation::Write, b"/local/domain/7/name\0guest"),
            ] {
                let payload = payload.to_vec();
                store.handle(toolstack, &Message { operation, request: 1, transaction: 0, payload });
            }
            store.disconnect(toolstack);
        });
    }

    /// A guest's own connection.
    pub(crate) fn guest_store(&self, domain: u16) -> Store {
        Store::connect(&self.executor, Address::Socket(self.guest_socket(domain))).unwrap()
    }

    pub(crate) fn guest_socket(&self, domain: u16) -> PathBuf {
        let socket = self.directory.path().join(format!("socket.{domain}"));
        if !socket.exists() {
            self.sockets.listen(&socket, domain).unwrap();
        }
        socket
    }

    pub(crate) fn summary(&self, device: u32) -> Option<Summary> {
        let devices = self.watcher.borrow().as_ref().unwrap().devices();
        devices.into_iter().find(|(name, _)| name.device == device).map(|(_, summary)| summary)
    }

    pub(crate) async fn read(&self, node: &Path) -> Option<String> {
        self.store.read(node).await.unwrap().map(|value| String::from_utf8(value).unwrap())
    }

    /// A disk, attached as libxl does it up to the point where it waits.
    pub(crate) async fn vbd(&self, domain: u16, device: u32) -> Vbd<'_> {
        let vbd = Vbd::new(self, domain, device);
        vbd.create().await;
        vbd
    }

    /// A disk whose script has run.
    pub(crate) async fn ready_vbd(&self, domain: u16, device: u32) -> Vbd<'_> {
        let vbd = self.vbd(domain, device).await;
        vbd.wait_for(2).await;
        vbd.run_script().await;
        vbd
    }

    /// A disk in use.
    pub(crate) async fn connected_vbd(&self, domain: u16, device: u32) -> Vbd<'_> {
        let vbd = self.ready_vbd(domain, device).await;
        vbd.show_ring(&[("ring-ref", "8"), ("event-channel", "3"), ("protocol", "x86_64-abi")], 3).await;
        vbd.wait_for(4).await;
        vbd.show(4).await;
        self.settle().await;
        vbd
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.executor.end_tasks();
    }
}

/// One disk of one guest, seen by toolstack, script and frontend.
pub(crate) struct Vbd<'a> {
    pub(crate) world: &'a World,
    pub(crate) domain: u16,
    pub(crate) device: u32,
    guest: Store,
    pub(crate) back: Path,
    pub(crate) front: Path,
}

impl<'a> Vbd<'a> {
    pub(crate) fn new(world: &'a World, domain: u16, device: u32) -> Vbd<'a> {
        let guest = world.guest_store(domain);
        let back = path(&format!("/local/domain/0/backend/vbd3/{domain}/{device}"));
        let front = path(&format!("/local/domain/{domain}/device/vbd/{device}"));
        Vbd { world, domain, device, guest, back, front }
    }

    /// One transaction, in libxl's order.
    pub(crate) async fn create(&self) {
        let device = self.device.to_string();
        let front = [
            ("backend", self.back.as_str()),
            ("backend-id", "0"),
            ("state", "1"),
            ("virtual-device", device.as_str()),
            ("device-type", "disk"),
            ("trusted", "1"),
        ];
        let domain = self.domain.to_string();
        let back = [
            ("frontend", self.front.as_str()),
            ("params", "aio:/a.img"),
            ("script", "/etc/xen/scripts/block-tap"),
            ("frontend-id", domain.as_str()),
            ("online", "1"),
            ("removable", "0"),
            ("bootable", "1"),
            ("state", "1"),
            ("dev", "xvda"),
            ("type", "vbd3"),
            ("mode", "w"),
            ("device-type", "disk"),
            ("discard-enable", "1"),
            ("specification", "xen"),
        ];
        let both = [(&self.front, &front[..], self.domain, 0), (&self.back, &back[..], 0, self.domain)];
        let made = self.world.store.transaction(async |transaction| {
            for (directory, nodes, owner, reader) in both {
                transaction.remove(directory).await.ok();
                transaction.write(directory, b"").await?;
                let permissions: [Permission; 2] =
                    [format!("n{owner}").parse().unwrap(), format!("r{reader}").parse().unwrap()];
                transaction.set_permissions(directory, &permissions).await?;
                for (name, value) in nodes {
                    transaction.write(&directory.join(name).unwrap(), value.as_bytes()).await?;
                }
            }
            Ok(())
        });
        made.await.unwrap();
    }

    pub(crate) fn node(&self, name: &str) -> Path {
        self.back.join(name).unwrap()
    }

    pub(crate) async fn read(&self, name: &str) -> Option<String> {
        self.world.read(&self.node(name)).await
    }

    pub(crate) async fn reads(&self, names: &[&str]) -> Vec<String> {
        let mut values = Vec::new();
        for name in names {
            values.push(self.read(name).await.unwrap_or_else(|| "-".into()));
        }
        values
    }

    pub(crate) async fn error(&self) -> Option<String> {
        let node = format!("/local/domain/0/error/backend/vbd3/{}/{}/error", self.domain, self.device);
        self.world.read(&path(&node)).await
    }

    /// The state that the backend shows.
    pub(crate) async fn state(&self) -> String {
        self.read("state").await.unwrap_or_else(|| "-".into())
    }

    /// The state that the backend shows when everybody has done what there was to do.
    pub(crate) async fn settled(&self) -> String {
        self.world.settle().await;
        self.state().await
    }

    /// As libxl waits: it looks at each event, and the node must be exactly this.
    pub(crate) async fn wait_for(&self, state: u8) {
        let watch = self.world.store.watch(&self.node("state"));
        loop {
            watch.next().await;
            let found = self.read("state").await;
            assert!(found.is_some(), "the state vanished while a toolstack waited for {state}");
            if found == Some(state.to_string()) {
                return;
            }
        }
    }

    /// What block-tap does, node by node.
    pub(crate) async fn run_script(&self) {
        let nodes = [
            ("pid", "4711"),
            ("minor", "3"),
            ("physical-device-path", "/run/blktap-control/nbd4711.3"),
            ("hotplug-status", "connected"),
        ];
        for (name, value) in nodes {
            self.world.store.write(&self.node(name), value.as_bytes()).await.unwrap();
        }
    }

    /// The frontend shows this state.
    pub(crate) async fn show(&self, state: u8) {
        self.guest.write(&self.front.join("state").unwrap(), state.to_string().as_bytes()).await.unwrap();
    }

    pub(crate) async fn set(&self, name: &str, value: &[u8]) {
        self.guest.write(&self.front.join(name).unwrap(), value).await.unwrap();
    }

    /// The frontend writes nodes at once, and then its state.
    pub(crate) async fn show_ring(&self, nodes: &[(&str, &str)], state: u8) {
        let written = self.guest.transaction(async |transaction| {
            for (name, value) in nodes {
                transaction.write(&self.front.join(name).unwrap(), value.as_bytes()).await?;
            }
            Ok(())
        });
        written.await.unwrap();
        self.show(state).await;
    }

    pub(crate) async fn unset(&self, name: &str) {
        self.guest.remove(&self.front.join(name).unwrap()).await.unwrap();
    }

    /// The toolstack wants the disk back: as `block-detach`, or by force as at the end of every domain.
    pub(crate) async fn detach(&self, by_force: bool) {
        let wanted = self.world.store.transaction(async |transaction| {
            if by_force {
                transaction.remove(&self.front).await?;
            }
            transaction.write(&self.node("online"), b"0").await?;
            let state = transaction.read(&self.node("state")).await?;
            if state.as_deref() != Some(b"6") {
                transaction.write(&self.node("state"), b"5").await?;
            }
            Ok(())
        });
        wanted.await.unwrap();
    }

    /// The toolstack removes both directories, and what is empty above ours, `backend` itself included.
    pub(crate) async fn remove(&self) {
        let removed = self.world.store.transaction(async |transaction| {
            transaction.remove(&self.front).await?;
            let mut directory = self.back.clone();
            for _ in 0..4 {
                transaction.remove(&directory).await?;
                directory = directory.parent().unwrap();
                if transaction.directory(&directory).await?.is_none_or(|names| !names.is_empty()) {
                    break;
                }
            }
            Ok(())
        });
        removed.await.unwrap();
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.world.worker.is_connected(self.domain, self.device)
    }

    pub(crate) fn looks(&self) -> u64 {
        self.world.summary(self.device).unwrap().looks
    }
}
