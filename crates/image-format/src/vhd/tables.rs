//! The block allocation table and the bitmaps in memory, and who is changing what. No I/O.
//!
//! ```text
//!   absent --room--> making --entry is on the storage--> there --entry is cleared on the storage--> absent
//!                      |  ^
//!                      +--+ more writers join; when all have failed or gone away the room is given back
//! ```
//!
//! What `map` sees changes only after the storage has it. What has been asked for but is not written yet waits in
//! queues, one for each bitmap and one for each sector of the table, so that no two writes of one sector are ever in
//! flight: later changes ride on the next one.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;

use block_core::{FileOffset, Result, SECTOR};

use super::BlockShape;
use super::layout::UNUSED_ENTRY;
use super::stale::Stale;
use crate::Bitmap;
use crate::promise::Promise;

/// Records of blocks that are kept though nobody works on them: about 3 MiB of bitmaps.
const RECORDS_KEPT: usize = 4096;

/// What is known of all blocks.
pub(super) struct Tables {
    /// The table as the storage has it.
    entries: Vec<u32>,
    /// Blocks that are known to have every sector.
    full: Bitmap,
    /// Blocks whose sectors that are not present are zero on the storage, durably: those that were made since the image
    /// was opened, and those that were cleaned.
    clean: Bitmap,
    records: BTreeMap<usize, Record>,
    /// The blocks with records, oldest first.
    order: VecDeque<usize>,
    freeing: BTreeMap<usize, Promise<()>>,
    /// Sectors of the table that are being written, and what waits for the next write of them.
    sectors: BTreeMap<usize, Vec<EntryRider>>,
    /// Sectors of the table that could be neither written nor restored: the storage may have either content.
    suspect_sectors: BTreeSet<usize>,
    /// Blocks whose bitmap could be neither written nor restored.
    suspect_bitmaps: BTreeSet<usize>,
    /// Sectors where a write that failed may have left its bytes.
    stale: Stale,
}

/// A block that has a bitmap in memory or somebody working on it.
struct Record {
    start: FileOffset,
    stage: Stage,
    presence: Presence,
    /// The sectors of writes that were planned and have neither been committed nor dropped; they may overlap.
    plans: Vec<Range<usize>>,
    bits: Vec<BitsRider>,
    bits_are_written: bool,
    /// Resolved when the sectors that are not present have been zeroed, or could not be.
    cleaning: Option<Promise<()>>,
    /// Resolved when nobody works on the block any more.
    idle: Option<Promise<()>>,
}

enum Stage {
    Making {
        /// Whether the storage may have the entry: then this room stays with this block.
        is_touched: bool,
        /// The write of the entry that is under way.
        publishing: Option<Promise<Result<()>>>,
    },
    There,
}

enum Presence {
    Loading(Promise<Result<()>>),
    Some(Bitmap),
    All,
}

/// A change of a bitmap that waits for the next write of it.
pub(super) struct BitsRider {
    sectors: Range<usize>,
    pub(super) done: Promise<Result<()>>,
}

/// A change of an entry (or none: the sector is to be written as it is) that waits for the next write of its sector.
pub(super) struct EntryRider {
    change: Option<(usize, u32)>,
    pub(super) done: Promise<Result<()>>,
}

/// What is known of a block.
pub(super) enum Whereabouts<'tables> {
    Absent,
    Full(FileOffset),
    Partial(FileOffset, &'tables Bitmap),
    NotLoaded,
}

/// How planning a write begins.
pub(super) enum PlanBegin {
    /// It has a place in the block that begins there.
    Planned(FileOffset),
    Load,
    /// An earlier writer, or a write that failed, may have left bytes where these sectors of the block that begins there
    /// are not present. The caller zeroes them, then calls `end_cleaning`.
    Clean(FileOffset, Vec<Range<usize>>),
    /// The block needs room.
    Absent,
    Wait(Promise<()>),
}

/// How loading a bitmap begins.
pub(super) enum LoadBegin {
    Nothing,
    Wait(Promise<Result<()>>),
    /// The caller reads the bitmap of the block that begins there, then calls `end_load`.
    Read(FileOffset, Promise<Result<()>>),
}

