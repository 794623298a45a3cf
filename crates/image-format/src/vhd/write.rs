//! A place for new bytes, and making them visible.
//!
//! ```text
//!   plan      room for the block, if it has none: empty, durably so (see `room`); if an earlier writer made the block,
//!             its sectors that are not present are emptied first, once; so are those where a write has failed
//!   (data)    the caller writes it
//!   commit    sector of the table, if the block is new; then bitmap sector; visible when both are written
//! ```
//!
//! No sync lies between the three. A power cut leaves any of them: without the entry the block is absent and its room
//! is emptied before anybody gets it; with the entry and without the bits the sectors are the parent's; with both and
//! without the data the sectors, new in this image, are zero, since the room was. A killed process leaves whole what
//! was answered: the answer waits for both tables. The entry comes first, so that one that cannot be written leaves no
//! bits that would come to light with the next.
//!
//! A write that fails leaves its bytes where they are, in sectors that are not present: see `stale`. When a write of a
//! table fails, nobody knows what of it the storage has. What is told to have failed must not come to light later, over
//! what was written or zeroed since: before anybody is told, the storage gets again what it had. If that fails too, the
//! place is *suspect*, and written again before the next flush.

use std::cell::Cell;
use std::ops::Range;
use std::rc::Rc;

use block_core::{FileOffset, FileRange, GuestRange, Result, ResultExt, SECTOR};
use futures_util::{StreamExt, stream};
use storage_io::{Buffer, Executor, StorageExt, StorageKind};

use super::image::Sparse;
use super::layout::all_ones;
use super::tables::{EntryRider, PlanBegin, Ride};
use crate::WritePlan;
use crate::promise::uninterrupted;

/// What is written in front of a full block's data on storages that like long runs: a page that ends with its bitmap.
pub(super) const LEAD_BYTES: u64 = 4096;

/// Runs of one block that are zeroed at a time.
const ZEROINGS_AT_ONCE: usize = 16;

/// A planned write: keeps its block in the making, or from being freed.
struct PlannedBlock {
    sparse: Rc<Sparse>,
    block: usize,
    sectors: Range<usize>,
    /// Its sectors are marked present, or that is under way.
    is_marked: Cell<bool>,
}

impl Drop for PlannedBlock {
    fn drop(&mut self) {
        let mut tables = self.sparse.tables.borrow_mut();
        let given_back = match self.is_marked.get() {
            true => tables.end_plan(self.block, &self.sectors),
            false => tables.abandon_plan(self.block, &self.sectors),
        };
        drop(tables);
        if let Some(start) = given_back {
            self.sparse.room.borrow_mut().give_back(start);
        }
    }
}

impl Sparse {
    pub(super) async fn plan_write(self: &Rc<Self>, executor: &Executor, range: GuestRange) -> Result<WritePlan> {
        self.check_writable()?;
        assert!(
            range.end().get() <= self.metadata.disk_bytes() && range.is_aligned(512),
            "{range} is whole sectors of the disk"
        );
        let block = self.block_of(range);
        loop {
            let begin = self.tables.borrow_mut().begin_plan(block, self.metadata.shape().sectors_of(range));
            match begin {
                PlanBegin::Planned(start) => return Ok(self.plan_in(start, block, range)),
                PlanBegin::Load => self.load(executor, block).await?,
                PlanBegin::Clean(start, runs) => {
                    let (sparse, ours) = (self.clone(), executor.clone());
                    uninterrupted(executor, async move { sparse.clean(&ours, block, start, runs).await }).await?;
                }
                PlanBegin::Wait(freed) => freed.await,
                PlanBegin::Absent => match self.take_room(executor) {
                    Some(start) => self.tables.borrow_mut().begin_block(block, start, self.metadata.shape()),
                    // Whoever else waits may make this very block: look again.
                    None => self.wait_for_room(executor).await?,
                },
            }
        }
    }

