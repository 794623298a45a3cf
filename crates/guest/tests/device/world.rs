//! A host without Xen in one process, with one guest.

use std::{future::Future, thread, time::Duration};

use guest::{
    Device, DeviceOptions,
    toolstack::{DiskSpec, Toolstack},
};
use storage_io::{EngineChoice, Executor, Sender, mailbox};
use wire::xenstore::Path;
use xen::{
    DomainId,
    hosted::{Broker, BrokerLimits, Guest},
    store::{Address, Store},
};
use xenbus::{
    State,
    server::{Sockets, Store as Server},
};

pub(crate) const DOMAIN: DomainId = DomainId(7);
const PAGES: u32 = 512;

/// How long anything may take that is waited for. A hang limit.
pub(crate) const HANG: Duration = Duration::from_secs(60);

pub(crate) struct World {
    pub(crate) executor: Executor,
    pub(crate) sockets: Sockets,
    pub(crate) directory: tempfile::TempDir,
    pub(crate) disk: DiskSpec,
    end: Sender<()>,
    broker: Option<thread::JoinHandle<()>>,
}

impl World {
    pub(crate) fn new() -> World {
        let directory = tempfile::tempdir().unwrap();
        let (end, mut ended) = mailbox();
        let (up, mut is_up) = mailbox();
        let path = directory.path().to_owned();
        let broker = thread::spawn(move || {
            let executor = Executor::new(EngineChoice::Inline).unwrap();
            let broker = Broker::start(&executor, &path, BrokerLimits::default()).unwrap();
            broker.create_domain(DOMAIN, PAGES).unwrap();
            up.send(()).unwrap();
            executor.block_on(ended.recv());
        });
        let executor = Executor::new(EngineChoice::Inline).unwrap();
        executor.block_on(is_up.recv()).unwrap();
        let sockets = Sockets::new(&executor, Server::default());
        let disk = DiskSpec::new(DOMAIN, "xvda", "vhd:/none");
        let world = World { executor, sockets, directory, disk, end, broker: Some(broker) };
        world.listen();
        world.run(async {
            let toolstack = world.toolstack();
            toolstack.add_domain(DOMAIN, 2048).await.unwrap();
            toolstack.add_disk(&world.disk).await.unwrap();
        });
        world
    }

    /// The server's sockets, also after they were gone.
    pub(crate) fn listen(&self) {
        self.sockets.listen(&self.directory.path().join("socket"), 0).unwrap();
        self.sockets.listen(&self.directory.path().join("socket.7"), 7).unwrap();
    }

    pub(crate) fn store(&self, socket: &str) -> Store {
        Store::connect(&self.executor, Address::Socket(self.directory.path().join(socket))).unwrap()
    }

    pub(crate) fn toolstack(&self) -> Toolstack {
        Toolstack::new(self.store("socket"))
    }

    /// The guest starts a kernel.
    pub(crate) fn boot(&self) -> Guest {
        Guest::boot(self.directory.path(), DOMAIN).unwrap()
    }

    /// A kernel with its own connections takes care of the disk.
    pub(crate) async fn device(&self, guest: &Guest, options: DeviceOptions) -> Device {
        let own = self.disk.frontend_path().unwrap();
        Device::open(&self.executor, guest, &self.store("socket.7"), own, options).await.unwrap()
    }

    /// Runs to the end, which must come.
    pub(crate) fn run<T>(&self, body: impl Future<Output = T>) -> T {
        use futures_util::future::{Either, select};
        let limit = std::pin::pin!(self.executor.sleep(HANG));
        match self.executor.block_on(select(std::pin::pin!(body), limit)) {
            Either::Left((value, _)) => value,
            Either::Right(_) => panic!("it hangs"),
        }
    }

    pub(crate) fn frontend(&self, name: &str) -> Path {
        self.disk.frontend_path().unwrap().join(name).unwrap()
    }

    pub(crate) fn backend(&self, name: &str) -> Path {
        self.disk.backend_path().unwrap().join(name).unwrap()
    }

    /// What a node holds; empty if it is not there.
    pub(crate) async fn text(&self, path: &Path) -> String {
        let value = self.store("socket").read(path).await.unwrap();
        String::from_utf8(value.unwrap_or_default()).unwrap()
    }

    pub(crate) async fn write(&self, path: &Path, value: &str) {
        self.store("socket").write(path, value.as_bytes()).await.unwrap();
    }

    /// Waits until the guest shows this state.
    pub(crate) async fn until_frontend(&self, state: State) {
        let store = self.store("socket");
        let watch = store.watch(&self.frontend("state"));
        while self.text(&self.frontend("state")).await != state.number().to_string() {
            watch.next().await;
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.executor.end_tasks();
        let _ = self.end.send(());
        if let Some(broker) = self.broker.take() {
            let _ = broker.join();
        }
    }
}
