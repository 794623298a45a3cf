//! A storage in memory.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use block_core::{Error, ErrorKind, FileRange, Origin, Result};

use crate::{Buffer, Completion, Executor, Hold, Limits, Pending, Storage, StorageKind, StorageOperation};

/// Bytes in memory behind the [`Storage`] trait. Clones are the same storage. In a simulation each operation takes a
/// random number of steps before and after it takes effect, as on a device with a queue.
#[derive(Clone)]
pub struct MemoryStorage {
    bytes: Arc<Mutex<Vec<u8>>>,
    limits: Limits,
    place: Arc<str>,
}

impl MemoryStorage {
    /// A storage of `length` zeroes.
    pub fn new(length: usize) -> Self {
        Self::from_bytes(vec![0; length])
    }

    /// A storage with this content.
    pub fn from_bytes(bytes: Vec<u8>) -> Self {
        let bytes = Arc::new(Mutex::new(bytes));
        let identity = (0, Arc::as_ptr(&bytes).addr() as u64);
        let limits = Limits {
            alignment: 1,
            kind: StorageKind::Memory,
            read_only: false,
            discards: true,
            zeroes_fast: true,
            logical_block_size: 512,
            physical_block_size: 512,
            identity,
        };
        MemoryStorage { bytes, limits, place: "memory".into() }
    }

    /// The same storage, showing other limits: a file, a device, another alignment.
    #[must_use]
    pub fn with_limits(self, change: impl FnOnce(&mut Limits)) -> Self {
        let mut limits = self.limits;
        change(&mut limits);
        MemoryStorage { limits, ..self }
    }

    /// The same storage under a name, which its errors carry.
    #[must_use]
    pub fn with_name(self, name: &str) -> Self {
        MemoryStorage { place: name.into(), ..self }
    }

    /// A copy of its content.
    pub fn to_vec(&self) -> Vec<u8> {
        self.bytes().clone()
    }

    /// The lock guards plain bytes; each operation leaves them whole.
    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries out an operation at once.
    pub(crate) fn apply(&self, operation: StorageOperation) -> Completion {
        if let Err(error) = self.check(&operation) {
            return Completion { buffer: operation.into_buffer(), result: Err(error) };
        }
        let mut bytes = self.bytes();
        match operation {
            StorageOperation::Read { offset, mut buffer } => {
                let result = read(&bytes, self.limits.alignment, offset.get(), &mut buffer);
                let result = result.map_err(|error| error.with_origin(self.origin()));
                Completion { buffer: Some(buffer), result }
            }
            StorageOperation::Write { offset, buffer, .. } => {
                write(&mut bytes, offset.get(), &buffer);
                Completion { buffer: Some(buffer), result: Ok(()) }
            }
            StorageOperation::Allocate(range) => {
                let end = index(range.end().get());
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                Completion { buffer: None, result: Ok(()) }
            }
            StorageOperation::Discard(range) | StorageOperation::WriteZeroes { range, .. } => {
                zero(&mut bytes, range);
                Completion { buffer: None, result: Ok(()) }
            }
            StorageOperation::SetLength(length) => {
                bytes.resize(index(length), 0);
                Completion { buffer: None, result: Ok(()) }
            }
            StorageOperation::Sync | StorageOperation::Unlock | StorageOperation::Lock => {
                Completion { buffer: None, result: Ok(()) }
            }
        }
    }

    /// An error of this storage.
    fn error(&self, kind: ErrorKind, words: &'static str) -> Error {
        Error::new(kind, words).with_origin(self.origin())
    }

    /// What a device would refuse: a write to one that only reads, anything that is not aligned.
    fn check(&self, operation: &StorageOperation) -> Result<()> {
        if self.limits.read_only && operation.changes() {
            return Err(self.error(ErrorKind::ReadOnly, "the storage is read-only"));
        }
        let unit = self.limits.alignment;
        let aligned = operation.range().is_none_or(|range| range.is_aligned(unit.into()));
        let memory = match operation {
            StorageOperation::Read { buffer, .. } | StorageOperation::Write { buffer, .. } => {
                buffer.is_aligned(unit as usize)
            }
            _ => true,
        };
        if aligned && memory { Ok(()) } else { Err(self.error(ErrorKind::Invalid, "the operation is not aligned")) }
    }
}

fn index(position: u64) -> usize {
    usize::try_from(position).expect("memory storages are smaller than the address space")
}

fn read(bytes: &[u8], unit: u32, offset: u64, buffer: &mut Buffer) -> Result<()> {
    let mut from = index(offset);
    if from + buffer.len() > bytes.len().next_multiple_of(unit as usize) {
        return Err(Error::new(ErrorKind::Io, "the storage ends before the range does"));
    }
    for segment in buffer.segments_mut() {
        let there = bytes.len().saturating_sub(from).min(segment.len());
        segment[..there].copy_from_slice(&bytes[from..from + there]);
        segment[there..].fill(0);
        from += segment.len();
    }
    Ok(())
}

fn write(bytes: &mut Vec<u8>, offset: u64, buffer: &Buffer) {
    let mut to = index(offset);
    if bytes.len() < to + buffer.len() {
        bytes.resize(to + buffer.len(), 0);
    }
    for segment in buffer.segments() {
        bytes[to..to + segment.len()].copy_from_slice(segment);
        to += segment.len();
    }
}

fn zero(bytes: &mut [u8], range: FileRange) {
    let end = index(range.end().get()).min(bytes.len());
    let start = index(range.start().get()).min(end);
    bytes[start..end].fill(0);
}

impl Storage for MemoryStorage {
    fn submit(&self, executor: &Executor, operation: StorageOperation, hold: Option<Hold>) -> Pending {
        if !executor.is_simulated() {
            return Pending::completed(self.apply(operation));
        }
        let (storage, simulated) = (self.clone(), executor.clone());
        Pending::spawn(executor, hold, async move {
            delay(&simulated).await;
            let completion = storage.apply(operation);
            delay(&simulated).await;
            completion
        })
    }

    fn length(&self) -> u64 {
        self.bytes().len() as u64
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn origin(&self) -> Origin {
        Origin { place: self.place.clone(), is_remote: self.limits.kind.is_remote() }
    }
}

/// Up to three steps, mostly few.
pub(super) async fn delay(executor: &Executor) {
    for _ in 0..(executor.random() % 8).saturating_sub(4) {
        executor.yield_now().await;
    }
}

impl std::fmt::Debug for MemoryStorage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MemoryStorage({} bytes)", self.bytes().len())
    }
}
