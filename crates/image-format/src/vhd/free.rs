//! Giving blocks back: the table first, then the room.
//!
//! ```text
//!   batmap bit durably clear -> entry cleared -> sync -> (old readers end) -> room emptied -> handed out again
//! ```
//!
//! A reader believes a set bit of the batmap without reading the bitmap, so no bit may outlive its block. The first
//! block that is freed clears the whole batmap on the storage; closing the image writes it anew. The others then cost
//! nothing for it.

use std::rc::Rc;

use block_core::{Error, FileRange, GuestRange, Result, ResultExt};
use storage_io::{Executor, StorageExt};

use super::image::Sparse;
use super::tables::FreeBegin;
use crate::promise::uninterrupted;
use crate::{Bitmap, Freed};

impl Sparse {
    pub(super) async fn free(self: &Rc<Self>, executor: &Executor, granule: GuestRange) -> Result<Option<Freed>> {
        self.check_writable()?;
        let shape = self.metadata.shape();
        let block = self.block_of(granule);
        let whole = (block as u64 * shape.data_bytes(), (block as u64 + 1) * shape.data_bytes());
        let whole = (whole.0, whole.1.min(self.metadata.disk_bytes()));
        assert_eq!((granule.start().get(), granule.end().get()), whole, "whole blocks are freed");
        let (sparse, ours) = (self.clone(), executor.clone());
        let room = uninterrupted(executor, async move { sparse.free_block(&ours, block).await }).await?;
        Ok(room.map(|room| Freed { granule, room }))
    }

    async fn free_block(self: &Rc<Self>, executor: &Executor, block: usize) -> Result<Option<FileRange>> {
        let start = loop {
            let begin = self.tables.borrow_mut().begin_free(block);
            match begin {
                FreeBegin::Nothing => return Ok(None),
                FreeBegin::Wait(idle) => idle.await,
                FreeBegin::Begun(start) => break start,
            }
        };
        let cleared = self.clear_tables(executor, block).await;
        self.tables.borrow_mut().end_free(block);
        cleared?;
        self.syncer.sync(executor).await?;
        Ok(Some(self.metadata.shape().range_at(start)))
    }

    async fn clear_tables(self: &Rc<Self>, executor: &Executor, block: usize) -> Result<()> {
        self.clear_batmap(executor).await.context("clearing the batmap")?;
        self.clear_entry(executor, block).await
    }

    /// Ends when no reader can find a set bit in the batmap. A batmap torn by a power cut has a wrong checksum, and
    /// nobody believes it.
    async fn clear_batmap(&self, executor: &Executor) -> Result<()> {
        let Some((header, map)) = self.cleared_batmap() else { return Ok(()) };
        self.storage.write_bytes(executor, header.map_range().start(), &map).await?;
        self.storage.write_bytes(executor, header.header_range().start(), header.as_bytes()).await?;
        self.syncer.sync(executor).await?;
        if let Some(batmap) = &mut *self.batmap.borrow_mut() {
            batmap.bits = Bitmap::new(batmap.bits.bits());
            (batmap.header, batmap.is_valid) = (header, true);
        }
        Ok(())
    }

    fn cleared_batmap(&self) -> Option<(super::BatmapHeader, Vec<u8>)> {
        let batmap = self.batmap.borrow();
        let batmap = batmap.as_ref().filter(|batmap| batmap.is_valid && !batmap.bits.is_empty())?;
        let map = vec![0; self.batmap_bytes()];
        Some((batmap.header.clone().with_map(&map, self.metadata.disk_bytes()), map))
    }

    pub(super) async fn release(self: &Rc<Self>, executor: &Executor, freed: Freed) -> Result<()> {
        let (sparse, ours) = (self.clone(), executor.clone());
        uninterrupted(executor, async move { sparse.give_up(&ours, freed.room).await }).await
    }

    /// Gives the storage the room, and the room to whoever needs a block. It is emptied again before it is handed out,
    /// so a storage that cannot take it back does no harm.
    pub(super) async fn give_up(&self, executor: &Executor, room: FileRange) -> Result<()> {
        let given = if self.is_device() {
            self.storage.discard(executor, room).await
        } else {
            self.storage.write_zeroes(executor, room, true).await
        };
        self.room.borrow_mut().give_back(room.start());
        given.or_else(|error: Error| match error.kind() {
            block_core::ErrorKind::Unsupported => Ok(()),
            _ => Err(error),
        })
    }
}
