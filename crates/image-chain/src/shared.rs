//! What the queues of a disk share with home: the owner map to read, the storages to use. No locks.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU64, Ordering},
};

use block_core::{Error, ErrorKind, Result};
use image_format::vhd::DiskKey;
use storage_io::{Limits, Storage, StorageKind};

use crate::{
    owners::OwnerMap,
    piece::{LayerId, Owner, Piece},
    sealing::Sealer,
    statistics::ChainStatistics,
};

/// Shared by home and all queues of a chain.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) size: u64,
    pub(crate) granule: u64,
    pub(crate) read_only: bool,
    pub(crate) owners: Arc<OwnerMap>,
    /// Base first: a layer's id is its index.
    pub(crate) storages: Vec<Arc<dyn Storage>>,
    /// What they are encrypted with, in the same order.
    pub(crate) keys: Vec<Option<Arc<DiskKey>>>,
    pub(crate) leaf_limits: Limits,
    pub(crate) statistics: ChainStatistics,
    pub(crate) tables: TableClock,
}

impl Shared {
    /// The writable layer.
    pub(crate) fn leaf(&self) -> LayerId {
        LayerId(u16::try_from(self.storages.len() - 1).expect("the number of layers is checked when home is made"))
    }

    pub(crate) fn storage(&self, layer: LayerId) -> &Arc<dyn Storage> {
        &self.storages[layer.index()]
    }

    /// What the bytes of a layer are encrypted with.
    pub(crate) fn key(&self, layer: LayerId) -> Option<&Arc<DiskKey>> {
        self.keys[layer.index()].as_ref()
    }

    /// What encrypts writes to the leaf, for one executor.
    pub(crate) fn sealer(&self) -> Option<Sealer> {
        self.key(self.leaf()).map(Sealer::new)
    }

    /// Whether the storage of the leaf can make zeroes that are zeroes on the disk.
    pub(crate) fn zeroes_fast(&self) -> bool {
        self.leaf_limits.zeroes_fast && self.key(self.leaf()).is_none()
    }

    /// Whether one long write is worth more than a few bytes less to write: on devices and network file systems.
    pub(crate) fn likes_long_runs(&self) -> bool {
        matches!(self.leaf_limits.kind, StorageKind::BlockDevice | StorageKind::NetworkFile)
    }

    /// Whether `piece` has a place in the leaf.
    pub(crate) fn is_in_leaf(&self, piece: &Piece) -> bool {
        matches!(piece.owner, Owner::Data { layer, .. } if layer == self.leaf())
    }
}

/// Whether the leaf's tables have changed since they were last made durable. A durable write in place needs its tables
/// durable as well as its data.
#[derive(Debug)]
pub(crate) struct TableClock {
    changes: AtomicU64,
    durable: AtomicU64,
    /// Changes that have begun. Anybody may see one before it has ended.
    running: AtomicU64,
    /// What a durable write failed with.
    failure: OnceLock<Error>,
}

impl TableClock {
    /// The clock of a chain that was just opened: whoever had it before may have been killed between a change and a
    /// sync.
    pub(crate) fn new() -> TableClock {
        let [changes, durable, running] = [1, 0, 0].map(AtomicU64::new);
        TableClock { changes, durable, running, failure: OnceLock::new() }
    }

    /// A change begins: at any time from now on it may become visible.
    pub(crate) fn begin_change(&self) {
        self.running.fetch_add(1, Ordering::AcqRel);
    }

    /// It has become visible, or has failed.
    pub(crate) fn end_change(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
        self.running.fetch_sub(1, Ordering::AcqRel);
    }

    /// The changes that a sync which begins now makes durable.
    pub(crate) fn now(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// That sync has succeeded.
    pub(crate) fn made_durable(&self, changes: u64) {
        self.durable.fetch_max(changes, Ordering::AcqRel);
    }

    /// A durable write failed. A write is made durable by a sync of its file: when that fails, the kernel has dropped
    /// what it could not write, perhaps bytes of other writes, and tells nobody again. So no flush may succeed any more.
    pub(crate) fn durable_write_failed(&self, error: &Error) {
        if error.kind() == ErrorKind::Io {
            // The first error is the one that counts.
            let _ = self.failure.set(error.clone());
        }
    }

    /// Whether nothing is known to be lost.
    pub(crate) fn check(&self) -> Result<()> {
        self.failure.get().map_or(Ok(()), |error| Err(error.clone()))
    }

    /// Whether all changes that are visible are durable. The order counts: a change that no longer runs is among the
    /// changes.
    pub(crate) fn is_durable(&self) -> bool {
        self.running.load(Ordering::Acquire) == 0
            && self.durable.load(Ordering::Acquire) >= self.changes.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table's change can be seen by a walk before the write that made it has ended, and a flush may end in between.
    #[test]
    fn nothing_is_durable_while_a_table_changes_nor_after_until_a_flush() {
        let clock = TableClock::new();
        clock.made_durable(clock.now());
        assert!(clock.is_durable());
        clock.begin_change();
        assert!(!clock.is_durable());
        clock.made_durable(clock.now());
        assert!(!clock.is_durable(), "that flush may have missed the change");
        let flush_that_began_before_the_end = clock.now();
        clock.end_change();
        clock.made_durable(flush_that_began_before_the_end);
        assert!(!clock.is_durable());
        clock.made_durable(clock.now());
        assert!(clock.is_durable());
    }
}
