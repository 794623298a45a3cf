//! How much a disk has done, by kind of request.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use block_core::SECTOR;

use crate::Operation;

/// The kind of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RequestKind {
    /// Bytes to the client.
    Read,
    /// Bytes to the disk.
    Write,
    /// Earlier writes become durable.
    Flush,
    /// Content no longer matters.
    Discard,
    /// Content must read as zeroes.
    WriteZeroes,
    /// A range will be read soon.
    Cache,
    /// What a range consists of.
    Extents,
}

impl RequestKind {
    /// Every kind.
    pub const ALL: [RequestKind; 7] = [
        RequestKind::Read,
        RequestKind::Write,
        RequestKind::Flush,
        RequestKind::Discard,
        RequestKind::WriteZeroes,
        RequestKind::Cache,
        RequestKind::Extents,
    ];

    pub(crate) fn of(operation: &Operation) -> Self {
        match operation {
            Operation::Read { .. } => RequestKind::Read,
            Operation::Write { .. } => RequestKind::Write,
            Operation::Flush => RequestKind::Flush,
            Operation::Discard { .. } => RequestKind::Discard,
            Operation::WriteZeroes { .. } => RequestKind::WriteZeroes,
            Operation::Cache { .. } => RequestKind::Cache,
            Operation::Extents { .. } => RequestKind::Extents,
        }
    }

    /// Its name in messages and statistics.
    pub const fn name(self) -> &'static str {
        match self {
            RequestKind::Read => "read",
            RequestKind::Write => "write",
            RequestKind::Flush => "flush",
            RequestKind::Discard => "discard",
            RequestKind::WriteZeroes => "write-zeroes",
            RequestKind::Cache => "cache",
            RequestKind::Extents => "extents",
        }
    }
}

/// How much of one kind was done, at some instant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Requests that came, refused ones included.
    pub requests: u64,
    /// Requests that ended.
    pub completed: u64,
    /// Sectors that the requests touched, counted when they came.
    pub sectors: u64,
    /// Requests that ended with an error.
    pub errors: u64,
    /// Time between coming and beginning.
    pub queued_microseconds: u64,
    /// Time between beginning and end.
    pub served_microseconds: u64,
}

#[derive(Debug, Default)]
struct Cell {
    requests: AtomicU64,
    completed: AtomicU64,
    sectors: AtomicU64,
    errors: AtomicU64,
    queued_microseconds: AtomicU64,
    served_microseconds: AtomicU64,
}

/// Counters that queues add to and anybody reads. They only grow, also over close and re-open.
#[derive(Debug, Default)]
pub struct Counters([Cell; RequestKind::ALL.len()]);

impl Counters {
    fn cell(&self, kind: RequestKind) -> &Cell {
        &self.0[kind as usize]
    }

    /// What was done of one kind until now.
    pub fn count(&self, kind: RequestKind) -> Count {
        let cell = self.cell(kind);
        Count {
            requests: cell.requests.load(Relaxed),
            completed: cell.completed.load(Relaxed),
            sectors: cell.sectors.load(Relaxed),
            errors: cell.errors.load(Relaxed),
            queued_microseconds: cell.queued_microseconds.load(Relaxed),
            served_microseconds: cell.served_microseconds.load(Relaxed),
        }
    }

    pub(crate) fn came(&self, kind: RequestKind, sectors: u64) {
        let cell = self.cell(kind);
        cell.requests.fetch_add(1, Relaxed);
        cell.sectors.fetch_add(sectors, Relaxed);
    }

    pub(crate) fn ended(&self, kind: RequestKind, failed: bool, queued: Duration, served: Duration) {
        let cell = self.cell(kind);
        cell.completed.fetch_add(1, Relaxed);
        cell.errors.fetch_add(u64::from(failed), Relaxed);
        cell.queued_microseconds.fetch_add(microseconds(queued), Relaxed);
        cell.served_microseconds.fetch_add(microseconds(served), Relaxed);
    }
}

fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// How many sectors a request touches.
pub(crate) fn sectors_of(operation: &Operation) -> u64 {
    let Some(range) = operation.range().filter(|range| !range.is_empty()) else { return 0 };
    // Without `align_out`: the range may still end anywhere below 2^64.
    range.end().get().div_ceil(SECTOR) - range.start().get() / SECTOR
}

#[cfg(test)]
mod tests {
    use super::*;
    use block_core::GuestRange;

    #[test]
    fn kinds_index_their_counters() {
        for (index, kind) in RequestKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, index);
        }
    }

    #[test]
    fn counts_add_up() {
        let counters = Counters::default();
        counters.came(RequestKind::Write, 8);
        counters.came(RequestKind::Write, 1);
        counters.ended(RequestKind::Write, true, Duration::from_micros(3), Duration::from_micros(40));
        let expected =
            Count { requests: 2, completed: 1, sectors: 9, errors: 1, queued_microseconds: 3, served_microseconds: 40 };
        assert_eq!(counters.count(RequestKind::Write), expected);
        assert_eq!(counters.count(RequestKind::Read), Count::default());
    }

    #[test]
    fn every_touched_sector_counts() {
        let discard = |start, length| Operation::Discard { range: GuestRange::checked(start, length).unwrap() };
        assert_eq!(sectors_of(&discard(511, 2)), 2);
        assert_eq!(sectors_of(&discard(512, 512)), 1);
        assert_eq!(sectors_of(&discard(u64::MAX - 1, 1)), 1);
        assert_eq!(sectors_of(&discard(700, 0)), 0);
        assert_eq!(sectors_of(&Operation::Flush), 0);
    }
}
