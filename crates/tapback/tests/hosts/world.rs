//! Two hosts, each with a XenStore, a toolstack, a backend and a disk, and one image.
//!
//! Everything is done by one thread, in an order drawn from the seed: backends as they run everywhere, disks in simulated
//! time. That passes when nobody has anything to do.

use std::{
    cell::Cell,
    future::Future,
    pin::pin,
    rc::Rc,
    task::{Context, Poll, Waker},
    thread,
    time::Duration,
};

use image_chain::Writing;
use storage_io::{EngineChoice, Executor, Wait};
use tapback::{Host, NamedDisks, Offer, OnDeath, Silent, Watcher};
use wire::xenstore::Path;
use xen::{
    DomainId,
    store::{Address, Store},
};
use xenbus::server::{Quotas, Sockets, Store as Server};

use crate::{
    support::{
        Script,
        two_hosts::{TwoHosts, open},
    },
    tapdisk::Tapdisk,
};

/// Bytes of the disk.
pub(crate) const DISK_BYTES: u64 = 8 << 20;
const XVDA: u32 = 51712;
/// The guest has this number on the first host, and the next one on the other.
const GUEST: u16 = 7;
/// A hang limit, in the time of the disks.
const LONG: Duration = Duration::from_secs(600);
/// A hang limit: looks in which nobody had anything to do.
const IDLE_MAX: u32 = 50_000;

pub(crate) struct World {
    pub(crate) executor: Executor,
    pub(crate) hosts: TwoHosts,
    pub(crate) sides: [Side; 2],
    /// Writes that land without the lock are what the test wants to see.
    pub(crate) may_stray: Cell<bool>,
    random: Cell<u64>,
}

/// A host as its toolstack and its guest see it.
pub(crate) struct Side {
    store: Store,
    tapdisk: Rc<Tapdisk>,
    sockets: Rc<Sockets>,
    domain: u16,
    watcher: Watcher,
    _directory: tempfile::TempDir,
}

impl World {
    pub(crate) fn new(seed: u64) -> World {
        let executor = Executor::new(EngineChoice::Inline).unwrap();
        let hosts = TwoHosts::new(seed, DISK_BYTES);
        let sides = [0, 1].map(|number| {
            // A disk is opened before its guest has left where it was.
            hosts.run(number, async |disk| open(disk, Writing::Later).await).unwrap();
            let host = &hosts.hosts[number];
            Side::new(&executor, Rc::new(Tapdisk::new(&host.executor, &host.disk)), GUEST + u16::from(number == 1))
        });
        World { executor, hosts, sides, may_stray: Cell::new(false), random: Cell::new(seed) }
    }

    pub(crate) fn random(&self, below: u64) -> u64 {
        let mixed = (self.random.get() ^ 0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        self.random.set(mixed ^ (mixed >> 29));
        (mixed >> 33) % below
    }

    /// Runs a story.
    pub(crate) fn run<T>(&self, story: impl Future<Output = T>) -> T {
        let mut story = pin!(story);
        let mut context = Context::from_waker(Waker::noop());
        let (mut idle, mut hung) = (0, 0);
        let end = self.hosts.clock.now() + LONG;
        loop {
            if let Poll::Ready(told) = story.as_mut().poll(&mut context) {
                return told;
            }
            assert!(self.may_stray.get() || self.hosts.strays() == 0, "a write has landed without the lock");
            let mut is_busy = false;
            for _ in 0..self.random(4) {
                is_busy |= self.hosts.step();
            }
            is_busy |= self.executor.turn(Wait::No).unwrap();
            idle = if is_busy { 0 } else { idle + 1 };
            hung = if is_busy { 0 } else { hung + 1 };
            assert!(
                hung < IDLE_MAX && self.hosts.clock.now() < end,
                "it hangs: {:?}",
                self.sides.each_ref().map(Side::shown)
            );
            if idle > 8 {
                idle = 0;
                if self.hosts.advance() {
                    hung = 0;
                } else {
                    // Somebody waits for real time.
                    thread::sleep(Duration::from_micros(100));
                }
            }
        }
    }

    /// Lets time pass for the disks: at most this long.
    pub(crate) async fn pass(&self, most: Duration) {
        let time = Duration::from_micros(self.random(u64::try_from(most.as_micros()).unwrap() + 1));
        self.hosts.hosts[0].executor.sleep(time).await;
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.executor.end_tasks();
    }
}

fn path(text: &str) -> Path {
    text.parse().unwrap()
}

impl Side {
    fn new(executor: &Executor, tapdisk: Rc<Tapdisk>, domain: u16) -> Side {
        let directory = tempfile::tempdir().unwrap();
        let sockets = Rc::new(Sockets::new(executor, Server::new(Quotas::default())));
        let socket = directory.path().join("socket");
        sockets.listen(&socket, 0).unwrap();
        let store = || Store::connect(executor, Address::Socket(socket.clone())).unwrap();
        let host = Rc::new(Host {
            executor: executor.clone(),
            store: store(),
            domain: DomainId(0),
            worker: tapdisk.clone(),
            opener: Rc::new(NamedDisks),
            log: Rc::new(Silent),
            offer: Offer::default(),
            on_death: OnDeath::default(),
        });
        let watcher = Watcher::start(&host, "vbd3");
        Side { store: store(), tapdisk, sockets, domain, watcher, _directory: directory }
    }

