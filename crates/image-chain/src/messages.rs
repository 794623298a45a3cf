//! What home and the queues tell each other. Every question carries the place for its answer; an answer that nobody
//! waits for any more is dropped, the work is done all the same.

use block_core::{GuestRange, Result};
use storage_io::{Buffer, ReplyTo};

use crate::{claims::ClaimId, piece::Piece, queue::QueueId};

/// From a queue to home.
pub(crate) enum ToHome {
    /// Who owns the range? The answer covers it from its start to its end.
    Resolve { range: GuestRange, reply: ReplyTo<Result<Vec<Piece>>> },
    /// A write that the queue cannot do in place.
    Write { range: GuestRange, buffer: Buffer, durable: bool, reply: ReplyTo<(Buffer, Result<()>)> },
    /// Discard or write zeroes.
    Clear { range: GuestRange, clear: Clear, reply: ReplyTo<Result<()>> },
    /// Make durable what was answered.
    Flush { reply: ReplyTo<Result<()>> },
    /// The queue starts nothing any more; forget it when what it started has ended.
    Leave { queue: QueueId },
}

/// What becomes of a range that is cleared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Clear {
    /// The content no longer matters; what a parent holds beneath must not come to light.
    Discard,
    /// It reads as zeroes.
    Zero {
        /// Its room may be given back.
        may_free: bool,
        /// Answer only when it would survive a loss of power.
        durable: bool,
    },
}

/// From home to a queue. The order counts: a release follows its claim.
pub(crate) enum ToQueue {
    /// Start no write that overlaps; answer when those that run have ended.
    Claim { id: ClaimId, range: GuestRange, held: ReplyTo<()> },
    /// The claim has ended.
    Release { id: ClaimId },
    /// Answer when every request that runs now has ended.
    Fence { passed: ReplyTo<()> },
}
