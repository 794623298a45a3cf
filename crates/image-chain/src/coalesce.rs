//! Coalesce: what an image holds goes into its parent, which then reads like both.
//!
//! ```text
//!   child    granules that it has, a few at a time --> runs of sectors --+
//!                                                                        | shared, copied or read and written
//!   parent   plan: a place <---------------------------------------------+
//!            commit: table, bitmap
//! ```
//!
//! The parent is written as a guest would write it, so that whatever ends this, at any instant, leaves an image as a killed
//! writer leaves it: valid, and with every sector either as it was or as the child has it. Since the child hides what it
//! holds, nobody who reads through it sees a difference, also not who read the parent's tables long ago. Done again, it
//! gives the same.
//!
//! What the child says is zero without having it on disk is not written: a hole stays a hole.

use std::cell::Cell;

use block_core::{Error, ErrorKind, FileOffset, FileRange, GuestOffset, GuestRange, Result, SECTOR};
use futures_util::{StreamExt, stream};
use image_format::{Format, Image, Lookup, Mapping, WritePlan, vhd::DiskKey};
use storage_io::{Buffer, BufferPool, Executor, Shortcut, StorageExt, StorageOperation};

/// Granules that are moved at a time: up to 16 MiB for VHD.
const GRANULES_AT_ONCE: usize = 8;
/// Runs of one granule that are moved at a time.
const RUNS_AT_ONCE: usize = 32;
/// Shorter runs are read without asking whether they are holes, and written without asking for a shortcut.
const SHORT_RUN: u64 = 64 << 10;
/// Free memory that is kept for buffers.
const POOL_BYTES: usize = 32 << 20;

/// An image that goes into its parent.
pub struct Coalesce<'a> {
    /// What is read.
    pub child: &'a Image,
    /// What is written; opened for that.
    pub parent: &'a Image,
    /// A way around reading, if both are files.
    pub shortcut: Option<&'a Shortcut>,
    /// What is read is plain, and what is written is encrypted with this.
    pub key: Option<&'a DiskKey>,
}

