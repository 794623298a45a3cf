//! What a request is, for everything that counts requests.

use std::fmt;

use block_core::SECTOR;

use crate::Operation;

/// The kind of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
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

impl fmt::Display for RequestKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
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
    fn every_touched_sector_counts() {
        let discard =
            |start, length| Operation::Discard { range: GuestRange::checked(start, length).unwrap(), durable: false };
        assert_eq!(sectors_of(&discard(511, 2)), 2);
        assert_eq!(sectors_of(&discard(512, 512)), 1);
        assert_eq!(sectors_of(&discard(u64::MAX - 1, 1)), 1);
        assert_eq!(sectors_of(&discard(700, 0)), 0);
        assert_eq!(sectors_of(&Operation::Flush), 0);
    }
}
