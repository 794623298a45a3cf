//! Writes that are not in place, and those of less than a sector.
//!
//! ```text
//!   request      |--------- bytes of the disk ---------|
//!   granules     |---- A ----|---- B ----|---- C ------|
//!   plans        A @ 1000    B @ 2000    C @ 9000           plan each granule
//!   file              [A....][lead][B....]    [C......]     write what lies side by side at once
//!   commit       A, B, C                                    tables last
//!   owner map    A, B, C                                    then visible to the queues
//! ```

use std::rc::Rc;

use block_core::{FileOffset, GuestOffset, GuestRange, Result, SECTOR};
use futures_util::future::join_all;
use image_format::{Format, Lookup, MappedExtent, Mapping, WritePlan};
use storage_io::Buffer;

use crate::{
    chain::Chain,
    sealing::seal,
    statistics::Direction,
    transfer::{Segment, bytes, read_pieces, write_segments},
};

/// What is needed to make a written part visible.
struct Written {
    plan: WritePlan,
    range: GuestRange,
    /// The tables named the place before.
    in_place: bool,
}

impl<F: Format + 'static> Chain<F> {
    /// A write of any alignment, wherever its bytes are now.
    pub(crate) async fn write(
        self: &Rc<Self>,
        range: GuestRange,
        buffer: Buffer,
        durable: bool,
    ) -> (Buffer, Result<()>) {
        if let Err(error) = self.check_writable() {
            return (buffer, Err(error));
        }
        let (buffer, result) = if range.is_aligned(SECTOR) {
            let _ticket = self.registry().begin_write(range).await;
            self.write_sectors(range, buffer).await
        } else {
            let result = self.write_within_sectors(range, &buffer).await;
            (buffer, result)
        };
        match result {
            Ok(()) if durable => {
                let flushed = self.flush().await;
                (buffer, flushed)
            }
            result => (buffer, result),
        }
    }

    /// Reads the sectors that the range covers in part, and writes them whole, as the only writer there.
    async fn write_within_sectors(self: &Rc<Self>, range: GuestRange, buffer: &Buffer) -> Result<()> {
        let whole = range.align_out(SECTOR);
        let _claim = self.claiming.claim(whole).await;
        let mut sectors = Buffer::zeroed(bytes(whole));
        let first = GuestRange::new(whole.start(), SECTOR);
        let last = GuestRange::new(GuestOffset::new(whole.end().get() - SECTOR), SECTOR);
        if !range.contains(first) {
            sectors.copy_in(0, &self.read_sector(first).await?);
        }
        if !range.contains(last) && last != first {
            sectors.copy_in(bytes(whole) - bytes(last), &self.read_sector(last).await?);
        }
        let mut at = bytes(GuestRange::new(whole.start(), range.start() - whole.start()));
        for segment in buffer.segments() {
            sectors.copy_in(at, segment);
            at += segment.len();
        }
        self.write_sectors(whole, sectors).await.1
    }

    async fn read_sector(&self, sector: GuestRange) -> Result<Vec<u8>> {
        let pieces = self.resolve(sector).await?;
        let buffer = Buffer::zeroed(bytes(sector));
        let (buffer, result) = read_pieces(&self.executor, (&self.shared, &self.recorder), pieces, buffer, None).await;
        result.map(|()| buffer.to_vec())
    }

    /// Writes whole sectors; the caller has registered or claimed them.
    pub(super) async fn write_sectors(&self, range: GuestRange, buffer: Buffer) -> (Buffer, Result<()>) {
        let parts: Vec<_> = range.granules(self.leaf().granule()).collect();
        let in_place: Vec<_> = parts.iter().map(|part| self.is_in_place(*part)).collect();
        let plans = join_all(parts.iter().map(|part| self.leaf().plan_write(&self.executor, *part))).await;
        let plans = match plans.into_iter().collect::<Result<Vec<_>>>() {
            Ok(plans) => plans,
            Err(error) => return (buffer, Err(error)),
        };
        let (buffer, kept) = seal(self.sealer.as_ref(), range.start(), buffer);
        let (segments, written) = self.place(buffer, plans, &parts, &in_place);
        let (buffer, result) = write_segments(&self.executor, self.leaf().storage().as_ref(), segments).await;
        let result = match result {
            Ok(()) => join_all(written.into_iter().map(|part| self.commit(part))).await.into_iter().collect(),
            failed => failed,
        };
        self.recorder.count(self.shared.leaf(), Direction::Write, range.length(), result.is_ok());
        (kept.unwrap_or(buffer), result)
    }

    /// Whether the leaf has a visible place for all of `range`, as far as its tables are in memory.
    fn is_in_place(&self, range: GuestRange) -> bool {
        let mut rest = range;
        while !rest.is_empty() {
            match self.leaf().map(rest) {
                Lookup::Found(extent) if matches!(extent.mapping, Mapping::Data { .. }) => {
                    rest = rest.split_at(extent.range.length()).1;
                }
                _ => return false,
            }
        }
        true
    }

    /// Whether a sequential overwrite that comes to `start` at `offset` skips bytes of a file that likes long runs.
    fn is_behind_gap(&self, start: GuestOffset, offset: FileOffset) -> bool {
        if start.get() == 0 || !start.is_aligned(self.leaf().granule()) || !self.shared.likes_long_runs() {
            return false;
        }
        let before = GuestRange::new(GuestOffset::new(start.get() - SECTOR), SECTOR);
        match self.leaf().map(before) {
            Lookup::Found(MappedExtent { mapping: Mapping::Data { offset: last }, .. }) => last + SECTOR != offset,
            _ => false,
        }
    }

    /// Cuts the buffer into the plans' parts, each with its lead in front.
    fn place(
        &self,
        mut buffer: Buffer,
        plans: Vec<WritePlan>,
        parts: &[GuestRange],
        in_place: &[bool],
    ) -> (Vec<Segment>, Vec<Written>) {
        let mut segments = Vec::with_capacity(plans.len());
        let mut written = Vec::with_capacity(plans.len());
        for ((mut plan, range), in_place) in plans.into_iter().zip(parts).zip(in_place) {
            let lead = plan.lead.take();
            if lead.is_some() || *in_place && self.is_behind_gap(range.start(), plan.offset) {
                self.shared.statistics.count_gap(lead.is_some());
            }
            segments.extend(lead.map(|(offset, bytes)| Segment { offset, bytes, is_lead: true }));
            let rest = buffer.split_off(bytes(*range));
            let bytes = std::mem::replace(&mut buffer, rest);
            segments.push(Segment { offset: plan.offset, bytes, is_lead: false });
            written.push(Written { plan, range: *range, in_place: *in_place });
        }
        (segments, written)
    }

    /// Makes what is written visible: in the tables, then in the owner map.
    async fn commit(&self, written: Written) -> Result<()> {
        let Written { plan, range, in_place } = written;
        let offset = plan.offset;
        if !in_place {
            // Who writes there durably must know that the tables may not be durable yet. A walk may meet the place, and
            // make it known to the queues, before this job hears that its tables are written.
            self.shared.tables.begin_change();
        }
        let committed = self.leaf().commit(&self.executor, plan).await;
        if !in_place {
            self.shared.tables.end_change();
        }
        match committed {
            Ok(()) => self.is_now_at(range, offset),
            // The tables may say either; the next walk tells.
            Err(_) => self.forget(range),
        }
        committed
    }

    /// Commits a plan whose place was filled by other means than a write.
    pub(super) async fn commit_filled(&self, range: GuestRange, plan: WritePlan) -> Result<()> {
        self.commit(Written { plan, range, in_place: false }).await
    }
}
