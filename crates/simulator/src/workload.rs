//! Random work: what a guest might ask for, chosen so that requests meet.

use block_core::{GuestOffset, GuestRange, Operation, SECTOR};

use crate::random::Random;

/// How often each kind of operation is drawn, in relation to the others.
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
    /// Write zeroes.
    pub zeroes: u64,
    /// Discards.
    pub discards: u64,
    /// Flushes.
    pub flushes: u64,
    /// Questions about extents.
    pub extents: u64,
    /// One in so many writes is durable by itself.
    pub durable_one_in: u64,
    /// One in so many ranges has ends inside a sector.
    pub unaligned_one_in: u64,
}

impl Mix {
    /// Everything.
    pub const EVERYTHING: Mix = Mix {
        reads: 24,
        writes: 40,
        zeroes: 10,
        discards: 10,
        flushes: 8,
        extents: 8,
        durable_one_in: 8,
        unaligned_one_in: 8,
    };

    /// What changes tables most: allocation, freeing, allocation again, and rarely a flush.
    pub const CHURN: Mix = Mix {
        reads: 0,
        writes: 60,
        zeroes: 10,
        discards: 25,
        flushes: 3,
        extents: 0,
        durable_one_in: 16,
        unaligned_one_in: 16,
    };
}

/// Draws operations on a disk.
#[derive(Clone, Debug)]
pub struct Workload {
    random: Random,
    disk_bytes: u64,
    block_bytes: u64,
    mix: Mix,
    /// Blocks that most operations go to, so that they meet; they move.
    busy: Vec<u64>,
}

/// How many blocks are busy at a time.
const BUSY_BLOCKS: u64 = 4;

impl Workload {
    /// Operations on a disk of so many bytes, in blocks of so many.
    pub fn new(mut random: Random, disk_bytes: u64, block_bytes: u64, mix: Mix) -> Self {
        let busy = (0..BUSY_BLOCKS).map(|_| random.below(disk_bytes / block_bytes)).collect();
        Workload { random, disk_bytes, block_bytes, mix, busy }
    }

    /// The next operation. Buffers are left to whoever carries it out.
    pub fn next_operation(&mut self) -> Operation<()> {
        let Mix { reads, writes, zeroes, discards, flushes, extents, durable_one_in, .. } = self.mix;
        let mut drawn = self.random.below(reads + writes + zeroes + discards + flushes + extents);
        let mut is = |share: u64| {
            let hit = drawn < share;
            drawn = drawn.wrapping_sub(share);
            hit
        };
        if is(reads) {
            return Operation::Read { range: self.range(), buffer: () };
        }
        if is(writes) {
            return Operation::Write { range: self.range(), buffer: (), durable: self.random.once_in(durable_one_in) };
        }
        if is(zeroes) {
            let (may_free, fast_only) = (self.random.once_in(2), false);
            let durable = self.random.once_in(durable_one_in);
            return Operation::WriteZeroes { range: self.range_for_clearing(), may_free, fast_only, durable };
        }
        if is(discards) {
            return Operation::Discard { range: self.range_for_clearing(), durable: false };
        }
        if is(extents) {
            return Operation::Extents { range: self.range(), first_only: self.random.once_in(2) };
        }
        Operation::Flush
    }

    fn block(&mut self) -> u64 {
        let block = self.random.below(self.disk_bytes / self.block_bytes);
        let place = usize::try_from(self.random.below(BUSY_BLOCKS)).expect("a few blocks are busy");
        if self.random.once_in(32) {
            self.busy[place] = block;
        }
        if self.random.once_in(4) { block } else { self.busy[place] }
    }

    /// Discards and zeroes often take a block whole, since that is what frees it.
    fn range_for_clearing(&mut self) -> GuestRange {
        if self.random.once_in(2) { self.blocks() } else { self.range() }
    }

    fn blocks(&mut self) -> GuestRange {
        let count = 1 + self.random.below(2);
        let start = self.block() * self.block_bytes;
        self.clipped(start, count * self.block_bytes)
    }

    fn range(&mut self) -> GuestRange {
        if self.random.once_in(12) {
            return self.blocks();
        }
        // At the edges of a block are its first and last sectors, and its neighbours.
        let sectors = self.block_bytes / SECTOR;
        let inside = match self.random.below(4) {
            0 => 0,
            1 => sectors - 1 - self.random.below(4),
            _ => self.random.below(sectors),
        };
        let start = self.block() * self.block_bytes + inside * SECTOR;
        let count = if self.random.once_in(4) { 1 + self.random.below(24) } else { 1 + self.random.below(4) };
        if self.random.once_in(self.mix.unaligned_one_in) {
            let (shift, length) = (self.random.below(SECTOR), 1 + self.random.below(count * SECTOR));
            return self.clipped(start + shift, length);
        }
        self.clipped(start, count * SECTOR)
    }

    fn clipped(&self, start: u64, length: u64) -> GuestRange {
        let start = start.min(self.disk_bytes - 1);
        GuestRange::new(GuestOffset::new(start), length.min(self.disk_bytes - start))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_draws_the_same_work_and_all_of_it_lies_on_the_disk() {
        let workload = || Workload::new(Random::new(5), 1 << 20, 16 << 10, Mix::EVERYTHING);
        let (mut one, mut two) = (workload(), workload());
        let mut kinds = std::collections::BTreeSet::new();
        for _ in 0..2000 {
            let operation = one.next_operation();
            assert_eq!(format!("{operation:?}"), format!("{:?}", two.next_operation()));
            let end = operation.range().map_or(0, |range| range.end().get());
            assert!(end <= 1 << 20, "{operation:?}");
            assert!(operation.range().is_none_or(|range| !range.is_empty()));
            kinds.insert(format!("{operation:?}").split([' ', '{']).next().unwrap().to_owned());
        }
        assert_eq!(kinds.len(), 6);
    }
}
