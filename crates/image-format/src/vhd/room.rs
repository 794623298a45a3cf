//! Room for new blocks, made ahead by one job at a time.
//!
//! ```text
//!   file     | blocks | ready | ready | ready | footer |         ready: zero, and durably so
//!   device   | blocks | ready | ready |  ...           | footer |
//! ```
//!
//! A block is then handed out without a sync of its own: whatever a power cut leaves of its data, bitmap and entry, the
//! rest of its room reads as zero. Room behind the last block that an earlier writer left is not trusted: a file is cut
//! there before it grows, a device's room is zeroed.
//!
//! On a file the footer behind the room moves with it, out of a guest's reach: readers that believe the end of a file
//! never find a guest's bytes there.

use std::collections::VecDeque;
use std::rc::Rc;

use block_core::{Error, ErrorKind, FileOffset, FileRange, Result, ResultExt};
use futures_util::future::join_all;
use storage_io::{Executor, StorageExt, StorageKind};

use super::Footer;
use super::create::allocate_or_extend;
use super::image::Sparse;
use super::layout::FOOTER_BYTES;
use super::open::Survey;
use super::write::LEAD_BYTES;
use crate::promise::Promise;

/// Blocks made by the first job; each job makes twice as many as the one before.
const BATCH_FIRST: usize = 4;
/// Blocks made by one job in a file: 64 MiB, which cost no I/O.
const BATCH_FILE_MAX: usize = 32;
/// Blocks made by one job on a device: 16 MiB, which may have to be written.
const BATCH_DEVICE_MAX: usize = 8;

/// What there is.
pub(super) struct Room {
    ready: VecDeque<FileOffset>,
    /// Room that was in use: to be emptied before it is ready.
    used: Vec<FileOffset>,
    /// The end of all blocks, ready ones included.
    tail: FileOffset,
    /// Whether there is nothing but a footer behind the tail (of a file), or a footer at the end (of a device).
    has_footer: bool,
    /// Whether no block reaches into the page in front of another's data.
    has_private_pages: bool,
    batch: usize,
    /// Who waits for a block since the last job began.
    waiting: usize,
    job: Option<Promise<Result<()>>>,
}

impl Room {
    pub(super) fn new(blocks: &Survey, has_footer: bool) -> Self {
        Self {
            ready: VecDeque::new(),
            used: blocks.gaps.clone(),
            tail: blocks.end,
            has_footer,
            has_private_pages: blocks.have_private_pages,
            batch: BATCH_FIRST,
            waiting: 0,
            job: None,
        }
    }

    /// A block's room that nobody uses any more.
    pub(super) fn give_back(&mut self, start: FileOffset) {
        self.used.push(start);
    }

    /// Room that was made and that no block has taken, in front of `end`.
    pub(super) fn ready_before(&self, end: FileOffset) -> Vec<FileOffset> {
        self.ready.iter().copied().filter(|&start| start < end).collect()
    }

    pub(super) fn has_private_pages(&self) -> bool {
        self.has_private_pages
    }

    pub(super) fn has_footer(&self) -> bool {
        self.has_footer
    }

    /// The job that is under way.
    pub(super) fn job(&self) -> Option<Promise<Result<()>>> {
        self.job.clone()
    }

    fn is_low(&self) -> bool {
        self.ready.len() < self.batch / 4
    }
}

impl Sparse {
    pub(super) fn is_device(&self) -> bool {
        self.storage.limits().kind == StorageKind::BlockDevice
    }

    /// Empty room for a block, if there is some.
    pub(super) fn take_room(self: &Rc<Self>, executor: &Executor) -> Option<FileOffset> {
        let start = self.room.borrow_mut().ready.pop_front()?;
        if self.room.borrow().is_low() {
            self.start_job(executor);
        }
        Some(start)
    }

    /// Ends when there may be room again.
    pub(super) async fn wait_for_room(self: &Rc<Self>, executor: &Executor) -> Result<()> {
        self.room.borrow_mut().waiting += 1;
        self.start_job(executor).await
    }

    fn start_job(self: &Rc<Self>, executor: &Executor) -> Promise<Result<()>> {
        let mut room = self.room.borrow_mut();
        if let Some(job) = &room.job {
            return job.clone();
        }
        let done = Promise::new();
        room.job = Some(done.clone());
        let (sparse, ours, to) = (self.clone(), executor.clone(), done.clone());
        executor
            .spawn(async move {
                let result = sparse.make_room(&ours).await.context("making room for a block");
                sparse.room.borrow_mut().job = None;
                to.resolve(result);
            })
            .detach();
        done
    }

    async fn make_room(&self, executor: &Executor) -> Result<()> {
        self.is_changed.set(true);
        let max = if self.is_device() { BATCH_DEVICE_MAX } else { BATCH_FILE_MAX };
        let (count, used) = {
            let mut room = self.room.borrow_mut();
            let count = room.batch.max(std::mem::take(&mut room.waiting)).min(max);
            room.batch = (room.batch * 2).min(max);
            let kept = room.used.len().saturating_sub(count);
            (count, room.used.split_off(kept))
        };
        if !used.is_empty() {
            return self.empty_used(executor, used).await;
        }
        match self.extend(executor, count).await {
            // Perhaps there is still room for the one that somebody waits for.
            Err(error) if error.kind() == ErrorKind::NoSpace && count > 1 => self.extend(executor, 1).await,
            result => result,
        }
    }

