//! A queue: the disk as one thread uses it. Reads, and writes to bytes that the leaf has already, go straight to the
//! storage on the queue's own executor; everything else is a message to home.
//!
//! ```text
//!   read   register -> owner map --known--> storage
//!                         '--unknown--> home walks, answers with the pieces --> storage
//!   write  register, once no claim has the range -> owner map --all in the leaf--> storage
//!                         '--otherwise--> unregister; home writes, commits, answers
//! ```

use std::{rc::Rc, sync::Arc};

use block_core::{Error, ErrorKind, Extent, GuestRange, Result, SECTOR};
use storage_io::{Buffer, Executor, Receiver, ReplyTo, Sender, reply};

use crate::{
    claims::ClaimId,
    messages::{Clear, ToHome, ToQueue},
    piece::{Piece, extents_of, push_piece},
    registry::{Registry, Ticket},
    sealing::{Sealer, seal},
    shared::Shared,
    statistics::Recorder,
    transfer::{bytes, read_piece, read_pieces, write_piece, write_pieces},
};

/// One question about extents is answered for at most this much of the disk, in units of the owner map.
const EXTENT_UNITS_MAX: usize = 4096;
/// And with at most this many pieces.
const EXTENT_PIECES_MAX: usize = 4096;

/// Names a queue of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct QueueId(pub(crate) u64);

/// A queue that has not started: made at home, sent to the thread that shall run it. It is already asked to respect
/// claims, so it must be started or dropped, not kept.
#[must_use = "a queue that is neither started nor dropped holds up home"]
pub struct QueueSeed {
    pub(crate) id: QueueId,
    pub(crate) shared: Arc<Shared>,
    pub(crate) recorder: Recorder,
    pub(crate) home: Sender<ToHome>,
    pub(crate) mail: Receiver<ToQueue>,
    /// The claims that were held, or asked for, when it was made.
    pub(crate) claims: Vec<(ClaimId, GuestRange)>,
}

impl QueueSeed {
    /// The queue, on the thread of `executor`.
    pub fn start(self, executor: &Executor) -> Queue {
        let registry = Rc::new(Registry::default());
        for (id, range) in self.claims {
            // Whoever made the claim did not ask us: nothing of ours can be in its way.
            let (nobody, _) = reply();
            registry.claim(id, range, nobody);
        }
        executor.spawn(listen(registry.clone(), self.mail)).detach();
        let sealer = self.shared.sealer();
        Queue(Rc::new(Inner {
            id: self.id,
            executor: executor.clone(),
            shared: self.shared,
            recorder: self.recorder,
            registry,
            home: self.home,
            sealer,
        }))
    }
}

impl std::fmt::Debug for QueueSeed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "QueueSeed({})", self.id.0)
    }
}

/// Does what home asks, until home forgets the queue.
async fn listen(registry: Rc<Registry>, mut mail: Receiver<ToQueue>) {
    while let Some(message) = mail.recv().await {
        match message {
            ToQueue::Claim { id, range, held } => registry.claim(id, range, held),
            ToQueue::Release { id } => registry.release(id),
            ToQueue::Fence { passed } => registry.fence(passed),
        }
    }
}

/// The disk as one thread uses it. A handle: clones are the same queue.
///
/// Ranges are of any alignment and lie on the disk. Dropping a future gives up its answer only: what was begun is
/// finished, and the queue counts it as running until then.
#[derive(Clone)]
pub struct Queue(Rc<Inner>);

struct Inner {
    id: QueueId,
    executor: Executor,
    shared: Arc<Shared>,
    recorder: Recorder,
    registry: Rc<Registry>,
    home: Sender<ToHome>,
    /// If the leaf is encrypted.
    sealer: Option<Sealer>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // What it started may still run; home waits for that before it forgets us. If home has gone, so has the need.
        let _ = self.home.send(ToHome::Leave { queue: self.id });
    }
}

impl Queue {
    /// Fills `buffer`, which is as long as `range`.
    pub async fn read(&self, range: GuestRange, buffer: Buffer) -> (Buffer, Result<()>) {
        if let Err(error) = self.check(range, Some(&buffer)) {
            return (buffer, Err(error));
        }
        if range.is_aligned(SECTOR) {
            return self.read_sectors(range, buffer).await;
        }
        Box::pin(self.read_unaligned(range, buffer)).await
    }

