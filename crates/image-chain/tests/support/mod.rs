//! A host whose files are in memory, and what tests do on it.

#![allow(dead_code, reason = "each test binary uses some of it")]

use std::{path::Path, rc::Rc, sync::Arc};

use block_core::{FileOffset, GuestOffset, GuestRange, Result};
use image_chain::{ChainSpec, Home, ImageKind, ImageName, Queue};
use image_format::vhd::{self, CreateOptions, ParentLink, Timestamp};
use storage_io::{
    Access, Buffer, EngineChoice, Executor, MemoryFiles, MemoryStorage, Storage, StorageExt, StorageKind,
};
use uuid::Uuid;

/// Bytes of a VHD block.
pub(crate) const BLOCK: u64 = 2 << 20;

pub(crate) fn range(start: u64, length: u64) -> GuestRange {
    GuestRange::new(GuestOffset::new(start), length)
}

pub(crate) fn name(name: &str) -> ImageName {
    name.parse().unwrap()
}

/// The identity of the image at a path.
pub(crate) fn identity(path: &str) -> Uuid {
    let bytes = path.bytes().fold(17_u128, |sum, byte| sum.wrapping_mul(257).wrapping_add(byte.into()));
    Uuid::from_u128(bytes)
}

/// An executor and its files.
pub(crate) struct Host {
    pub(crate) executor: Executor,
    pub(crate) files: MemoryFiles,
}

impl Host {
    pub(crate) fn new() -> Host {
        Host { executor: Executor::new(EngineChoice::Inline).unwrap(), files: MemoryFiles::new() }
    }

    /// A raw image with this content.
    pub(crate) fn raw(&self, path: &str, bytes: Vec<u8>) {
        self.files.put(path, Arc::new(MemoryStorage::from_bytes(bytes)));
    }

    /// An empty dynamic VHD of `blocks` blocks.
    pub(crate) fn vhd(&self, path: &str, blocks: u64) {
        self.create(path, Arc::new(MemoryStorage::new(0)), blocks, None);
    }

    /// An empty dynamic VHD on a device with room for all its blocks.
    pub(crate) fn vhd_on_device(&self, path: &str, blocks: u64) {
        let length = usize::try_from((blocks + 1) * (BLOCK + 4096)).unwrap();
        let device = MemoryStorage::new(length).with_limits(|limits| limits.kind = StorageKind::BlockDevice);
        self.create(path, Arc::new(device), blocks, None);
    }

    /// A VHD whose parent is the VHD at `parent`.
    pub(crate) fn child(&self, path: &str, parent: &str, blocks: u64) {
        self.child_of(path, parent, blocks, Some(identity(parent)));
    }

    /// A VHD whose parent is the raw image at `parent`.
    pub(crate) fn child_of_raw(&self, path: &str, parent: &str, blocks: u64) {
        self.child_of(path, parent, blocks, None);
    }

    pub(crate) fn child_of(&self, path: &str, parent: &str, blocks: u64, uuid: Option<Uuid>) {
        let name = Path::new(parent).file_name().unwrap().to_str().unwrap();
        let link = ParentLink {
            uuid,
            timestamp: Timestamp::from_unix(1_000_000_000),
            name: name.to_string(),
            path: format!("./{name}"),
        };
        self.create(path, Arc::new(MemoryStorage::new(0)), blocks, Some(link));
    }

    fn create(&self, path: &str, storage: Arc<dyn Storage>, blocks: u64, parent: Option<ParentLink>) {
        let options = CreateOptions {
            disk_bytes: blocks * BLOCK,
            reserved_bytes: 0,
            fixed: false,
            uuid: identity(path),
            timestamp: Timestamp::from_unix(1_000_000_000),
            parent,
        };
        self.executor.block_on(vhd::create(&self.executor, &storage, &options)).unwrap();
        self.files.put(path, storage);
    }

    /// The content of a file.
    pub(crate) fn bytes(&self, path: &str) -> Vec<u8> {
        let storage = self.files.get(path).unwrap();
        let length = usize::try_from(storage.length()).unwrap();
        self.executor.block_on(storage.read_bytes(&self.executor, FileOffset::new(0), length)).unwrap()
    }

    /// Changes bytes of a file.
    pub(crate) fn patch(&self, path: &str, offset: u64, bytes: &[u8]) {
        let storage = self.files.get(path).unwrap();
        self.executor.block_on(storage.write_bytes(&self.executor, FileOffset::new(offset), bytes)).unwrap();
    }

    pub(crate) fn open_spec(&self, spec: &ChainSpec) -> Result<Disk> {
        let opener = Rc::new(self.files.clone());
        let home = self.executor.block_on(Home::open(&self.executor, opener, spec))?;
        let queue = home.attach().start(&self.executor);
        Ok(Disk { executor: self.executor.clone(), home, queue })
    }

    /// Opens the chain of a leaf for writing.
    pub(crate) fn open(&self, leaf: &str) -> Result<Disk> {
        self.open_spec(&ChainSpec::new(name(leaf), Access::Write))
    }

    /// Writes to the disk of an image, in a life of its own.
    pub(crate) fn write(&self, leaf: &str, start: u64, bytes: &[u8]) {
        let disk = self.open(leaf).unwrap();
        disk.write(start, bytes);
        disk.close();
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.executor.end_tasks();
    }
}

/// An open chain with one queue.
pub(crate) struct Disk {
    executor: Executor,
    pub(crate) home: Home,
    pub(crate) queue: Queue,
}

impl Disk {
    pub(crate) fn run<T>(&self, work: impl Future<Output = T>) -> T {
        self.executor.block_on(work)
    }

    pub(crate) fn write(&self, start: u64, bytes: &[u8]) {
        let write = self.queue.write(range(start, bytes.len() as u64), Buffer::from_bytes(bytes), false);
        self.run(write).1.unwrap();
    }

    pub(crate) fn read(&self, start: u64, length: usize) -> Vec<u8> {
        let (buffer, result) = self.run(self.queue.read(range(start, length as u64), Buffer::zeroed(length)));
        result.unwrap();
        buffer.to_vec()
    }

    pub(crate) fn discard(&self, start: u64, length: u64) {
        self.run(self.queue.discard(range(start, length))).unwrap();
    }

    pub(crate) fn zero(&self, start: u64, length: u64, may_free: bool) {
        self.run(self.queue.write_zeroes(range(start, length), may_free, false, false)).unwrap();
    }

    pub(crate) fn close(self) {
        drop(self.queue);
        self.executor.block_on(self.home.close()).unwrap();
    }
}

/// The kinds of a chain's images, leaf first.
pub(crate) fn kinds(home: &Home) -> Vec<ImageKind> {
    home.layers().into_iter().map(|layer| layer.kind).collect()
}