    /// Zeroes, durably, sectors of a block that are not present. A writer that lost power, or a write that failed, may have
    /// left data there without its bits; a later bit that survives without its own data would bring it to light.
    async fn clean(&self, executor: &Executor, block: usize, start: FileOffset, runs: Vec<Range<usize>>) -> Result<()> {
        let data = start + self.metadata.shape().bitmap_bytes();
        let zeroings = stream::iter(runs.iter().cloned()).map(|run| {
            let range = FileRange::new(data + run.start as u64 * SECTOR, run.len() as u64 * SECTOR);
            self.storage.write_zeroes(executor, range, !self.is_device())
        });
        // All have ended, also when one has failed: one that is still on its way would fall on what is written next.
        let zeroed: Vec<Result<()>> = zeroings.buffer_unordered(ZEROINGS_AT_ONCE).collect().await;
        let result = match zeroed.into_iter().collect() {
            Ok(()) => self.syncer.sync(executor).await,
            Err(error) => Err(error),
        };
        let unmade = self.tables.borrow_mut().end_cleaning(block, &runs, result.is_ok());
        if let Some(start) = unmade {
            self.room.borrow_mut().give_back(start);
        }
        result.context("zeroing what an earlier writer may have left")
    }

    fn plan_in(self: &Rc<Self>, start: FileOffset, block: usize, range: GuestRange) -> WritePlan {
        let shape = self.metadata.shape();
        let sectors = shape.sectors_of(range);
        let offset = start + shape.bitmap_bytes() + sectors.start as u64 * 512;
        let lead = self.lead_of(start, block, &sectors);
        let hold = Rc::new(PlannedBlock { sparse: self.clone(), block, sectors, is_marked: Cell::new(false) });
        WritePlan { range, offset, lead, hold: Some(hold) }
    }

    /// Blocks of a device or a network file lie one behind the other but for a bitmap and a gap. A sequential overwrite
    /// that skips them is many runs; writing what is there anyway makes it one.
    fn lead_of(&self, start: FileOffset, block: usize, sectors: &Range<usize>) -> Option<(FileOffset, Buffer)> {
        let likes_long_runs = matches!(self.storage.limits().kind, StorageKind::BlockDevice | StorageKind::NetworkFile);
        let is_full = self.tables.borrow().full().get(block);
        if sectors.start != 0 || !likes_long_runs || !is_full || !self.room.borrow().has_private_pages() {
            return None;
        }
        let gap = LEAD_BYTES - self.metadata.shape().bitmap_bytes();
        let page_start = start.get().checked_sub(gap).filter(|&page| page >= self.metadata.end_of_headers().get())?;
        let mut page = Buffer::zeroed(usize::try_from(gap).expect("less than a page"));
        page.append(Buffer::from_bytes(&all_ones(self.metadata.shape())));
        Some((FileOffset::new(page_start), page))
    }

    pub(super) async fn commit(self: &Rc<Self>, executor: &Executor, plan: WritePlan) -> Result<()> {
        let planned = plan.hold.and_then(|hold| hold.downcast::<PlannedBlock>().ok());
        let planned = planned.expect("a plan goes back to the image that made it");
        self.write_entry(executor, planned.block).await?;
        planned.is_marked.set(true);
        let marked = self.write_bits(executor, planned.block, planned.sectors.clone()).await;
        planned.is_marked.set(marked.is_ok());
        marked
    }

    /// Ends when the sectors are marked present on the storage.
    fn write_bits(
        self: &Rc<Self>,
        executor: &Executor,
        block: usize,
        sectors: Range<usize>,
    ) -> impl Future<Output = Result<()>> + use<> {
        let (done, is_first) = self.tables.borrow_mut().add_bits(block, sectors);
        if is_first {
            self.is_changed.set(true);
            executor.spawn(self.clone().write_bitmaps(executor.clone(), block)).detach();
        }
        done
    }

