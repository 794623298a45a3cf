//! One thing asked of a disk, and how it ended. `B` is the buffer type of whoever moves bytes; this crate moves none.

use crate::{Error, Extent, GuestRange};

/// Names a request within its source until it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(pub u64);

/// What is asked. Ranges are in bytes and of any alignment.
#[derive(Debug)]
pub enum Operation<B> {
    /// Fill `buffer`, as long as `range`, with the bytes of the disk.
    Read {
        /// Which bytes.
        range: GuestRange,
        /// Where they go.
        buffer: B,
    },
    /// Put `buffer` on the disk.
    Write {
        /// Where.
        range: GuestRange,
        /// The bytes, as many as `range` has.
        buffer: B,
        /// Answer only when the bytes would survive a loss of power (FUA).
        durable: bool,
    },
    /// Make every write that was answered before this request survive a loss of power.
    Flush,
    /// The content of the range no longer matters.
    Discard {
        /// Which bytes.
        range: GuestRange,
        /// Answer only when what was given up would survive a loss of power (FUA).
        durable: bool,
    },
    /// The range must read as zeroes.
    WriteZeroes {
        /// Which bytes.
        range: GuestRange,
        /// Whether the room of the range may be given back.
        may_free: bool,
        /// Fail with `Unsupported` rather than write zeroes byte by byte.
        fast_only: bool,
        /// Answer only when it would survive a loss of power (FUA).
        durable: bool,
    },
    /// The range will be read soon.
    Cache {
        /// Which bytes.
        range: GuestRange,
    },
    /// What the range consists of.
    Extents {
        /// Which bytes.
        range: GuestRange,
        /// Only the first extent is wanted.
        first_only: bool,
    },
}

impl<B> Operation<B> {
    /// The bytes that it is about; a flush is about none.
    pub fn range(&self) -> Option<GuestRange> {
        match self {
            Operation::Flush => None,
            Operation::Read { range, .. }
            | Operation::Write { range, .. }
            | Operation::Discard { range, .. }
            | Operation::WriteZeroes { range, .. }
            | Operation::Cache { range }
            | Operation::Extents { range, .. } => Some(*range),
        }
    }

    /// Whether it may change what the disk holds.
    pub fn changes(&self) -> bool {
        matches!(self, Operation::Write { .. } | Operation::Discard { .. } | Operation::WriteZeroes { .. })
    }
}

/// One thing asked of a disk.
#[derive(Debug)]
pub struct Request<B> {
    /// Its name within its source.
    pub tag: Tag,
    /// What is asked.
    pub operation: Operation<B>,
}

/// How a request ended.
#[derive(Debug)]
pub enum Outcome<B> {
    /// A read; the bytes are in the buffer that came with the request.
    Read(B),
    /// Everything else that succeeded and has nothing to tell.
    Done,
    /// The extents asked for: ascending, without gaps, from the start of the range; they may end before its end or
    /// behind it.
    Extents(Vec<Extent>),
    /// It failed.
    Failed(Error),
}