/// How freeing a block begins.
pub(super) enum FreeBegin {
    Nothing,
    Wait(Promise<()>),
    /// The block that begins there is the caller's until `end_free`.
    Begun(FileOffset),
}

/// A rider, and whether the caller must start the writer.
pub(super) type Ride = (Promise<Result<()>>, bool);

impl Tables {
    /// Tables as the storage has them; `full` may have set bits for blocks that are absent.
    pub(super) fn new(entries: Vec<u32>, mut full: Bitmap) -> Self {
        assert_eq!(entries.len(), full.bits(), "each block has an entry and a bit");
        for (block, &entry) in entries.iter().enumerate() {
            if entry == UNUSED_ENTRY {
                full.clear(block);
            }
        }
        Self {
            clean: Bitmap::new(entries.len()),
            entries,
            full,
            records: BTreeMap::new(),
            order: VecDeque::new(),
            freeing: BTreeMap::new(),
            sectors: BTreeMap::new(),
            suspect_sectors: BTreeSet::new(),
            suspect_bitmaps: BTreeSet::new(),
            stale: Stale::default(),
        }
    }

    /// Where a block begins, if the table on the storage has it.
    pub(super) fn start_of(&self, block: usize) -> Option<FileOffset> {
        let entry = self.entries[block];
        (entry != UNUSED_ENTRY).then(|| FileOffset::new(u64::from(entry) * SECTOR))
    }