    /// Writes the bitmap of a block until nobody asks for more. A task of its own: who asked may go away.
    async fn write_bitmaps(self: Rc<Self>, executor: Executor, block: usize) {
        let length = usize::try_from(self.metadata.shape().bitmap_bytes()).expect("a few sectors");
        loop {
            let next = self.tables.borrow_mut().next_bits(block);
            let Some((start, bitmap, mut riders)) = next else { return };
            let result = self.storage.write_bytes(&executor, start, &bitmap.to_bytes(length)).await;
            if result.is_ok() {
                riders.extend(self.tables.borrow_mut().bits_written(block, bitmap));
            } else {
                let before = self.tables.borrow().bits_of(block).to_bytes(length);
                let is_restored = self.storage.write_bytes(&executor, start, &before).await.is_ok();
                self.tables.borrow_mut().bits_not_written(block, &riders, is_restored);
            }
            riders.into_iter().for_each(|rider| rider.done.resolve(result.clone()));
        }
    }

    /// Ends when the block is in the table on the storage.
    fn write_entry(self: &Rc<Self>, executor: &Executor, block: usize) -> impl Future<Output = Result<()>> + use<> {
        let sector = self.metadata.table_sector_of(block);
        let ride = self.tables.borrow_mut().add_entry(block, sector);
        self.start_table_writer(executor, sector, ride)
    }

    /// Ends when the block is out of the table on the storage.
    pub(super) fn clear_entry(
        self: &Rc<Self>,
        executor: &Executor,
        block: usize,
    ) -> impl Future<Output = Result<()>> + use<> {
        let sector = self.metadata.table_sector_of(block);
        let ride = self.tables.borrow_mut().clear_entry(block, sector);
        self.start_table_writer(executor, sector, ride)
    }

    /// Ends when the storage has a sector of the table as it is in memory.
    pub(super) fn rewrite_table_sector(
        self: &Rc<Self>,
        executor: &Executor,
        sector: usize,
    ) -> impl Future<Output = Result<()>> + use<> {
        let ride = self.tables.borrow_mut().rewrite_sector(sector);
        self.start_table_writer(executor, sector, ride)
    }

    fn start_table_writer(
        self: &Rc<Self>,
        executor: &Executor,
        sector: usize,
        (done, is_first): Ride,
    ) -> impl Future<Output = Result<()>> + use<> {
        if is_first {
            self.is_changed.set(true);
            executor.spawn(self.clone().write_table_sector(executor.clone(), sector)).detach();
        }
        done
    }

    /// Writes a sector of the table until nobody asks for more.
    async fn write_table_sector(self: Rc<Self>, executor: Executor, sector: usize) {
        loop {
            let next = self.tables.borrow_mut().next_riders(sector);
            let Some(riders) = next else { return };
            let bytes_with = |riders: &[EntryRider]| {
                let tables = self.tables.borrow();
                self.metadata.table_sector(sector, |block| tables.entry_with(block, riders))
            };
            let (place, bytes) = bytes_with(&riders);
            let result = self.storage.write_bytes(&executor, place, &bytes).await;
            let is_known = match &result {
                Ok(()) => true,
                Err(_) => self.storage.write_bytes(&executor, place, &bytes_with(&[]).1).await.is_ok(),
            };
            let unmade = self.tables.borrow_mut().sector_written(sector, &riders, result.is_ok(), is_known);
            unmade.into_iter().for_each(|start| self.room.borrow_mut().give_back(start));
            riders.into_iter().for_each(|rider| rider.done.resolve(result.clone()));
        }
    }

    /// Ends when the storage has the tables as they are in memory, also those of which nobody knew.
    pub(super) async fn mend(self: &Rc<Self>, executor: &Executor) -> Result<()> {
        loop {
            let suspect = self.tables.borrow().suspect_sector();
            let Some(sector) = suspect else { break };
            self.rewrite_table_sector(executor, sector).await.context("writing the table again")?;
        }
        loop {
            let suspect = self.tables.borrow().suspect_bitmap();
            let Some(block) = suspect else { return Ok(()) };
            // Marks no sector: the bitmap is written as it is.
            self.write_bits(executor, block, 0..0).await.context("writing a bitmap again")?;
        }
    }
}
