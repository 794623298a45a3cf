//! A storage whose unit is too large for the layers above (a device of 4 KiB sectors), behind one without a unit.
//!
//! ```text
//!   asked:                |-----------------------|            any bytes
//!   inner storage:   |........|........|........|........|     multiples of its unit
//!                     ^^^^                       ^^^^ edges: read, and written back as they were
//! ```
//!
//! Two writes that share a unit must not interleave their reads and writes of it: the second would bring back what the
//! first found there. So a write with an edge *claims* its units, and what writes to them waits; entries are served in
//! the order of their arrival. A write without an edge needs nobody's bytes and takes a *share*: shares overlap each
//! other, but never a claim. Reads take neither: at its edges, a claimed write changes nothing.
//!
//! A claimed write runs as a task of its own: nobody can cancel it between its read and its write.
//!
//! A file may end inside a unit. Whatever touches that unit makes the file longer and cuts it again; its claim reaches to
//! infinity, so that nothing is put behind the end meanwhile.

use std::{
    fmt,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use block_core::{Error, ErrorKind, FileOffset, FileRange, Origin, Result};

use super::claims::{Claims, Kind};
use crate::{Buffer, Completion, Executor, Hold, Limits, Pending, Storage, StorageExt, StorageKind, StorageOperation};

/// A storage that takes any operation, on top of one that takes only multiples of its unit.
#[derive(Clone)]
pub struct AlignedStorage(Arc<Inner>);

struct Inner {
    storage: Arc<dyn Storage>,
    unit: u64,
    claims: Claims,
    /// While the last unit is written: where the storage ends for everybody else.
    cut: AtomicU64,
}

/// No cut: the storage ends where it ends.
const UNCUT: u64 = u64::MAX;

impl AlignedStorage {
    /// Hides the unit of `storage`.
    pub fn new(storage: Arc<dyn Storage>) -> Self {
        let unit = storage.limits().alignment.into();
        AlignedStorage(Arc::new(Inner { storage, unit, claims: Claims::default(), cut: AtomicU64::new(UNCUT) }))
    }

    /// Hands over what fits the units: at once, or after the claims before it.
    fn pass(&self, executor: &Executor, range: FileRange, operation: StorageOperation, hold: Option<Hold>) -> Pending {
        let share = self.0.claims.enter(range, Kind::Share);
        if share.is_granted() {
            let hold: Hold = Rc::new((hold, share));
            return self.0.storage.submit(executor, operation, Some(hold));
        }
        let (inner, task) = (self.0.clone(), executor.clone());
        Pending::spawn(executor, hold, async move {
            share.granted().await;
            inner.storage.submit(&task, operation, None).await
        })
    }

    /// Carries out what does not fit, in several steps.
    fn bridge(&self, executor: &Executor, operation: StorageOperation, hold: Option<Hold>) -> Pending {
        let mut needs = self.0.needs(&operation);
        let mut entry = needs.map(|(range, kind)| self.0.claims.enter(range, kind));
        let (inner, task) = (self.0.clone(), executor.clone());
        Pending::spawn(executor, hold, async move {
            while let Some(entered) = &entry {
                entered.granted().await;
                let now = inner.needs(&operation);
                if now == needs {
                    break;
                }
                // The storage has become shorter or longer while it waited.
                needs = now;
                entry = now.map(|(range, kind)| inner.claims.enter(range, kind));
            }
            inner.carry_out(&task, operation).await
        })
    }
}

impl Storage for AlignedStorage {
    fn submit(&self, executor: &Executor, operation: StorageOperation, hold: Option<Hold>) -> Pending {
        let inner = &self.0;
        match (&operation, operation.range()) {
            (StorageOperation::Sync | StorageOperation::Unlock | StorageOperation::Lock, _) => {
                inner.storage.submit(executor, operation, hold)
            }
            (_, Some(range)) if range.is_empty() => Pending::ready(operation, Ok(())),
            (StorageOperation::Read { buffer, .. }, Some(range)) if inner.fits(range, Some(buffer)) => {
                inner.storage.submit(executor, operation, hold)
            }
            (StorageOperation::Write { buffer, .. }, Some(range)) if inner.fits(range, Some(buffer)) => {
                self.pass(executor, range, operation, hold)
            }
            (
                StorageOperation::Allocate(_) | StorageOperation::Discard(_) | StorageOperation::WriteZeroes { .. },
                Some(range),
            ) if inner.fits(range, None) => self.pass(executor, range, operation, hold),
            _ => self.bridge(executor, operation, hold),
        }
    }

    fn length(&self) -> u64 {
        self.0.length()
    }

    fn limits(&self) -> Limits {
        Limits { alignment: 1, ..self.0.storage.limits() }
    }

    fn origin(&self) -> Origin {
        self.0.storage.origin()
    }
}

impl Inner {
    fn length(&self) -> u64 {
        self.storage.length().min(self.cut.load(Ordering::Acquire))
    }

    fn fits(&self, range: FileRange, buffer: Option<&Buffer>) -> bool {
        let unit = usize::try_from(self.unit).expect("at most a page");
        range.is_aligned(self.unit) && buffer.is_none_or(|buffer| buffer.is_aligned(unit))
    }

    /// What an operation that does not fit has to keep others from, as long as the storage ends where it does.
    fn needs(&self, operation: &StorageOperation) -> Option<(FileRange, Kind)> {
        let to_infinity = |start: FileOffset| FileRange::new(start, u64::MAX - start.get());
        match (operation, operation.range()) {
            (StorageOperation::Read { .. }, _) => None,
            (StorageOperation::SetLength(length), _) => {
                let start = FileOffset::new(self.length().min(*length)).align_down(self.unit);
                Some((to_infinity(start), Kind::Claim))
            }
            (_, Some(range)) => {
                let units = range.align_out(self.unit);
                Some(if range == units {
                    (range, Kind::Share)
                } else if units.end().get() > self.length() {
                    // Nobody else may move the end meanwhile, wherever it is.
                    let end = FileOffset::new(self.length()).align_down(self.unit);
                    (to_infinity(units.start().min(end)), Kind::Claim)
                } else {
                    (units, Kind::Claim)
                })
            }
            (_, None) => None,
        }
    }

    async fn carry_out(&self, executor: &Executor, operation: StorageOperation) -> Completion {
        match operation {
            StorageOperation::Read { offset, mut buffer } => {
                let result = self.read(executor, offset, &mut buffer).await;
                Completion { buffer: Some(buffer), result }
            }
            StorageOperation::Write { offset, buffer, durable } => {
                let result = self.write(executor, offset, &buffer, durable).await;
                Completion { buffer: Some(buffer), result }
            }
            StorageOperation::Allocate(range) => {
                let units = range.align_out(self.unit);
                let allocated = self.keeping_length(executor, range, self.storage.allocate(executor, units)).await;
                Completion { buffer: None, result: allocated.map(|_| ()) }
            }
            StorageOperation::Discard(range) => {
                Completion { buffer: None, result: self.discard(executor, range).await }
            }
            StorageOperation::WriteZeroes { range, may_free } => {
                Completion { buffer: None, result: self.write_zeroes(executor, range, may_free).await }
            }
            StorageOperation::Sync
            | StorageOperation::SetLength(_)
            | StorageOperation::Unlock
            | StorageOperation::Lock => self.storage.submit(executor, operation, None).await,
        }
    }

    /// Reads whole units into memory of our own.
    async fn read(&self, executor: &Executor, offset: FileOffset, buffer: &mut Buffer) -> Result<()> {
        let range = FileRange::new(offset, buffer.len() as u64);
        let units = range.align_out(self.unit);
        let around = Buffer::zeroed(bytes(units.length()));
        if range.end().get() > self.length() {
            let error = Error::new(ErrorKind::Io, "the storage ends before the range does");
            return Err(error.with_origin(self.storage.origin()));
        }
        let (around, result) = self.storage.read(executor, units.start(), around).await;
        copy(&around, bytes(offset - units.start()), buffer);
        result
    }

    /// Writes whole units, the bytes at the edges as they were.
    async fn write(&self, executor: &Executor, offset: FileOffset, buffer: &Buffer, durable: bool) -> Result<()> {
        let range = FileRange::new(offset, buffer.len() as u64);
        let units = range.align_out(self.unit);
        let mut around = Buffer::zeroed(bytes(units.length()));
        if range.start() != units.start() {
            self.read_unit(executor, units.start(), &mut around, 0).await?;
        }
        let last = units.end().get() - self.unit;
        if range.end() != units.end() && (last > units.start().get() || range.start() == units.start()) {
            let at = around.len() - bytes(self.unit);
            self.read_unit(executor, FileOffset::new(last), &mut around, at).await?;
        }
        let mut at = bytes(offset - units.start());
        for segment in buffer.segments() {
            around.copy_in(at, segment);
            at += segment.len();
        }
        let operation = StorageOperation::Write { offset: units.start(), buffer: around, durable };
        let write = async { self.storage.submit(executor, operation, None).await.result };
        let is_cut = self.keeping_length(executor, range, write).await?;
        if durable && is_cut {
            return self.storage.sync(executor).await;
        }
        Ok(())
    }

    /// Reads a unit into place; what lies behind the end is zero already.
    async fn read_unit(&self, executor: &Executor, start: FileOffset, around: &mut Buffer, at: usize) -> Result<()> {
        if start.get() >= self.length() {
            return Ok(());
        }
        let unit = Buffer::zeroed(bytes(self.unit));
        let (unit, result) = self.storage.read(executor, start, unit).await;
        unit.segments().for_each(|segment| around.copy_in(at, segment));
        result
    }

    /// Does what may make the storage longer than was asked for; cuts it again where it ended, or where `range` does.
    /// Whether that was needed.
    async fn keeping_length(
        &self,
        executor: &Executor,
        range: FileRange,
        steps: impl Future<Output = Result<()>>,
    ) -> Result<bool> {
        let before = self.length();
        let wanted = before.max(range.end().get());
        if range.align_out(self.unit).end().get() <= wanted {
            return steps.await.map(|()| false);
        }
        self.cut.store(before, Ordering::Release);
        let result = steps.await;
        let length = if result.is_ok() { wanted } else { before };
        let cut = if self.storage.length() > length { self.storage.set_length(executor, length).await } else { Ok(()) };
        self.cut.store(UNCUT, Ordering::Release);
        result.and(cut).map(|()| true)
    }

    /// Gives whole units back. What is left of a file's edges reads as zeroes, too; on devices it may be anything.
    async fn discard(&self, executor: &Executor, range: FileRange) -> Result<()> {
        let [lead, whole, rest] = self.split(range);
        if !whole.is_empty() {
            self.storage.discard(executor, whole).await?;
        }
        if self.storage.limits().kind == StorageKind::BlockDevice {
            return Ok(());
        }
        self.zero_edge(executor, lead).await?;
        self.zero_edge(executor, rest).await
    }

    async fn write_zeroes(&self, executor: &Executor, range: FileRange, may_free: bool) -> Result<()> {
        let [lead, whole, rest] = self.split(range);
        if !whole.is_empty() {
            self.storage.write_zeroes(executor, whole, may_free).await?;
        }
        self.zero_edge(executor, lead).await?;
        self.zero_edge(executor, rest).await
    }

    /// Writes zeroes to a part of a unit, as far as the storage reaches.
    async fn zero_edge(&self, executor: &Executor, edge: FileRange) -> Result<()> {
        let inside = FileRange::new(FileOffset::new(0), self.length());
        match edge.intersection(inside) {
            Some(edge) => self.write(executor, edge.start(), &Buffer::zeroed(bytes(edge.length())), false).await,
            None => Ok(()),
        }
    }

    /// What lies in front of the whole units of a range, those, and what lies behind them.
    fn split(&self, range: FileRange) -> [FileRange; 3] {
        let into_unit = range.start() - range.start().align_down(self.unit);
        let lead = if into_unit == 0 { 0 } else { self.unit - into_unit };
        let (lead, behind) = range.split_at(lead);
        let (whole, rest) = behind.split_at(behind.length() & !(self.unit - 1));
        [lead, whole, rest]
    }
}

/// Copies from position `from` until `to` is full.
fn copy(source: &Buffer, mut from: usize, to: &mut Buffer) {
    for segment in to.segments_mut() {
        source.copy_out(from, segment);
        from += segment.len();
    }
}

fn bytes(length: u64) -> usize {
    usize::try_from(length).expect("as much as a buffer holds, and a unit more")
}

impl fmt::Debug for AlignedStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlignedStorage({:?})", self.0.storage)
    }
}
