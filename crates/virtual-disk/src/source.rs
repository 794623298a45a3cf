//! What the disk needs from an export: requests in, answers out.

use std::task::{Context, Poll};

use block_core::Tag;
use storage_io::Buffer;

use crate::Geometry;

/// One thing asked of a disk.
pub type Request = block_core::Request<Buffer>;
/// What a request asks.
pub type Operation = block_core::Operation<Buffer>;
/// How a request ended.
pub type Outcome = block_core::Outcome<Buffer>;

/// An export's side of a queue. Exports implement it; the disk never learns who asks.
///
/// A source gives out a request only when all its bytes are there and within its own budget of requests and memory:
/// that budget is what bounds the disk's work. Tags are unique among its requests that wait for an answer.
pub trait RequestSource {
    /// The next request; `None` when the source has ended and there will never be another. While the disk is paused,
    /// nobody asks.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Request>>;

    /// Asked instead while the disk is paused: whether the other side has gone, so that there will never be another
    /// request. Those that it has not handed out yet may be lost. For sources that cannot tell, it never has.
    fn poll_gone(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }

    /// The end of the request `tag`: exactly once for each request, in any order. It may only be collected until
    /// [`publish`](Self::publish). It never comes for requests that storage still held when the disk was closed by force.
    /// Afterwards the source is asked for its next request, so it needs to wake nobody for one that waited for an answer.
    fn answer(&mut self, tag: Tag, outcome: Outcome);

    /// Makes the collected answers visible; called after each batch of them, and once the source has ended whenever its
    /// waker is woken: for answers that it could not show at once.
    fn publish(&mut self);

    /// Whether it has nothing to ask, and says so before it asks again: then it does not count as a writer any more.
    fn rests(&self) -> bool {
        false
    }

    /// The disk has another size than when this source was last asked. Called before it is asked again.
    fn resized(&mut self, _geometry: &Geometry) {}
}
