//! Names to storages: how images are found, on the file system or in a test's memory.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use block_core::Result;
use futures_util::future::LocalBoxFuture;

use crate::{Executor, Storage};

/// What a storage is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading only.
    Read,
    /// Reading and writing.
    Write,
}

/// Whether opening takes the writer's lock.
///
/// The lock is an exclusive `flock` on the one open file that carries the I/O, so the kernel keeps it until the last
/// write of a writer that was killed has landed. A gone process proves nothing; this lock does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockPolicy {
    /// Readers, disks opened as shared, tools that rewrite a header in place.
    None,
    /// Wait this long for the last writer's I/O to end, then fail with `Busy`.
    Exclusive {
        /// How long.
        deadline: Duration,
    },
    /// Not now: [`StorageOperation::Lock`](crate::StorageOperation::Lock) takes it before the first write, and what would
    /// change the storage before that is refused.
    Later,
}

/// Whether opening may bring the storage into being.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CreateMode {
    /// It must be there.
    No,
    /// It must not be there yet.
    New,
    /// What is there is cut to nothing (a device is left as it is).
    Truncate,
}

/// How to open a storage.
#[derive(Clone, Copy, Debug)]
pub struct OpenOptions {
    /// For what.
    pub access: Access,
    /// Bypass the page cache, if the storage can.
    pub direct: bool,
    /// The writer's lock.
    pub lock: LockPolicy,
    /// Whether to create it.
    pub create: CreateMode,
}

impl OpenOptions {
    /// Reading, past the page cache, without a lock.
    pub fn read() -> Self {
        OpenOptions { access: Access::Read, direct: true, lock: LockPolicy::None, create: CreateMode::No }
    }

    /// Writing, past the page cache, as the only writer: waits ten seconds for the one before.
    pub fn write() -> Self {
        let lock = LockPolicy::Exclusive { deadline: Duration::from_secs(10) };
        OpenOptions { access: Access::Write, direct: true, lock, create: CreateMode::No }
    }
}

/// Opens storages by name.
pub trait Opener {
    /// Opens `path`. The work that may wait (a dead NFS server) is done by worker threads of `executor`.
    ///
    /// # Errors
    /// With the path in front: `NotFound`, `Busy` (locked), `ReadOnly`, or what the operating system says.
    fn open(
        &self,
        executor: &Executor,
        path: &Path,
        options: OpenOptions,
    ) -> LocalBoxFuture<'static, Result<Arc<dyn Storage>>>;

    /// The one absolute name of what `path` names.
    ///
    /// # Errors
    /// `NotFound`, or what the operating system says.
    fn canonical(&self, executor: &Executor, path: &Path) -> LocalBoxFuture<'static, Result<PathBuf>>;
}
