//! A storage that knows what a crash would leave of it.
//!
//! The model: a sync makes durable what had completed when the sync was submitted, a durable write makes itself durable,
//! and everything else is volatile. When the power fails, **any subset** of the volatile sectors is there, torn at 512
//! bytes; of several versions of a sector any one, or the old one. The length is the file system's: its changes survive
//! in order, up to any point, whatever happened to the bytes. When only the process dies, what has completed is there,
//! and of the rest any part.
//!
//! A storage that keeps the order of writes (the *prefix* model) is here too, to show what it fails to find.

mod fate;
mod image;
mod journal;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use block_core::{Error, ErrorKind, FileRange, Origin, Result, SECTOR};

use self::{
    fate::{Fate, Random},
    image::Image,
    journal::{Change, Journal},
};
use super::memory::delay;
use crate::{Buffer, Completion, Executor, Hold, Limits, Pending, Storage, StorageKind, StorageOperation};

/// Bytes in memory behind the [`Storage`] trait, of which a crash can be taken at any instant. Clones are the same
/// storage. Operations are multiples of 512 bytes; in a simulation each takes a random number of steps before and after
/// it takes effect. Holes cost nothing.
///
/// As a [`StorageKind::BlockDevice`] (see [`CrashStorage::with_limits`]) its length is fixed, and discarded bytes may or
/// may not become zeroes.
#[derive(Clone)]
pub struct CrashStorage {
    state: Arc<Mutex<State>>,
    limits: Limits,
}

struct State {
    /// What readers see.
    current: Image,
    journal: Journal,
}

impl CrashStorage {
    /// A storage of `length` zeroes, all durable.
    pub fn new(length: u64) -> Self {
        Self::from_image(Image::new(length))
    }

    /// A storage with this content, all durable.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self::from_image(Image::from_bytes(bytes))
    }

    fn from_image(image: Image) -> Self {
        let journal = Journal::new(image.clone());
        let current = image;
        let state = Arc::new(Mutex::new(State { current, journal }));
        let limits = Limits {
            alignment: 512,
            kind: StorageKind::File,
            read_only: false,
            discards: true,
            zeroes_fast: true,
            logical_block_size: 512,
            physical_block_size: 512,
            identity: (0, Arc::as_ptr(&state).addr() as u64),
        };
        CrashStorage { state, limits }
    }

    /// The same storage, showing other limits.
    #[must_use]
    pub fn with_limits(self, change: impl FnOnce(&mut Limits)) -> Self {
        let mut limits = self.limits;
        change(&mut limits);
        CrashStorage { limits, ..self }
    }

    /// A copy of what readers see.
    pub fn to_vec(&self) -> Vec<u8> {
        self.state().current.to_vec()
    }

    /// This instant, to take crashes of. Cheap: the bytes are shared.
    pub fn crash_point(&self) -> CrashPoint {
        CrashPoint { journal: self.state().journal.clone(), limits: self.limits }
    }

    /// What is left if the power fails now; one of many states, drawn from `seed`.
    pub fn crash(&self, seed: u64) -> CrashStorage {
        self.crash_point().power_cut(seed)
    }

    /// The lock guards bytes in memory; nothing waits while it is held.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_device(&self) -> bool {
        self.limits.kind == StorageKind::BlockDevice
    }

    /// An error of this storage.
    fn error(&self, kind: ErrorKind, words: &'static str) -> Error {
        Error::new(kind, words).with_origin(self.origin())
    }

    fn check(&self, operation: &StorageOperation) -> Result<()> {
        if self.limits.read_only && operation.changes() {
            return Err(self.error(ErrorKind::ReadOnly, "the storage is read-only"));
        }
        let unit = u64::from(self.limits.alignment).max(SECTOR);
        let memory = usize::try_from(unit).expect("a unit is at most a page");
        let is_aligned = match operation {
            StorageOperation::Read { buffer, .. } | StorageOperation::Write { buffer, .. } => buffer.is_aligned(memory),
            StorageOperation::SetLength(length) => length.is_multiple_of(SECTOR),
            _ => true,
        };
        if !is_aligned || !operation.range().is_none_or(|range| range.is_aligned(unit)) {
            return Err(self.error(ErrorKind::Invalid, "the operation is not aligned"));
        }
        let end = match operation {
            StorageOperation::SetLength(length) if *length != self.length() => Some(u64::MAX),
            _ => operation.range().map(|range| range.end().get()),
        };
        if self.is_device() && end.is_some_and(|end| end > self.length()) {
            return Err(self.error(ErrorKind::NoSpace, "a device has a fixed length"));
        }
        Ok(())
    }

    /// Notes that an operation is on its way.
    fn begin(&self, operation: StorageOperation, executor: &Executor) -> Begun {
        let zeroes = |range: FileRange| Change::Zero { start: range.start().get(), end: range.end().get() };
        let change = match operation {
            StorageOperation::Read { offset, buffer } => return Begun::Read(offset.get(), buffer),
            StorageOperation::Unlock | StorageOperation::Lock => return Begun::Nothing,
            StorageOperation::Sync => return Begun::Sync(self.state().journal.completed()),
            StorageOperation::Write { offset, buffer, durable } => {
                let (offset, bytes) = (offset.get(), buffer.to_vec());
                let id = self.state().journal.submit(Change::Data { offset, bytes });
                let buffer = Some(buffer);
                return Begun::Change { id, buffer, durable };
            }
            StorageOperation::Discard(_) if self.is_device() && executor.random() & 1 == 0 => return Begun::Nothing,
            StorageOperation::Discard(range) | StorageOperation::WriteZeroes { range, .. } => zeroes(range),
            StorageOperation::Allocate(range) => Change::Extend(range.end().get()),
            StorageOperation::SetLength(length) => Change::Length(length),
        };
        let id = self.state().journal.submit(change);
        Begun::Change { id, buffer: None, durable: false }
    }

    /// The instant at which an operation takes effect.
    fn apply(&self, begun: &mut Begun) -> Result<()> {
        let mut state = self.state();
        match begun {
            Begun::Nothing => Ok(()),
            Begun::Read(offset, buffer) => {
                read(&state.current, *offset, buffer).map_err(|error| error.with_origin(self.origin()))
            }
            Begun::Sync(covered) => {
                state.journal.fold(covered);
                Ok(())
            }
            Begun::Change { id, .. } => {
                let change = state.journal.apply(*id);
                change.apply(&mut state.current);
                Ok(())
            }
        }
    }

    /// The instant at which an operation is answered.
    fn finish(&self, begun: Begun, result: Result<()>) -> Completion {
        let buffer = match begun {
            Begun::Nothing | Begun::Sync(_) => None,
            Begun::Read(_, buffer) => Some(buffer),
            Begun::Change { id, buffer, durable } => {
                self.state().journal.complete(id, durable);
                buffer
            }
        };
        Completion { buffer, result }
    }
}

