//! A storage that remembers what was asked of it, for tests of the order and shape of I/O.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use block_core::{FileRange, Origin};

use crate::{Executor, Hold, Limits, Pending, Storage, StorageOperation};

/// One operation as it was submitted, without its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TracedOperation {
    /// A read of this range.
    Read(FileRange),
    /// A write of this range.
    Write {
        /// Which bytes.
        range: FileRange,
        /// Whether it was to be durable by itself.
        durable: bool,
    },
    /// A sync.
    Sync,
    /// Room was made.
    Allocate(FileRange),
    /// Room was given back.
    Discard(FileRange),
    /// Zeroes were asked for.
    WriteZeroes {
        /// Which bytes.
        range: FileRange,
        /// Whether their room might be given back.
        may_free: bool,
    },
    /// A new length.
    SetLength(u64),
    /// The lock was given up.
    Unlock,
    /// The lock was taken again.
    Lock,
}

impl TracedOperation {
    fn of(operation: &StorageOperation) -> Self {
        let range = operation.range().unwrap_or_default();
        match operation {
            StorageOperation::Read { .. } => TracedOperation::Read(range),
            StorageOperation::Write { durable, .. } => TracedOperation::Write { range, durable: *durable },
            StorageOperation::Sync => TracedOperation::Sync,
            StorageOperation::Allocate(_) => TracedOperation::Allocate(range),
            StorageOperation::Discard(_) => TracedOperation::Discard(range),
            StorageOperation::WriteZeroes { may_free, .. } => {
                TracedOperation::WriteZeroes { range, may_free: *may_free }
            }
            StorageOperation::SetLength(length) => TracedOperation::SetLength(*length),
            StorageOperation::Unlock => TracedOperation::Unlock,
            StorageOperation::Lock => TracedOperation::Lock,
        }
    }
}

/// Passes everything on to another storage and remembers it, in the order of submission. Clones are the same storage.
#[derive(Clone)]
pub struct TracedStorage {
    storage: Arc<dyn Storage>,
    trace: Arc<Mutex<Vec<TracedOperation>>>,
}

impl TracedStorage {
    /// Watches `storage`.
    pub fn new(storage: Arc<dyn Storage>) -> Self {
        TracedStorage { storage, trace: Arc::default() }
    }

    /// What was submitted since the last call.
    pub fn take(&self) -> Vec<TracedOperation> {
        std::mem::take(&mut *self.trace())
    }

    /// The ranges of the writes since the last call of [`TracedStorage::take`].
    pub fn writes(&self) -> Vec<FileRange> {
        let write = |operation: &TracedOperation| match operation {
            TracedOperation::Write { range, .. } => Some(*range),
            _ => None,
        };
        self.trace().iter().filter_map(write).collect()
    }

    /// The lock guards a list.
    fn trace(&self) -> MutexGuard<'_, Vec<TracedOperation>> {
        self.trace.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Storage for TracedStorage {
    fn submit(&self, executor: &Executor, operation: StorageOperation, hold: Option<Hold>) -> Pending {
        self.trace().push(TracedOperation::of(&operation));
        self.storage.submit(executor, operation, hold)
    }

    fn length(&self) -> u64 {
        self.storage.length()
    }

    fn limits(&self) -> Limits {
        self.storage.limits()
    }

    fn origin(&self) -> Origin {
        self.storage.origin()
    }
}

impl fmt::Debug for TracedStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TracedStorage({:?})", self.storage)
    }
}

#[cfg(test)]
mod tests {
    use block_core::FileOffset;

    use super::*;
    use crate::{EngineChoice, MemoryStorage, StorageExt};

    #[test]
    fn operations_are_remembered_in_the_order_of_their_submission() {
        let executor = Executor::new(EngineChoice::Inline).unwrap();
        let storage = TracedStorage::new(Arc::new(MemoryStorage::new(4096)));
        let range = FileRange::new(FileOffset::new(512), 3);
        executor.block_on(async {
            storage.write_bytes(&executor, range.start(), b"abc").await.unwrap();
            storage.sync(&executor).await.unwrap();
            assert_eq!(storage.read_bytes(&executor, range.start(), 3).await.unwrap(), b"abc");
        });
        assert_eq!(storage.writes(), [range]);
        let write = TracedOperation::Write { range, durable: false };
        assert_eq!(storage.take(), [write, TracedOperation::Sync, TracedOperation::Read(range)]);
        assert_eq!(storage.take(), []);
    }
}