    async fn read_unaligned(&self, range: GuestRange, mut buffer: Buffer) -> (Buffer, Result<()>) {
        let whole = range.align_out(SECTOR);
        let (sectors, result) = self.read_sectors(whole, Buffer::zeroed(bytes(whole))).await;
        let mut from = bytes(GuestRange::new(whole.start(), range.start() - whole.start()));
        for segment in buffer.segments_mut() {
            sectors.copy_out(from, segment);
            from += segment.len();
        }
        (buffer, result)
    }

    async fn read_sectors(&self, range: GuestRange, buffer: Buffer) -> (Buffer, Result<()>) {
        let ticket = self.0.registry.begin_read();
        let (first, more) = match self.pieces(range).await {
            Ok(pieces) => pieces,
            Err(error) => return (buffer, Err(error)),
        };
        let parts = (&*self.0.shared, &self.0.recorder);
        match first {
            Some(only) if more.is_empty() => read_piece(&self.0.executor, parts, only, buffer, ticket).await,
            first => {
                let pieces = first.into_iter().chain(more);
                // Apart, so that most requests, which have one piece, carry no room for it.
                Box::pin(read_pieces(&self.0.executor, parts, pieces, buffer, Some(ticket))).await
            }
        }
    }

    /// Writes `buffer`, which is as long as `range`.
    pub async fn write(&self, range: GuestRange, buffer: Buffer, durable: bool) -> (Buffer, Result<()>) {
        if let Err(error) = self.check(range, Some(&buffer)).and_then(|()| self.check_writable()) {
            return (buffer, Err(error));
        }
        if range.is_empty() {
            let result = if durable { self.flush().await } else { Ok(()) };
            return (buffer, result);
        }
        if range.is_aligned(SECTOR) && !self.may_have_lead(range) {
            let ticket = self.0.registry.begin_write(range).await;
            if let Some((first, more)) = self.known_pieces(range, |piece| self.0.shared.is_in_leaf(piece)) {
                return self.write_in_place(first, more, buffer, durable, ticket).await;
            }
        }
        let ask = |reply| ToHome::Write { range, buffer, durable, reply };
        self.ask(ask).await.unwrap_or_else(|error| (Buffer::empty(), Err(error)))
    }

    /// A durable write in place is durable by itself only if the tables that name its place are.
    async fn write_in_place(
        &self,
        first: Piece,
        more: Vec<Piece>,
        buffer: Buffer,
        durable: bool,
        ticket: Rc<Ticket>,
    ) -> (Buffer, Result<()>) {
        let (buffer, kept) = seal(self.0.sealer.as_ref(), first.range.start(), buffer);
        let tables_are_durable = self.0.shared.tables.is_durable();
        let by_itself = durable && tables_are_durable;
        let parts = (&*self.0.shared, &self.0.recorder);
        let (buffer, result) = if more.is_empty() {
            write_piece(&self.0.executor, parts, first, buffer, by_itself, ticket).await
        } else {
            let pieces = std::iter::once(first).chain(more);
            Box::pin(write_pieces(&self.0.executor, parts, pieces, buffer, by_itself, ticket)).await
        };
        let buffer = kept.unwrap_or(buffer);
        match result {
            Ok(()) if durable && !by_itself => (buffer, self.flush().await),
            Err(error) if by_itself => {
                self.0.shared.tables.durable_write_failed(&error);
                (buffer, Err(error))
            }
            result => (buffer, result),
        }
    }

    /// On a device or a network file system a sequential overwrite stays sequential if the gap between two blocks of the
    /// file is rewritten with them; only home knows what is in the gap.
    fn may_have_lead(&self, range: GuestRange) -> bool {
        let granule = self.0.shared.granule;
        let next_start = range.start().get().next_multiple_of(granule);
        self.0.shared.likes_long_runs() && next_start < range.end().get()
    }

    /// Makes every write that was answered before, by any queue, survive a loss of power.
    pub async fn flush(&self) -> Result<()> {
        if self.0.shared.read_only {
            return Ok(());
        }
        self.ask(|reply| ToHome::Flush { reply }).await?
    }

    /// The content of `range` no longer matters.
    pub async fn discard(&self, range: GuestRange) -> Result<()> {
        self.clear(range, Clear::Discard).await
    }

    /// Makes `range` read as zeroes.
    ///
    /// # Errors
    /// `Unsupported` for `fast_only` if the storage would write zeroes byte by byte.
    pub async fn write_zeroes(&self, range: GuestRange, may_free: bool, fast_only: bool, durable: bool) -> Result<()> {
        if fast_only && !self.0.shared.zeroes_fast() {
            return Err(Error::new(ErrorKind::Unsupported, "the storage has no fast way to write zeroes"));
        }
        self.clear(range, Clear::Zero { may_free, durable }).await
    }