impl Coalesce<'_> {
    /// Moves everything. `watch` is told of each granule that is done: how many there are, and how many there were at the
    /// start. The answer is how many bytes the child had. The parent is closed, and durable, also after a failure.
    ///
    /// # Errors
    /// What the storages say; nothing is lost then, and the same can be done again. `Invalid` if the parent's disk ends
    /// before what the child holds; then nothing was written.
    pub async fn run(&self, executor: &Executor, watch: &dyn Fn(u64, u64)) -> Result<u64> {
        let granules = self.granules();
        let end = granules.last().map_or(0, |granule| granule.end().get());
        if end > self.parent.size() {
            let words = format!("the disk of the parent has {} bytes, data reaches to {end}", self.parent.size());
            return Err(Error::new(ErrorKind::Invalid, words));
        }
        if granules.is_empty() {
            return Ok(0);
        }
        self.parent.begin_writing(executor).await?;
        let moved = self.all(executor, granules, watch).await;
        let closed = self.parent.close(executor).await;
        moved.and_then(|bytes| closed.map(|()| bytes))
    }

    /// The parts of the disk that the child has something of, by what is known without reading its bitmaps.
    fn granules(&self) -> Vec<GuestRange> {
        let mut granules: Vec<GuestRange> = Vec::new();
        let mut rest = GuestRange::new(GuestOffset::new(0), self.child.size());
        while !rest.is_empty() {
            let (range, has_data) = match self.child.map(rest) {
                Lookup::Miss(miss) => (miss.range, true),
                Lookup::Found(extent) => (extent.range, matches!(extent.mapping, Mapping::Data { .. })),
            };
            if has_data {
                granules.extend(range.granules(self.child.granule()));
            }
            rest = rest.split_at(range.length()).1;
        }
        granules
    }

    /// All that was begun has ended when this ends, also after a failure.
    async fn all(&self, executor: &Executor, granules: Vec<GuestRange>, watch: &dyn Fn(u64, u64)) -> Result<u64> {
        let (total, has_failed) = (granules.len() as u64, Cell::new(false));
        let pool = BufferPool::new(POOL_BYTES);
        let moves = stream::iter(granules).map(|granule| {
            let (pool, has_failed) = (&pool, &has_failed);
            async move { if has_failed.get() { Ok(0) } else { self.granule(executor, pool, granule).await } }
        });
        let mut moves = moves.buffer_unordered(GRANULES_AT_ONCE);
        let mut result = Ok(0);
        while let Some(moved) = moves.next().await {
            has_failed.set(has_failed.get() || moved.is_err());
            watch(1, total);
            result = result.and_then(|before| moved.map(|bytes| before + bytes));
        }
        result
    }

    async fn granule(&self, executor: &Executor, pool: &BufferPool, granule: GuestRange) -> Result<u64> {
        let runs = self.runs(executor, granule).await?;
        let bytes = runs.iter().map(|(run, _)| run.length()).sum();
        let moves = stream::iter(runs).map(|(run, offset)| self.run_of(executor, pool, run, offset));
        let ended: Vec<Result<()>> = moves.buffer_unordered(RUNS_AT_ONCE).collect().await;
        ended.into_iter().collect::<Result<()>>()?;
        Ok(bytes)
    }

    /// What the child has of a granule, and where.
    async fn runs(&self, executor: &Executor, granule: GuestRange) -> Result<Vec<(GuestRange, FileOffset)>> {
        let mut runs = Vec::new();
        let mut rest = granule;
        while !rest.is_empty() {
            match self.child.map(rest) {
                Lookup::Miss(miss) => self.child.load(executor, miss).await?,
                Lookup::Found(extent) => {
                    if let Mapping::Data { offset } = extent.mapping {
                        runs.push((extent.range, offset));
                    }
                    rest = rest.split_at(extent.range.length()).1;
                }
            }
        }
        Ok(runs)
    }

    /// Gives a run a place in the parent, puts it there, and makes it visible; in this order.
    async fn run_of(&self, executor: &Executor, pool: &BufferPool, run: GuestRange, offset: FileOffset) -> Result<()> {
        for part in run.granules(self.parent.granule()) {
            let from = FileRange::new(offset + (part.start() - run.start()), part.length());
            let plan = self.parent.plan_write(executor, part).await?;
            match self.key {
                Some(key) => self.encrypt(executor, from, part, key, &plan).await?,
                None => self.fill(executor, pool, from, &plan).await?,
            }
            self.parent.commit(executor, plan).await?;
        }
        Ok(())
    }

    async fn fill(&self, executor: &Executor, pool: &BufferPool, from: FileRange, plan: &WritePlan) -> Result<()> {
        // What lies behind the end of the file was never written, and is zero.
        let end = self.child.storage().length().next_multiple_of(SECTOR);
        let (there, beyond) = from.split_at(end.saturating_sub(from.start().get()));
        let shortcut = self.shortcut.filter(|_| there.length() > SHORT_RUN);
        let mut runs = match shortcut {
            Some(shortcut) => shortcut.runs(there),
            None => vec![(true, there)],
        };
        runs.push((false, beyond));
        for (is_data, piece) in runs.into_iter().filter(|(_, piece)| !piece.is_empty()) {
            let to = plan.offset + (piece.start() - from.start());
            if !is_data {
                let hole = FileRange::new(to, piece.length());
                self.parent.storage().write_zeroes(executor, hole, true).await?;
            } else if !shortcut.map_or(Ok(false), |shortcut| shortcut.copy(piece, to))? {
                self.copy(executor, pool, piece, to, plan).await?;
            }
        }
        Ok(())
    }

    /// Also what was never written has a ciphertext, once its sector is there.
    async fn encrypt(
        &self,
        executor: &Executor,
        from: FileRange,
        part: GuestRange,
        key: &DiskKey,
        plan: &WritePlan,
    ) -> Result<()> {
        let count = |length: u64| usize::try_from(length).expect("a run is at most a granule");
        let end = self.child.storage().length().next_multiple_of(SECTOR);
        let (there, _) = from.split_at(end.saturating_sub(from.start().get()));
        let mut bytes = match there.is_empty() {
            true => Vec::new(),
            false => self.child.storage().read_bytes(executor, there.start(), count(there.length())).await?,
        };
        bytes.resize(count(from.length()), 0);
        key.encrypt(part.start().get() / SECTOR, &mut bytes);
        let write = StorageOperation::Write { offset: plan.offset, buffer: Buffer::from_bytes(&bytes), durable: false };
        self.parent.storage().submit(executor, write, plan.hold.clone()).await.result
    }

    async fn copy(
        &self,
        executor: &Executor,
        pool: &BufferPool,
        from: FileRange,
        to: FileOffset,
        plan: &WritePlan,
    ) -> Result<()> {
        let buffer = pool.take(usize::try_from(from.length()).expect("a run is at most a granule"));
        let (buffer, read) = self.child.storage().read(executor, from.start(), buffer).await;
        read?;
        let write = StorageOperation::Write { offset: to, buffer, durable: false };
        self.parent.storage().submit(executor, write, plan.hold.clone()).await.result
    }
}

impl std::fmt::Debug for Coalesce<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Coalesce")
    }
}