    /// Where all blocks of the table begin, in the order of the disk.
    pub(super) fn starts(&self) -> impl Iterator<Item = FileOffset> + '_ {
        (0..self.entries.len()).filter_map(|block| self.start_of(block))
    }

    /// How many blocks the table has.
    pub(super) fn allocated(&self) -> usize {
        self.entries.iter().filter(|&&entry| entry != UNUSED_ENTRY).count()
    }

    /// Blocks from `block` on that are absent, at most up to `end`.
    pub(super) fn absent_until(&self, block: usize, end: usize) -> usize {
        (block..end).find(|&block| self.entries[block] != UNUSED_ENTRY).unwrap_or(end)
    }

    /// The blocks that are known to have every sector.
    pub(super) fn full(&self) -> &Bitmap {
        &self.full
    }

    pub(super) fn whereabouts(&self, block: usize) -> Whereabouts<'_> {
        let Some(start) = self.start_of(block) else { return Whereabouts::Absent };
        if self.full.get(block) {
            return Whereabouts::Full(start);
        }
        match self.records.get(&block).map(|record| &record.presence) {
            Some(Presence::Some(bitmap)) => Whereabouts::Partial(start, bitmap),
            Some(Presence::All) => Whereabouts::Full(start),
            Some(Presence::Loading(_)) | None => Whereabouts::NotLoaded,
        }
    }

    /// Counts a plan for sectors of the block, if they have a place.
    pub(super) fn begin_plan(&mut self, block: usize, sectors: Range<usize>) -> PlanBegin {
        if let Some(freed) = self.freeing.get(&block) {
            return PlanBegin::Wait(freed.clone());
        }
        if !self.records.contains_key(&block) {
            match self.start_of(block) {
                None => return PlanBegin::Absent,
                Some(_) if !self.full.get(block) => return PlanBegin::Load,
                Some(start) => self.insert(block, Record::new(start, Stage::There, Presence::All)),
            }
        }
        let is_clean = self.clean.get(block);
        let stale = self.stale.within(block, sectors.clone());
        let record = self.record(block);
        match &record.presence {
            Presence::Loading(_) => return PlanBegin::Load,
            Presence::Some(bitmap) if !bitmap.has_all(sectors.clone()) && (!is_clean || !stale.is_empty()) => {
                if let Some(cleaning) = &record.cleaning {
                    return PlanBegin::Wait(cleaning.clone());
                }
                // In a clean block others may write to sectors that are not present: only our own are zeroed.
                let runs = if is_clean { stale } else { absent_runs(bitmap) };
                record.cleaning = Some(Promise::new());
                return PlanBegin::Clean(record.start, runs);
            }
            Presence::Some(_) | Presence::All => {}
        }
        record.plans.push(sectors);
        PlanBegin::Planned(record.start)
    }

    /// These sectors are zero, durably, and were all that had to be; or they could not be zeroed. Gives back the room of a
    /// block that nobody makes any more.
    pub(super) fn end_cleaning(&mut self, block: usize, runs: &[Range<usize>], is_clean: bool) -> Option<FileOffset> {
        if is_clean {
            self.clean.set(block);
            self.stale.remove(block, runs);
        }
        let cleaning = self.record(block).cleaning.take();
        let unmade = self.unmake(block);
        self.settle(block);
        cleaning.expect("cleaning the block was begun").resolve(());
        unmade
    }

    /// Gives an absent block the empty room at `start`.
    pub(super) fn begin_block(&mut self, block: usize, start: FileOffset, shape: BlockShape) {
        assert!(self.start_of(block).is_none() && !self.records.contains_key(&block), "block {block} is absent");
        let stage = Stage::Making { is_touched: false, publishing: None };
        let empty = Presence::Some(Bitmap::new(shape.sectors()));
        self.insert(block, Record::new(start, stage, empty));
        self.clean.set(block);
    }

    /// A plan has ended. Gives back the room of a block that nobody makes any more.
    pub(super) fn end_plan(&mut self, block: usize, sectors: &Range<usize>) -> Option<FileOffset> {
        let plans = &mut self.record(block).plans;
        let index = plans.iter().position(|plan| plan == sectors);
        plans.swap_remove(index.expect("a plan that was begun ends once"));
        let unmade = self.unmake(block);
        self.settle(block);
        unmade
    }

    /// A plan has ended without its sectors being marked present: its bytes may be there.
    pub(super) fn abandon_plan(&mut self, block: usize, sectors: &Range<usize>) -> Option<FileOffset> {
        let plans = &self.record(block).plans;
        let own = plans.iter().position(|plan| plan == sectors);
        let others: Vec<Range<usize>> =
            plans.iter().enumerate().filter(|(index, _)| Some(*index) != own).map(|(_, plan)| plan.clone()).collect();
        self.make_stale(block, sectors.clone(), others);
        self.end_plan(block, sectors)
    }

    /// A write to these sectors failed. Where `others` write as well, what becomes of them decides.
    fn make_stale(&mut self, block: usize, sectors: Range<usize>, others: Vec<Range<usize>>) {
        if let Presence::Some(present) = &self.record(block).presence {
            let mut decided = present.clone();
            others.into_iter().for_each(|other| decided.set_range(other));
            self.stale.add(block, sectors, &decided);
        }
    }

    /// Gives back the room of a block in the making, if nobody makes it any more and the storage does not know of it.
    fn unmake(&mut self, block: usize) -> Option<FileOffset> {
        let record = self.record(block);
        let is_worked_on = !record.plans.is_empty() || record.cleaning.is_some();
        if is_worked_on || !matches!(record.stage, Stage::Making { is_touched: false, .. }) {
            return None;
        }
        let mut record = self.records.remove(&block).expect("the record was just looked at");
        record.tell_idle();
        self.stale.forget(block);
        Some(record.start)
    }

    pub(super) fn begin_load(&mut self, block: usize) -> LoadBegin {
        let Some(start) = self.start_of(block) else { return LoadBegin::Nothing };
        if self.full.get(block) {
            return LoadBegin::Nothing;
        }
        match self.records.get(&block).map(|record| &record.presence) {
            Some(Presence::Loading(loaded)) => return LoadBegin::Wait(loaded.clone()),
            Some(_) => return LoadBegin::Nothing,
            None => {}
        }
        let loaded = Promise::new();
        self.insert(block, Record::new(start, Stage::There, Presence::Loading(loaded.clone())));
        LoadBegin::Read(start, loaded)
    }

    /// The bitmap was read, or could not be.
    pub(super) fn end_load(&mut self, block: usize, bitmap: Option<Bitmap>) {
        let start = self.start_of(block);
        let record = self.record(block);
        match bitmap {
            // The block was freed while its bitmap was read; what was read says nothing about the next one.
            Some(bitmap) if start == Some(record.start) => record.presence = Presence::of(bitmap),
            _ => {
                let mut record = self.records.remove(&block).expect("the record was just looked at");
                record.tell_idle();
                return;
            }
        }
        if matches!(record.presence, Presence::All) {
            self.full.set(block);
        }
        self.settle(block);
    }

    /// The sectors of a planned write are to be marked present.
    pub(super) fn add_bits(&mut self, block: usize, sectors: Range<usize>) -> Ride {
        let is_suspect = self.suspect_bitmaps.contains(&block);
        let record = self.record(block);
        assert!(matches!(record.stage, Stage::There), "block {block} is in the table before its sectors are marked");
        let is_there = match &record.presence {
            Presence::All => true,
            Presence::Some(bitmap) => bitmap.has_all(sectors.clone()) && !is_suspect,
            Presence::Loading(_) => unreachable!("a write is planned after its bitmap was loaded"),
        };
        if is_there {
            return (Promise::known(Ok(())), false);
        }
        let done = Promise::new();
        record.bits.push(BitsRider { sectors, done: done.clone() });
        (done, !std::mem::replace(&mut record.bits_are_written, true))
    }

    /// What to write to a bitmap next, and for whom; `None`: nothing, the writer ends.
    pub(super) fn next_bits(&mut self, block: usize) -> Option<(FileOffset, Bitmap, Vec<BitsRider>)> {
        let record = self.record(block);
        let riders = std::mem::take(&mut record.bits);
        if riders.is_empty() {
            record.bits_are_written = false;
            self.settle(block);
            return None;
        }
        let mut bitmap = match &record.presence {
            Presence::Some(bitmap) => bitmap.clone(),
            Presence::All => unreachable!("a full bitmap has only riders that came before it was full"),
            Presence::Loading(_) => unreachable!("a write is planned after its bitmap was loaded"),
        };
        for rider in &riders {
            bitmap.set_range(rider.sectors.clone());
        }
        Some((record.start, bitmap, riders))
    }

    /// The bitmap of a block that somebody writes, as the storage has it.
    pub(super) fn bits_of(&self, block: usize) -> &Bitmap {
        match self.records.get(&block).map(|record| &record.presence) {
            Some(Presence::Some(bitmap)) => bitmap,
            _ => unreachable!("the bitmap that is written is in memory, and is not full"),
        }
    }

    /// The bitmap is on the storage. Riders that came meanwhile may find that they have nothing left to ask for.
    pub(super) fn bits_written(&mut self, block: usize, bitmap: Bitmap) -> Vec<BitsRider> {
        self.suspect_bitmaps.remove(&block);
        let record = self.record(block);
        record.presence = Presence::of(bitmap);
        if !matches!(record.presence, Presence::All) {
            return Vec::new();
        }
        let satisfied = std::mem::take(&mut record.bits);
        self.full.set(block);
        satisfied
    }

    /// The bitmap could not be written. If it could not be restored either, the storage may have any part of it.
    pub(super) fn bits_not_written(&mut self, block: usize, riders: &[BitsRider], is_restored: bool) {
        for rider in riders {
            // Whoever still waits for its rider is among the plans, and ends its plan when it hears of this.
            let plans = self.record(block).plans.clone();
            self.make_stale(block, rider.sectors.clone(), plans);
        }
        if is_restored {
            self.suspect_bitmaps.remove(&block);
        } else {
            self.suspect_bitmaps.insert(block);
        }
    }

    /// The entry of a block in the making is to be written; nothing to do for one that is there.
    pub(super) fn add_entry(&mut self, block: usize, sector: usize) -> Ride {
        let record = self.record(block);
        let done = Promise::new();
        match &mut record.stage {
            Stage::There => return (Promise::known(Ok(())), false),
            Stage::Making { publishing: Some(publishing), .. } => return (publishing.clone(), false),
            Stage::Making { publishing, is_touched } => {
                *publishing = Some(done.clone());
                *is_touched = true;
            }
        }
        let entry = BlockShape::entry_for(record.start);
        let is_first = self.ride(sector, EntryRider { change: Some((block, entry)), done: done.clone() });
        (done, is_first)
    }

    /// The entry of a block that is being freed is to be cleared.
    pub(super) fn clear_entry(&mut self, block: usize, sector: usize) -> Ride {
        let done = Promise::new();
        let is_first = self.ride(sector, EntryRider { change: Some((block, UNUSED_ENTRY)), done: done.clone() });
        (done, is_first)
    }

    /// A sector of the table is to be written as it is in memory.
    pub(super) fn rewrite_sector(&mut self, sector: usize) -> Ride {
        let done = Promise::new();
        let is_first = self.ride(sector, EntryRider { change: None, done: done.clone() });
        (done, is_first)
    }

    fn ride(&mut self, sector: usize, rider: EntryRider) -> bool {
        let is_first = !self.sectors.contains_key(&sector);
        self.sectors.entry(sector).or_default().push(rider);
        is_first
    }

    /// Who rides on the next write of a sector of the table; `None`: nobody, the writer ends.
    pub(super) fn next_riders(&mut self, sector: usize) -> Option<Vec<EntryRider>> {
        let riders =
            std::mem::take(self.sectors.get_mut(&sector).expect("the writer of a sector is the one that ends it"));
        if riders.is_empty() {
            self.sectors.remove(&sector);
            return None;
        }
        Some(riders)
    }

    /// An entry as the next write of its sector has it.
    pub(super) fn entry_with(&self, block: usize, riders: &[EntryRider]) -> u32 {
        let mut changes = riders.iter().rev().filter_map(|rider| rider.change);
        changes.find(|(changed, _)| *changed == block).map_or(self.entries[block], |(_, entry)| entry)
    }

    /// The write of a sector of the table ended; `is_known`: with it or without, the storage has what memory has. Gives
    /// back the room of blocks that nobody makes any more.
    pub(super) fn sector_written(
        &mut self,
        sector: usize,
        riders: &[EntryRider],
        is_written: bool,
        is_known: bool,
    ) -> Vec<FileOffset> {
        if is_known {
            self.suspect_sectors.remove(&sector);
        } else {
            self.suspect_sectors.insert(sector);
        }
        let mut unmade = Vec::new();
        for (block, entry) in riders.iter().filter_map(|rider| rider.change) {
            if entry == UNUSED_ENTRY {
                if is_written {
                    self.entries[block] = UNUSED_ENTRY;
                    self.full.clear(block);
                    self.clean.clear(block);
                    self.stale.forget(block);
                }
                continue;
            }
            let record = self.record(block);
            if is_written {
                record.stage = Stage::There;
                self.entries[block] = entry;
            } else {
                record.stage = Stage::Making { is_touched: !is_known, publishing: None };
            }
            unmade.extend(self.unmake(block));
            self.settle(block);
        }
        unmade
    }

    /// A sector of the table whose content on the storage is not known.
    pub(super) fn suspect_sector(&self) -> Option<usize> {
        self.suspect_sectors.first().copied()
    }

    /// A block whose bitmap on the storage is not known.
    pub(super) fn suspect_bitmap(&self) -> Option<usize> {
        self.suspect_bitmaps.first().copied()
    }

    pub(super) fn begin_free(&mut self, block: usize) -> FreeBegin {
        if let Some(freed) = self.freeing.get(&block) {
            return FreeBegin::Wait(freed.clone());
        }
        if let Some(record) = self.records.get_mut(&block)
            && !record.is_idle()
        {
            return FreeBegin::Wait(record.idle.get_or_insert_with(Promise::new).clone());
        }
        // A block in the making that nobody works on is not visible: there is nothing to free.
        let Some(start) = self.start_of(block) else { return FreeBegin::Nothing };
        self.freeing.insert(block, Promise::new());
        FreeBegin::Begun(start)
    }

    /// The block is free, or (the entry could not be cleared) as it was.
    pub(super) fn end_free(&mut self, block: usize) {
        if self.start_of(block).is_none() && self.records.get(&block).is_some_and(Record::is_idle) {
            self.records.remove(&block);
            self.suspect_bitmaps.remove(&block);
        }
        self.freeing.remove(&block).expect("freeing the block was begun").resolve(());
    }

    /// Something that must end before the image is closed.
    pub(super) fn busy(&mut self) -> Option<Promise<()>> {
        if let Some(freed) = self.freeing.values().next() {
            return Some(freed.clone());
        }
        let record = self.records.values_mut().find(|record| !record.is_idle())?;
        Some(record.idle.get_or_insert_with(Promise::new).clone())
    }

    fn record(&mut self, block: usize) -> &mut Record {
        self.records.get_mut(&block).expect("whoever works on a block keeps its record")
    }

    fn insert(&mut self, block: usize, record: Record) {
        self.evict();
        self.records.insert(block, record);
        self.order.push_back(block);
    }

    /// Forgets bitmaps that nobody works with, oldest first. Looks at a few only: the bound is about memory, and who
    /// works on a block for long is passed by.
    fn evict(&mut self) {
        const LOOKS: usize = 8;
        for _ in 0..LOOKS {
            if self.order.len() < RECORDS_KEPT {
                return;
            }
            let Some(block) = self.order.pop_front() else { return };
            match self.records.get(&block) {
                Some(record)
                    if !record.is_idle()
                        || !matches!(record.stage, Stage::There)
                        || self.suspect_bitmaps.contains(&block) =>
                {
                    self.order.push_back(block);
                }
                _ => drop(self.records.remove(&block)),
            }
        }
    }

    /// Tells those who wait that nobody works on the block, if so. A full block needs no record.
    fn settle(&mut self, block: usize) {
        let Some(record) = self.records.get_mut(&block).filter(|record| record.is_idle()) else { return };
        record.tell_idle();
        if matches!((&record.stage, &record.presence), (Stage::There, Presence::All)) {
            self.records.remove(&block);
        }
    }
}

