//! A host without Xen, with a guest and a disk.

#![allow(dead_code, reason = "each test program uses its part")]

use std::{future::Future, rc::Rc, sync::Arc, thread};

use export::blkif::{ConnectedRing, DeviceAccount, RingFeatures, RingOptions};
use guest::{Front, FrontOptions};
use image_chain::ChainSpec;
use storage_io::{
    Access, BufferPool, EngineChoice, Executor, FaultScript, FaultyStorage, LockPolicy, MemoryFiles, MemoryStorage,
    Sender, Storage, mailbox,
};
use virtual_disk::{Disk, Settings};
use wire::blkif::{Abi, Limits};
use xen::{
    DomainId, GrantRef, Port,
    hosted::{Broker, BrokerLimits, Guest, HostedChannels, HostedGrants},
};

pub(crate) const GUEST: DomainId = DomainId(5);
/// A guest that wants nothing but its disk.
pub(crate) const NEIGHBOUR: DomainId = DomainId(6);
pub(crate) const HOST: DomainId = DomainId(0);
pub(crate) const OFFER: Limits = Limits { flush: true, barrier: true, discard: true, indirect_segments: 256 };
pub(crate) const DISK_SECTORS: u64 = 16 << 11;
pub(crate) const DISK_BYTES: usize = 16 << 20;

/// A host with one guest and one disk: the broker on a thread of its own, the rest here.
pub(crate) struct World {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) end: Sender<()>,
    pub(crate) broker: Option<thread::JoinHandle<()>>,
    pub(crate) executor: Executor,
    pub(crate) disk: Disk,
    pub(crate) faults: FaultScript,
    pub(crate) guest: Guest,
    pub(crate) grants: Arc<HostedGrants>,
    pub(crate) channels: HostedChannels,
}

impl World {
    pub(crate) fn new() -> World {
        World::with(Access::Write)
    }

    pub(crate) fn with(access: Access) -> World {
        World::on(Arc::new(MemoryStorage::new(DISK_BYTES)), access)
    }

    /// The disk is in this storage.
    pub(crate) fn on(storage: Arc<dyn Storage>, access: Access) -> World {
        let directory = tempfile::tempdir().unwrap();
        let (end, mut ended) = mailbox();
        let (up, mut is_up) = mailbox();
        let path = directory.path().to_owned();
        let broker = thread::spawn(move || {
            let executor = Executor::new(EngineChoice::Inline).unwrap();
            let broker = Broker::start(&executor, &path, BrokerLimits::default()).unwrap();
            broker.create_domain(GUEST, 8192).unwrap();
            broker.create_domain(NEIGHBOUR, 1024).unwrap();
            up.send(()).unwrap();
            executor.block_on(ended.recv());
        });
        let executor = Executor::new(EngineChoice::Probe).unwrap();
        executor.block_on(is_up.recv()).unwrap();
        let (files, faults) = (MemoryFiles::new(), FaultScript::new());
        files.put("/a", Arc::new(FaultyStorage::new(storage, faults.clone())));
        let disk = Disk::new(&executor, Rc::new(files), BufferPool::new(16 << 20), Arc::new(()));
        let spec =
            ChainSpec { direct: false, lock: LockPolicy::None, ..ChainSpec::new("aio:/a".parse().unwrap(), access) };
        executor.block_on(disk.open(spec, Settings::default())).unwrap();
        let guest = Guest::boot(directory.path(), GUEST).unwrap();
        let grants = Arc::new(HostedGrants::connect(directory.path(), HOST).unwrap());
        let channels = HostedChannels::connect(directory.path(), HOST).unwrap();
        World { directory, end, broker: Some(broker), executor, disk, faults, guest, grants, channels }
    }

    pub(crate) fn connect(&self, front: &Front, abi: Abi) -> ConnectedRing {
        self.connect_with(&options(front.ring_grants(), front.port(), abi))
    }

    pub(crate) fn connect_with(&self, options: &RingOptions) -> ConnectedRing {
        ConnectedRing::connect(&self.disk.queue(), self.grants.clone(), &self.channels, options).unwrap()
    }

    /// One of the rings of a device.
    pub(crate) fn connect_one_of(&self, device: &Arc<DeviceAccount>, options: &RingOptions) -> ConnectedRing {
        let queue = self.disk.queue();
        ConnectedRing::connect_one_of(device, &queue, self.grants.clone(), &self.channels, options, None).unwrap()
    }

    pub(crate) fn front(&self, options: FrontOptions) -> (Front, ConnectedRing) {
        let front = Front::new(&self.executor, &self.guest, options).unwrap();
        let ring = self.connect_with(&of_front(&front, options));
        (front, ring)
    }

    pub(crate) fn run<T>(&self, body: impl Future<Output = T>) -> T {
        self.executor.block_on(body)
    }

    /// Everything is given back: nothing is granted, nothing used.
    pub(crate) fn is_clean(&self) {
        let account = self.guest.account().unwrap();
        assert_eq!((account.granted, account.used), (0, 0));
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.executor.end_tasks();
        let _ = self.end.send(());
        self.broker.take().unwrap().join().unwrap();
        assert!(self.directory.path().exists());
    }
}

/// What every ring is offered that a test says nothing else of.
pub(crate) fn options(pages: Vec<GrantRef>, port: Port, abi: Abi) -> RingOptions {
    let features = RingFeatures::default();
    RingOptions {
        domain: GUEST,
        pages,
        port,
        abi,
        offer: OFFER,
        features,
        read_only: false,
        adopted: false,
        repeats_changes: true,
    }
}

/// What a frontend's ring is offered that says nothing else.
pub(crate) fn of_front(front: &Front, made: FrontOptions) -> RingOptions {
    let features = RingFeatures { persistent: made.persistent, polling: None };
    RingOptions { features, ..options(front.ring_grants(), front.port(), made.abi) }
}

pub(crate) fn pattern(sectors: usize, seed: u8) -> Vec<u8> {
    (0..sectors * 512).map(|index| seed.wrapping_add(u8::try_from(index % 251).unwrap())).collect()
}