    async fn empty_used(&self, executor: &Executor, starts: Vec<FileOffset>) -> Result<()> {
        let emptied = all_ended(starts.iter().map(|&start| self.empty_block(executor, start))).await;
        let result = match emptied {
            Ok(()) => self.syncer.sync(executor).await,
            Err(error) => Err(error),
        };
        let mut room = self.room.borrow_mut();
        match result {
            Ok(()) => room.ready.extend(starts),
            Err(_) => room.used.extend(starts),
        }
        result
    }

    async fn empty_block(&self, executor: &Executor, start: FileOffset) -> Result<()> {
        let range = self.metadata.shape().range_at(start);
        self.storage.write_zeroes(executor, range, !self.is_device()).await?;
        // Writing into holes costs twice as much as writing into room that was set aside.
        if self.is_device() { Ok(()) } else { allocate_or_extend(executor, &self.storage, range).await }
    }

    async fn extend(&self, executor: &Executor, count: usize) -> Result<()> {
        let (tail, had_footer) = (self.room.borrow().tail, self.room.borrow().has_footer);
        let starts = self.places_behind(tail, count)?;
        let end = starts.last().map_or(tail, |&start| self.metadata.shape().range_at(start).end());
        let extended = if self.is_device() {
            self.extend_on_device(executor, &starts, had_footer).await
        } else {
            self.extend_file(executor, &starts, tail, end, had_footer).await
        };
        extended?;
        let mut room = self.room.borrow_mut();
        let is_first = tail == self.metadata.end_of_headers();
        let gap = LEAD_BYTES - self.metadata.shape().bitmap_bytes();
        room.has_private_pages &= is_first || starts[0].get() >= tail.get() + gap;
        room.has_footer = true;
        room.tail = end;
        room.ready.extend(starts);
        Ok(())
    }

    /// Where the next blocks go: `count` of them, or as many as fit, at least one.
    fn places_behind(&self, tail: FileOffset, count: usize) -> Result<Vec<FileOffset>> {
        let shape = self.metadata.shape();
        let device_end = self.storage.length().saturating_sub(FOOTER_BYTES as u64);
        let mut end = tail;
        let mut starts = Vec::new();
        while starts.len() < count {
            match shape.place_behind(end) {
                Ok(start) if !self.is_device() || shape.range_at(start).end().get() <= device_end => starts.push(start),
                Ok(_) if starts.is_empty() => {
                    return Err(Error::new(ErrorKind::NoSpace, "the device has no room before its footer"));
                }
                Err(error) if starts.is_empty() => return Err(error),
                _ => break,
            }
            end = shape.range_at(starts[starts.len() - 1]).end();
        }
        Ok(starts)
    }

    async fn extend_on_device(&self, executor: &Executor, starts: &[FileOffset], had_footer: bool) -> Result<()> {
        all_ended(starts.iter().map(|&start| self.empty_block(executor, start))).await?;
        if !had_footer {
            self.write_end_footer(executor).await?;
        }
        self.syncer.sync(executor).await
    }

    async fn extend_file(
        &self,
        executor: &Executor,
        starts: &[FileOffset],
        tail: FileOffset,
        end: FileOffset,
        had_footer: bool,
    ) -> Result<()> {
        self.room.borrow_mut().has_footer = false;
        let grown = self.grow_file(executor, starts, tail, end, had_footer).await;
        if grown.is_err() {
            // The error is what counts; if the old end cannot be restored, the next attempt or closing will try.
            let restored = self.end_file_at(executor, tail, &self.footer).await;
            self.room.borrow_mut().has_footer = restored.is_ok();
        }
        grown
    }

    async fn grow_file(
        &self,
        executor: &Executor,
        starts: &[FileOffset],
        tail: FileOffset,
        end: FileOffset,
        had_footer: bool,
    ) -> Result<()> {
        if !had_footer {
            // What lies behind is cut off, since nobody vouches for it; but never so that a guest's bytes are the end.
            self.end_file_at(executor, tail, &self.footer).await?;
        }
        // First the footer, so that the file ends with one at every instant; then what lies in front of it. The old
        // footer may lie on the first bitmap; and a bitmap that was written costs less to write again.
        self.storage.write_bytes(executor, end, self.footer.as_bytes()).await?;
        allocate_or_extend(executor, &self.storage, FileRange::new(tail, end - tail)).await?;
        let empty = vec![0; usize::try_from(self.metadata.shape().bitmap_bytes()).expect("a few sectors")];
        all_ended(starts.iter().map(|&start| self.storage.write_bytes(executor, start, &empty))).await?;
        self.syncer.sync(executor).await
    }

    /// Makes a file end at `end`, with a footer behind. A power cut that keeps the cut must find the footer there.
    pub(super) async fn end_file_at(&self, executor: &Executor, end: FileOffset, footer: &Footer) -> Result<()> {
        self.storage.write_bytes(executor, end, footer.as_bytes()).await?;
        let length = end.get() + FOOTER_BYTES as u64;
        if self.storage.length() == length {
            return Ok(());
        }
        self.syncer.sync(executor).await?;
        self.storage.set_length(executor, length).await
    }

    /// Writes the footer of a device.
    pub(super) async fn write_end_footer(&self, executor: &Executor) -> Result<()> {
        let place = self.storage.length() - FOOTER_BYTES as u64;
        self.storage.write_bytes(executor, FileOffset::new(place), self.footer.as_bytes()).await
    }
}

/// Waits for all, also when one fails: whoever goes on must not meet a write that is still on its way. The first error
/// counts.
async fn all_ended(operations: impl Iterator<Item = impl Future<Output = Result<()>>>) -> Result<()> {
    join_all(operations).await.into_iter().collect()
}