impl Record {
    fn new(start: FileOffset, stage: Stage, presence: Presence) -> Self {
        let (plans, bits) = (Vec::new(), Vec::new());
        Self { start, stage, presence, plans, bits, bits_are_written: false, cleaning: None, idle: None }
    }

    fn is_idle(&self) -> bool {
        let is_loading = matches!(self.presence, Presence::Loading(_));
        let is_publishing = matches!(self.stage, Stage::Making { publishing: Some(_), .. });
        let is_cleaning = self.cleaning.is_some();
        self.plans.is_empty() && !self.bits_are_written && !is_loading && !is_publishing && !is_cleaning
    }

    fn tell_idle(&mut self) {
        if let Some(idle) = self.idle.take() {
            idle.resolve(());
        }
    }
}

/// The sectors that a bitmap says are not present, as runs.
fn absent_runs(bitmap: &Bitmap) -> Vec<Range<usize>> {
    let mut runs = Vec::new();
    let mut from = 0;
    while from < bitmap.bits() {
        let (is_present, end) = bitmap.run_from(from, bitmap.bits());
        if !is_present {
            runs.push(from..end);
        }
        from = end;
    }
    runs
}

impl Presence {
    fn of(bitmap: Bitmap) -> Self {
        if bitmap.is_full() { Presence::All } else { Presence::Some(bitmap) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_in_the_making_stays_while_it_is_cleaned() {
        let shape = BlockShape::new(16 << 10).unwrap();
        let start = FileOffset::new(4096);
        let mut tables = Tables::new(vec![UNUSED_ENTRY; 4], Bitmap::new(4));
        tables.begin_block(0, start, shape);
        for sectors in [0..4, 4..8] {
            assert!(matches!(tables.begin_plan(0, sectors), PlanBegin::Planned(_)));
        }
        // One of two fails, and is tried again; while the block is cleaned for it the other fails, too.
        assert_eq!(tables.abandon_plan(0, &(0..4)), None);
        let PlanBegin::Clean(_, runs) = tables.begin_plan(0, 0..4) else { panic!("it is cleaned first") };
        assert_eq!(runs, [Range { start: 0, end: 4 }]);
        assert!(matches!(tables.begin_plan(0, 2..6), PlanBegin::Wait(_)));
        assert_eq!(tables.abandon_plan(0, &(4..8)), None);
        assert_eq!(tables.end_cleaning(0, &runs, true), Some(start), "nobody works on it any more");
        assert!(matches!(tables.begin_plan(0, 0..4), PlanBegin::Absent));
    }
}
