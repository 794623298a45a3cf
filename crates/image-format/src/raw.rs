//! Raw: the storage's bytes are the disk's. A last part of a sector is not part of the disk.

use std::sync::Arc;

use block_core::{Error, ErrorKind, FileOffset, GuestRange, Result, SECTOR};
use storage_io::{Executor, Storage, StorageExt, StorageKind};
use uuid::Uuid;

use crate::sync::Syncer;
use crate::{Format, Freed, Lookup, MappedExtent, Mapping, Miss, ParentReference, WritePlan};

/// A raw image has no unit of allocation; this is what others keep books in.
const GRANULE: u64 = 2 << 20;

/// A raw image.
pub struct RawImage {
    storage: Arc<dyn Storage>,
    size: u64,
    syncer: Syncer,
}

impl RawImage {
    /// The whole storage as a disk.
    pub fn new(storage: Arc<dyn Storage>) -> Self {
        let size = storage.length() / SECTOR * SECTOR;
        Self { syncer: Syncer::new(storage.clone()), storage, size }
    }

    /// Makes a file that long, durably. A device is as long as its owner made it.
    pub(crate) async fn grow(executor: &Executor, storage: &Arc<dyn Storage>, bytes: u64) -> Result<()> {
        let length = storage.length();
        if length == bytes {
            return Ok(());
        }
        if length > bytes {
            return Err(Error::new(ErrorKind::Invalid, format!("is {length} bytes long already")));
        }
        if storage.limits().kind == StorageKind::BlockDevice {
            let words = format!("is a device of {length} bytes, which only its owner makes longer");
            return Err(Error::new(ErrorKind::Unsupported, words));
        }
        storage.set_length(executor, bytes).await?;
        storage.sync(executor).await
    }
}

/// The first run of a disk whose bytes lie in order from the start of the storage on.
pub(crate) fn map_in_order(range: GuestRange) -> Lookup {
    let mapping = Mapping::Data { offset: FileOffset::new(range.start().get()) };
    Lookup::Found(MappedExtent { range, mapping })
}

/// The place of bytes that are always in place.
pub(crate) fn plan_in_order(range: GuestRange) -> WritePlan {
    WritePlan { range, offset: FileOffset::new(range.start().get()), lead: None, hold: None }
}

impl Format for RawImage {
    fn size(&self) -> u64 {
        self.size
    }

    fn granule(&self) -> u64 {
        GRANULE
    }

    fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    fn parent(&self) -> Option<ParentReference> {
        None
    }

    fn identity(&self) -> Option<Uuid> {
        None
    }

    fn map(&self, range: GuestRange) -> Lookup {
        map_in_order(range)
    }

    async fn load(&self, _: &Executor, _: Miss) -> Result<()> {
        Ok(())
    }

    async fn plan_write(&self, _: &Executor, range: GuestRange) -> Result<WritePlan> {
        Ok(plan_in_order(range))
    }

    async fn commit(&self, _: &Executor, _: WritePlan) -> Result<()> {
        Ok(())
    }

    async fn free(&self, _: &Executor, _: GuestRange) -> Result<Option<Freed>> {
        Ok(None)
    }

    async fn release(&self, _: &Executor, _: Freed) -> Result<()> {
        Ok(())
    }

    async fn flush(&self, executor: &Executor) -> Result<()> {
        self.syncer.sync(executor).await
    }

    async fn close(&self, executor: &Executor) -> Result<()> {
        if self.storage.limits().read_only { Ok(()) } else { self.flush(executor).await }
    }
}
