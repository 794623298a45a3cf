//! Discard and write zeroes, under a claim.
//!
//! ```text
//!                              the leaf has it                      only a parent has it    nobody has it
//!  whole granule, nothing
//!  beneath it in a parent      free: table, fence, then the room    (does not occur)        nothing to do
//!
//!  whole granule that the
//!  leaf has in part            punch or zero its place              a place of its own,     nothing to do
//!                                                                   zeroed
//!  anything else               punch or zero its place              discard: leave it       nothing to do
//!                                                                   zeroes: a place of its
//!                                                                   own, zeroed
//! ```
//!
//! Where the leaf is encrypted, a sector of zeroes is stored as other bytes: "zeroed" is written like data then. What is only
//! discarded is emptied all the same: sectors of stored zeroes read as zeroes.
//!
//! A discard never frees a granule over a parent's data: the parent would come to light.

use std::rc::Rc;

use block_core::{FileRange, GuestOffset, GuestRange, Result, SECTOR};
use futures_util::{StreamExt, future::join_all, stream};
use image_format::{Format, Lookup, Mapping, WritePlan};
use storage_io::{Buffer, StorageOperation};

use crate::{chain::Chain, messages::Clear, piece::Owner, transfer::bytes, walk::walk};

/// Granules of one request that are worked on at a time.
const GRANULES_AT_ONCE: usize = 64;
/// Bytes that are claimed at a time: writes to the rest of a long range go on meanwhile.
const CLAIM_BYTES_MAX: u64 = 1 << 30;

/// Where zeroes are written like data: so many bytes in one write, and so many writes at a time.
const ZEROES_BYTES: u64 = 256 << 10;
const ZEROES_AT_ONCE: usize = 8;

/// What is left to do for a granule once its tables have been asked.
#[derive(Default)]
struct Work {
    /// Places in the leaf that must be emptied.
    places: Vec<FileRange>,
    /// New places over a parent's data, which become visible when they are zeroed.
    plans: Vec<(GuestRange, WritePlan)>,
    /// What is written like data.
    zeroes: Vec<GuestRange>,
}