    /// What its backend knows.
    fn shown(&self) -> String {
        format!("{:?}", self.watcher)
    }

    /// Where the guest puts its requests, if it is served here.
    pub(crate) fn guest(&self) -> Option<Script> {
        self.tapdisk.guest(self.domain, XVDA)
    }

    fn front(&self) -> Path {
        path(&format!("/local/domain/{}/device/vbd/{XVDA}", self.domain))
    }

    fn back(&self) -> Path {
        path(&format!("/local/domain/0/backend/vbd3/{}/{XVDA}", self.domain))
    }

    async fn write(&self, directory: &Path, nodes: &[(&str, &str)]) {
        let written = self.store.transaction(async |transaction| {
            for (name, value) in nodes {
                transaction.write(&directory.join(name).unwrap(), value.as_bytes()).await?;
            }
            Ok(())
        });
        written.await.unwrap();
    }

    pub(crate) async fn read(&self, name: &str) -> Option<String> {
        let value = self.store.read(&self.back().join(name).unwrap()).await.unwrap();
        value.map(|value| String::from_utf8(value).unwrap())
    }

    /// What the backend has told of an error.
    pub(crate) async fn error(&self) -> Option<String> {
        let node = path(&format!("/local/domain/0/error/backend/vbd3/{}/{XVDA}/error", self.domain));
        self.store.read(&node).await.unwrap().map(|value| String::from_utf8(value).unwrap())
    }

    pub(crate) async fn wait_for(&self, state: &str) {
        let watch = self.store.watch(&self.back().join("state").unwrap());
        loop {
            let found = self.read("state").await;
            if found.as_deref() == Some(state) {
                return;
            }
            let is_other = matches!((state, found.as_deref()), ("4", Some("5")) | ("5", Some("4")));
            assert!(!is_other, "it is {found:?}, and not {state}: {:?}", self.error().await);
            watch.next().await;
        }
    }

    /// The toolstack makes the disk's directories, and its script names a tapdisk.
    pub(crate) async fn attach(&self) {
        self.store.write(&path("/local/domain/0/name"), b"Domain-0").await.unwrap();
        let (front, back) = (self.front(), self.back());
        let front_nodes = [("backend", back.as_str()), ("state", "1")];
        let back_nodes = [
            ("frontend", front.as_str()),
            ("params", "vhd:/v"),
            ("script", "block-tap"),
            ("online", "1"),
            ("mode", "w"),
            ("state", "1"),
        ];
        self.write(&front, &front_nodes).await;
        self.write(&back, &back_nodes).await;
        self.wait_for("2").await;
        self.write(&back, &[("pid", "1"), ("minor", "3"), ("hotplug-status", "connected")]).await;
    }

    /// The guest runs here, and shows its ring.
    pub(crate) async fn show_ring(&self) {
        self.write(&self.front(), &[("ring-ref", "8"), ("event-channel", "3"), ("state", "3")]).await;
    }

    /// The guest is suspended.
    pub(crate) async fn suspend(&self) {
        let wish = path(&format!("/local/domain/{}/control/shutdown", self.domain));
        for value in [b"suspend".as_slice(), b""] {
            self.store.write(&wish, value).await.unwrap();
        }
        self.sockets.with_store(Server::domain_changed);
    }

    /// The domain is destroyed, as far as its disk is concerned.
    pub(crate) async fn destroy(&self) {
        let destroyed = self.store.transaction(async |transaction| {
            transaction.remove(&self.front()).await?;
            transaction.write(&self.back().join("online").unwrap(), b"0").await?;
            transaction.write(&self.back().join("state").unwrap(), b"5").await
        });
        destroyed.await.unwrap();
    }

    /// The toolstack has seen that the disk is closed.
    pub(crate) async fn forget(&self) {
        self.store.remove(&self.back()).await.unwrap();
    }
}