/// An operation on its way.
enum Begun {
    /// It changes nothing: a device ignores it, or it is about the lock, which nobody else wants.
    Nothing,
    Read(u64, Buffer),
    /// With the changes that it has to make durable.
    Sync(Vec<u64>),
    Change {
        id: u64,
        buffer: Option<Buffer>,
        durable: bool,
    },
}

fn read(image: &Image, mut offset: u64, buffer: &mut Buffer) -> Result<()> {
    if offset + buffer.len() as u64 > image.length() {
        return Err(Error::new(ErrorKind::Io, "the storage ends before the range does"));
    }
    for segment in buffer.segments_mut() {
        image.read(offset, segment);
        offset += segment.len() as u64;
    }
    Ok(())
}

impl Storage for CrashStorage {
    fn submit(&self, executor: &Executor, operation: StorageOperation, hold: Option<Hold>) -> Pending {
        if let Err(error) = self.check(&operation) {
            return Pending::ready(operation, Err(error));
        }
        let mut begun = self.begin(operation, executor);
        if !executor.is_simulated() {
            let result = self.apply(&mut begun);
            return Pending::completed(self.finish(begun, result));
        }
        let (storage, simulated) = (self.clone(), executor.clone());
        Pending::spawn(executor, hold, async move {
            delay(&simulated).await;
            let result = storage.apply(&mut begun);
            delay(&simulated).await;
            storage.finish(begun, result)
        })
    }

    fn length(&self) -> u64 {
        self.state().current.length()
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn origin(&self) -> Origin {
        Origin { place: "memory that crashes".into(), is_remote: self.limits.kind.is_remote() }
    }
}

impl fmt::Debug for CrashStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let point = self.crash_point();
        write!(f, "CrashStorage({} bytes, {} sectors volatile)", self.length(), point.volatile_sectors())
    }
}

/// An instant in the life of a [`CrashStorage`]. Each state that a crash can leave is a storage of its own, all durable,
/// which can crash again.
#[derive(Clone)]
pub struct CrashPoint {
    journal: Journal,
    limits: Limits,
}

impl CrashPoint {
    /// The power fails: any of the volatile sectors are there, drawn from `seed`.
    pub fn power_cut(&self, seed: u64) -> CrashStorage {
        let (entries, lengths) = (self.journal.entry_count(), self.journal.length_count());
        self.survivor(Fate::power_cut(seed, entries, lengths))
    }

    /// The process dies: what has completed is there, and any of the rest, drawn from `seed`.
    pub fn killed(&self, seed: u64) -> CrashStorage {
        self.survivor(Fate::Killed(Random::new(seed)))
    }

    /// The power fails on a storage that keeps the order: the first `count` steps are there, of [`CrashPoint::steps`].
    pub fn prefix(&self, count: usize) -> CrashStorage {
        self.survivor(Fate::Prefix(count))
    }

    /// How many sectors and changes of the length are volatile.
    pub fn steps(&self) -> usize {
        self.journal.sector_count() + self.journal.length_count()
    }

    /// How many versions of sectors are volatile.
    pub fn volatile_sectors(&self) -> usize {
        self.journal.sector_count()
    }

    /// All states that a power cut can leave, unless there are more than `most`. (Different choices may leave the same
    /// bytes.)
    pub fn every_power_cut(&self, most: u64) -> Option<impl Iterator<Item = CrashStorage>> {
        let lengths = self.journal.length_count();
        let sectors = u32::try_from(self.journal.sector_count()).ok()?;
        let subsets = 1_u64.checked_shl(sectors)?;
        let count = subsets.checked_mul(lengths as u64 + 1)?;
        let state = move |index: u64| {
            let lengths = usize::try_from(index / subsets).expect("at most the number of lengths");
            let sectors = index % subsets;
            self.survivor(Fate::Chosen { sectors, lengths })
        };
        (count <= most).then(|| (0..count).map(state))
    }

    fn survivor(&self, fate: Fate) -> CrashStorage {
        let storage = CrashStorage::from_image(self.journal.survivor(fate));
        let identity = storage.limits.identity;
        storage.with_limits(|limits| *limits = Limits { identity, ..self.limits })
    }
}