    async fn clear(&self, range: GuestRange, clear: Clear) -> Result<()> {
        self.check(range, None)?;
        self.check_writable()?;
        self.ask(|reply| ToHome::Clear { range, clear, reply }).await?
    }

    /// What `range` consists of: ascending extents without gaps, from its start. They may end before its end; with
    /// `first_only` there is one.
    pub async fn extents(&self, range: GuestRange, first_only: bool) -> Result<Vec<Extent>> {
        self.check(range, None)?;
        let whole = range.align_out(SECTOR);
        let mut pieces = Vec::new();
        let mut rest = whole;
        for _ in 0..EXTENT_UNITS_MAX {
            let unit = self.0.shared.owners.unit_at(rest.start());
            let (part, behind) = rest.split_at(unit.end() - rest.start());
            let (first, more) = self.pieces(part).await?;
            first.into_iter().chain(more).for_each(|piece| push_piece(&mut pieces, piece));
            rest = behind;
            let has_enough =
                pieces.len() >= EXTENT_PIECES_MAX || first_only && extents_of(pieces.iter().copied()).len() > 1;
            if rest.is_empty() || has_enough {
                break;
            }
        }
        let mut extents = extents_of(pieces);
        extents.truncate(if first_only { 1 } else { extents.len() });
        extents.retain_mut(|extent| match extent.range.intersection(range) {
            Some(part) => {
                extent.range = part;
                true
            }
            None => false,
        });
        Ok(extents)
    }

    /// `range` will be read soon: makes sure that it is known where it is.
    pub async fn cache(&self, range: GuestRange) -> Result<()> {
        self.check(range, None)?;
        self.pieces(range.align_out(SECTOR)).await.map(|_| ())
    }

    /// The pieces of a range of whole sectors, the first apart, since mostly there is only one.
    async fn pieces(&self, range: GuestRange) -> Result<(Option<Piece>, Vec<Piece>)> {
        if range.is_empty() {
            return Ok((None, Vec::new()));
        }
        if let Some((first, more)) = self.known_pieces(range, |_| true) {
            return Ok((Some(first), more));
        }
        let resolved = self.ask(|reply| ToHome::Resolve { range, reply }).await??;
        let mut pieces = Vec::new();
        resolved.into_iter().for_each(|piece| push_piece(&mut pieces, piece));
        Ok((None, pieces))
    }

    /// The pieces, if the owner map knows them all and all of them suit.
    fn known_pieces(&self, range: GuestRange, suits: impl Fn(&Piece) -> bool) -> Option<(Piece, Vec<Piece>)> {
        let next = |rest: GuestRange| self.0.shared.owners.lookup(rest).filter(&suits);
        let mut first = next(range)?;
        let mut more: Vec<Piece> = Vec::new();
        let mut rest = range.split_at(first.range.length()).1;
        while !rest.is_empty() {
            let piece = next(rest)?;
            rest = rest.split_at(piece.range.length()).1;
            if !more.last_mut().unwrap_or(&mut first).absorb(&piece) {
                more.push(piece);
            }
        }
        Some((first, more))
    }

    /// Sends a question to home and waits for the answer.
    async fn ask<T>(&self, question: impl FnOnce(ReplyTo<T>) -> ToHome) -> Result<T> {
        let (to, answer) = reply();
        let closed = || Error::new(ErrorKind::Closed, "the disk is closed");
        self.0.home.send(question(to)).map_err(|_| closed())?;
        answer.await.ok_or_else(closed)
    }

    /// Sources are checked at the disk's door; this holds the same facts one layer below.
    fn check(&self, range: GuestRange, buffer: Option<&Buffer>) -> Result<()> {
        let fits = buffer.is_none_or(|buffer| buffer.len() as u64 == range.length());
        if range.end().get() > self.0.shared.size || !fits {
            return Err(Error::new(ErrorKind::Invalid, format!("the range {range} is not on the disk")));
        }
        Ok(())
    }

    fn check_writable(&self) -> Result<()> {
        if self.0.shared.read_only { Err(Error::new(ErrorKind::ReadOnly, "the disk is read-only")) } else { Ok(()) }
    }
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Queue({})", self.0.id.0)
    }
}