impl<F: Format + 'static> Chain<F> {
    /// The content of the range no longer matters. Sectors that it covers in part are left alone.
    pub(crate) async fn discard(self: &Rc<Self>, range: GuestRange) -> Result<()> {
        self.check_writable()?;
        match whole_sectors(range) {
            Some(whole) => self.clear(whole, Clear::Discard).await,
            None => Ok(()),
        }
    }

    /// The range reads as zeroes.
    pub(crate) async fn write_zeroes(self: &Rc<Self>, range: GuestRange, may_free: bool, durable: bool) -> Result<()> {
        self.check_writable()?;
        match whole_sectors(range) {
            Some(whole) => {
                let (head, tail) = around(range, whole);
                self.write_short_zeroes(head).await?;
                self.clear(whole, Clear::Zero { may_free, durable }).await?;
                self.write_short_zeroes(tail).await?;
            }
            None => self.write_short_zeroes(range).await?,
        }
        if durable { self.flush().await } else { Ok(()) }
    }

    /// Zeroes less than a sector, or a few bytes on both sides of a sector's edge.
    async fn write_short_zeroes(self: &Rc<Self>, range: GuestRange) -> Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        self.write(range, Buffer::zeroed(bytes(range)), false).await.1
    }

    async fn clear(self: &Rc<Self>, range: GuestRange, clear: Clear) -> Result<()> {
        for part in range.granules(CLAIM_BYTES_MAX.max(self.leaf().granule())) {
            self.clear_claimed(part, clear).await?;
        }
        Ok(())
    }

    async fn clear_claimed(self: &Rc<Self>, range: GuestRange, clear: Clear) -> Result<()> {
        let _claim = self.claiming.claim(range).await;
        let parts = stream::iter(range.granules(self.leaf().granule()));
        let works = parts.map(|part| self.clear_tables(part, clear)).buffered(GRANULES_AT_ONCE);
        let works: Vec<Result<Work>> = works.collect().await;
        let mut all = Work::default();
        for work in works {
            let work = work?;
            all.plans.extend(work.plans);
            all.zeroes.extend(work.zeroes);
            work.places.into_iter().for_each(|place| push_place(&mut all.places, place));
        }
        self.write_zeroed(all.zeroes).await?;
        self.empty(all.places, clear).await?;
        let commits = all.plans.into_iter().map(|(range, plan)| self.commit_filled(range, plan));
        join_all(commits).await.into_iter().collect()
    }

    /// Frees the granule if it may go as a whole; otherwise finds what must be emptied in place.
    async fn clear_tables(self: &Rc<Self>, part: GuestRange, clear: Clear) -> Result<Work> {
        let extents = self.leaf_extents(part).await?;
        let is_in_leaf = extents.iter().any(|(_, mapping)| matches!(mapping, Mapping::Data { .. }));
        let may_free = !matches!(clear, Clear::Zero { may_free: false, .. });
        let is_whole = self.is_whole_granule(part);
        if is_in_leaf && may_free && is_whole && !self.is_in_parents(part).await? && self.free(part).await? {
            return Ok(Work::default());
        }
        // A granule of the leaf that is discarded as a whole is the leaf's as a whole: half of it zero and half of it the
        // parent's is nothing that its owner ever wrote.
        let hides_parents = clear != Clear::Discard || is_in_leaf && is_whole;
        let has_stored_zeroes = clear != Clear::Discard && self.sealer.is_some();
        let mut work = Work::default();
        for (range, mapping) in extents {
            match mapping {
                Mapping::Data { .. } if has_stored_zeroes => work.zeroes.push(range),
                Mapping::Parent if has_stored_zeroes => {
                    if self.is_in_parents(range).await? {
                        work.zeroes.push(range);
                    }
                }
                Mapping::Data { offset } => push_place(&mut work.places, FileRange::new(offset, range.length())),
                Mapping::Parent if hides_parents && self.is_in_parents(range).await? => {
                    let plan = self.leaf().plan_write(&self.executor, range).await?;
                    push_place(&mut work.places, FileRange::new(plan.offset, range.length()));
                    work.plans.push((range, plan));
                }
                Mapping::Parent | Mapping::Zero => {}
            }
        }
        Ok(work)
    }

    /// Writes zeroes as data, within the claim.
    async fn write_zeroed(&self, ranges: Vec<GuestRange>) -> Result<()> {
        let parts = ranges.into_iter().flat_map(|range| range.granules(ZEROES_BYTES));
        let writes = parts.map(|part| async move { self.write_sectors(part, Buffer::zeroed(bytes(part))).await.1 });
        let ended: Vec<Result<()>> = stream::iter(writes).buffer_unordered(ZEROES_AT_ONCE).collect().await;
        ended.into_iter().collect()
    }

    /// What the leaf itself says of a range.
    async fn leaf_extents(&self, range: GuestRange) -> Result<Vec<(GuestRange, Mapping)>> {
        let mut extents = Vec::new();
        let mut rest = range;
        while !rest.is_empty() {
            match self.leaf().map(rest) {
                Lookup::Miss(miss) => self.leaf().load(&self.executor, miss).await?,
                Lookup::Found(extent) => {
                    extents.push((extent.range, extent.mapping));
                    rest = rest.split_at(extent.range.length()).1;
                }
            }
        }
        Ok(extents)
    }

    /// The last granule of a disk may be shorter than the others.
    fn is_whole_granule(&self, part: GuestRange) -> bool {
        let granule = self.leaf().granule();
        part.start().is_aligned(granule) && (part.length() == granule || part.end().get() == self.shared.size)
    }

    /// Whether a parent has data for any of the range.
    async fn is_in_parents(&self, range: GuestRange) -> Result<bool> {
        let parents = &self.layers[..self.layers.len() - 1];
        let pieces = walk(&self.executor, parents, range).await?;
        Ok(pieces.iter().any(|piece| matches!(piece.owner, Owner::Data { .. })))
    }

    /// Takes a granule out of the leaf; its room follows when nobody uses it any more. Whether the format did.
    async fn free(self: &Rc<Self>, granule: GuestRange) -> Result<bool> {
        let freed = self.leaf().free(&self.executor, granule).await;
        // After the tables, since a walk may have met the old ones meanwhile; also when they failed half way.
        self.forget(granule);
        if freed.is_err() {
            // Perhaps the storage has had the granule out of its table for a while, and not durably in it again.
            self.shared.tables.begin_change();
            self.shared.tables.end_change();
        }
        let freed = freed?;
        let is_free = freed.is_some();
        freed.into_iter().for_each(|freed| self.reclaim(freed));
        Ok(is_free)
    }

    /// Empties places of the leaf, all at once.
    async fn empty(&self, places: Vec<FileRange>, clear: Clear) -> Result<()> {
        let storage = self.leaf().storage();
        let operation = |range| match clear {
            // Without parents the content may become anything; above parents it must not look like theirs.
            Clear::Discard if self.layers.len() == 1 => StorageOperation::Discard(range),
            Clear::Discard => StorageOperation::WriteZeroes { range, may_free: true },
            Clear::Zero { may_free, .. } => StorageOperation::WriteZeroes { range, may_free },
        };
        let is_needless = clear == Clear::Discard && !storage.limits().discards && self.layers.len() == 1;
        if is_needless {
            return Ok(());
        }
        let started: Vec<_> =
            places.into_iter().map(|place| storage.submit(&self.executor, operation(place), None)).collect();
        join_all(started).await.into_iter().try_for_each(|completion| completion.result)
    }
}

/// The whole sectors of a range, if there are any.
fn whole_sectors(range: GuestRange) -> Option<GuestRange> {
    let start = range.start().get().next_multiple_of(SECTOR);
    let end = range.end().align_down(SECTOR).get();
    (start < end).then(|| GuestRange::new(GuestOffset::new(start), end - start))
}

/// What of `range` lies in front of and behind `whole`.
fn around(range: GuestRange, whole: GuestRange) -> (GuestRange, GuestRange) {
    let head = range.split_at(whole.start() - range.start()).0;
    let tail = range.split_at(whole.end() - range.start()).1;
    (head, tail)
}

/// Appends a place, joined with the last one where it continues it.
fn push_place(places: &mut Vec<FileRange>, place: FileRange) {
    match places.last_mut() {
        Some(last) if last.end() == place.start() => {
            *last = FileRange::new(last.start(), last.length() + place.length());
        }
        _ => places.push(place),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, length: u64) -> GuestRange {
        GuestRange::new(GuestOffset::new(start), length)
    }

    #[test]
    fn a_range_is_cut_at_whole_sectors() {
        assert_eq!(whole_sectors(range(100, 300)), None);
        assert_eq!(whole_sectors(range(100, 512)), None);
        assert_eq!(whole_sectors(range(100, 1000)), Some(range(512, 512)));
        assert_eq!(around(range(100, 1000), range(512, 512)), (range(100, 412), range(1024, 76)));
        assert_eq!(whole_sectors(range(512, 1024)), Some(range(512, 1024)));
    }
}
