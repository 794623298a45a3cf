//! Leaving an image as its next reader expects it: no room behind the last block, a footer at the end, a batmap.
//!
//! The header is never written here: storage managers rewrite it in place while an image is in use. What they may have
//! changed elsewhere (the footer's `hidden`, the batmap's marker) is read again before it is written.

use std::rc::Rc;

use block_core::{FileOffset, Result, ResultExt, SECTOR};
use storage_io::{Executor, StorageExt};

use super::image::Sparse;
use super::layout::{BATMAP_HEADER_BYTES, FOOTER_BYTES};
use super::{BatmapHeader, Footer, UncheckedBatmapHeader, UncheckedFooter, checksummed_batmap_bytes};
use crate::Bitmap;

impl Sparse {
    pub(super) async fn close(self: &Rc<Self>, executor: &Executor) -> Result<()> {
        if !self.is_writable {
            return Ok(());
        }
        self.finish_work(executor).await?;
        // Tables and data first: batmap and length say that they are there.
        self.syncer.sync(executor).await?;
        let has_bad_batmap = self.batmap.borrow().as_ref().is_some_and(|batmap| !batmap.is_valid);
        let is_as_expected = self.room.borrow().has_footer() && self.has_footer_copy && !has_bad_batmap;
        if self.is_changed.get() || !is_as_expected {
            self.give_up_ready_room(executor).await.context("giving up room")?;
            self.write_footers(executor).await.context("writing footers")?;
            self.write_batmap(executor).await.context("writing the batmap")?;
            self.syncer.sync(executor).await?;
        }
        Ok(())
    }

    /// Waits for what is under way and writes again what failed to be written.
    async fn finish_work(self: &Rc<Self>, executor: &Executor) -> Result<()> {
        loop {
            let busy = self.tables.borrow_mut().busy();
            let Some(busy) = busy else { break };
            busy.await;
        }
        let job = self.room.borrow().job();
        if let Some(job) = job {
            // Room that could not be made was nobody's; who waited for it has the error.
            let _ = job.await;
        }
        self.mend(executor).await
    }

    /// Gives the storage the room between blocks that was made for blocks to come. What lies behind them is cut off.
    async fn give_up_ready_room(&self, executor: &Executor) -> Result<()> {
        let starts = self.room.borrow().ready_before(self.end_of_blocks());
        for start in starts {
            self.give_up(executor, self.metadata.shape().range_at(start)).await?;
        }
        Ok(())
    }

    async fn write_footers(&self, executor: &Executor) -> Result<()> {
        let footer = self.footer_now(executor).await;
        if self.is_device() {
            let place = self.storage.length() - FOOTER_BYTES as u64;
            self.storage.write_bytes(executor, FileOffset::new(place), footer.as_bytes()).await?;
        } else {
            self.end_file_at(executor, self.end_of_blocks(), &footer).await?;
        }
        if self.has_footer_copy {
            return Ok(());
        }
        self.storage.write_bytes(executor, FileOffset::new(0), footer.as_bytes()).await
    }

    /// The footer that the image has by now.
    async fn footer_now(&self, executor: &Executor) -> Footer {
        let read = self.storage.read_bytes(executor, FileOffset::new(0), FOOTER_BYTES).await;
        read.and_then(|bytes| UncheckedFooter::parse(&bytes)?.check())
            .ok()
            .filter(|footer| footer.uuid() == self.footer.uuid() && footer.disk_type() == self.footer.disk_type())
            .unwrap_or_else(|| (*self.footer).clone())
    }

    /// The first place behind all blocks of the table and all headers.
    pub(super) fn end_of_blocks(&self) -> FileOffset {
        let shape = self.metadata.shape();
        let last = self.tables.borrow().starts().max();
        let end = last.map_or(FileOffset::new(0), |start| shape.range_at(start).end());
        end.max(self.metadata.end_of_headers())
    }

    async fn write_batmap(&self, executor: &Executor) -> Result<()> {
        let Some((header, bits)) = self.batmap_to_write() else { return Ok(()) };
        let map = bits.to_bytes(self.batmap_bytes());
        let header = self.batmap_header_now(executor, header).await.with_map(&map, self.metadata.disk_bytes());
        self.storage.write_bytes(executor, header.map_range().start(), &map).await?;
        self.storage.write_bytes(executor, header.header_range().start(), header.as_bytes()).await
    }

    /// The batmap, if the storage has another one.
    fn batmap_to_write(&self) -> Option<(BatmapHeader, Bitmap)> {
        let batmap = self.batmap.borrow();
        let batmap = batmap.as_ref()?;
        let tables = self.tables.borrow();
        let is_current = batmap.is_valid && batmap.bits == *tables.full();
        (!is_current).then(|| (batmap.header.clone(), tables.full().clone()))
    }

    /// The batmap's header that the image has by now.
    async fn batmap_header_now(&self, executor: &Executor, ours: BatmapHeader) -> BatmapHeader {
        let place = ours.header_range().start();
        let read = self.storage.read_bytes(executor, place, BATMAP_HEADER_BYTES).await;
        let blocks = self.metadata.blocks() as u64;
        read.and_then(|bytes| UncheckedBatmapHeader::parse(&bytes)?.check(place, blocks, self.metadata.disk_bytes()))
            .ok()
            .filter(|theirs| theirs.map_range() == ours.map_range())
            .unwrap_or(ours)
    }

    /// Bytes of the batmap that are ours to write: all bits, and all that the checksum covers.
    pub(super) fn batmap_bytes(&self) -> usize {
        let bits = (self.metadata.blocks() as u64).div_ceil(8).next_multiple_of(SECTOR);
        let bytes = bits.max(checksummed_batmap_bytes(self.metadata.disk_bytes()));
        usize::try_from(bytes).expect("the number of blocks is bounded when opened")
    }
}
