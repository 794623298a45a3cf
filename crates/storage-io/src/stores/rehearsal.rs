//! A storage that is changed in memory only: what a change would do is found by making it here first.
//!
//! ```text
//!   write --> sectors in memory         read <-- sectors in memory, else the storage below
//! ```
//!
//! Meant for changes of tables: what is written is kept whole.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use block_core::{FileOffset, FileRange, Origin, Result, SECTOR};

use crate::{Buffer, Completion, Executor, Hold, Limits, Pending, Storage, StorageExt, StorageOperation};

const SECTOR_BYTES: usize = 512;

/// Shows another storage with changes that it has not got. Clones are the same storage.
#[derive(Clone)]
pub struct RehearsalStorage {
    below: Arc<dyn Storage>,
    changed: Arc<Mutex<Changed>>,
}

struct Changed {
    sectors: BTreeMap<u64, [u8; SECTOR_BYTES]>,
    length: u64,
    /// Below this the other storage shows through; it has been cut there since, or ends there.
    kept: u64,
}

impl RehearsalStorage {
    /// Shows `below`, which is only ever read.
    pub fn new(below: Arc<dyn Storage>) -> RehearsalStorage {
        let length = below.length();
        let changed = Changed { sectors: BTreeMap::new(), length, kept: length };
        RehearsalStorage { below, changed: Arc::new(Mutex::new(changed)) }
    }

    /// What the storage below would have to be given: runs of sectors, in ascending order.
    ///
    /// # Errors
    /// What the storage below says when it is read.
    pub async fn changes(&self, executor: &Executor) -> Result<Vec<FileRange>> {
        let sectors: Vec<u64> = self.changed().sectors.keys().copied().collect();
        let mut runs: Vec<FileRange> = Vec::new();
        for sector in sectors {
            let range = FileRange::new(FileOffset::new(sector * SECTOR), SECTOR);
            let is_there = range.end().get() <= self.below.length().next_multiple_of(SECTOR);
            let before = match is_there {
                true => self.below.read_bytes(executor, range.start(), SECTOR_BYTES).await?,
                false => vec![0; SECTOR_BYTES],
            };
            let is_same = is_there && self.changed().sectors.get(&sector).is_none_or(|now| now[..] == before[..]);
            if is_same {
                continue;
            }
            match runs.last_mut().filter(|run| run.end() == range.start()) {
                Some(run) => *run = FileRange::new(run.start(), run.length() + SECTOR),
                None => runs.push(range),
            }
        }
        Ok(runs)
    }

    /// The lock guards plain bytes; each operation leaves them whole.
    fn changed(&self) -> MutexGuard<'_, Changed> {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run(self, executor: Executor, operation: StorageOperation) -> Completion {
        let result = match operation {
            StorageOperation::Read { offset, buffer } => {
                let range = FileRange::new(offset, buffer.len() as u64);
                return match self.read(&executor, range).await {
                    Ok(bytes) => Completion { buffer: Some(filled(buffer, &bytes)), result: Ok(()) },
                    Err(error) => Completion { buffer: Some(buffer), result: Err(error) },
                };
            }
            StorageOperation::Write { offset, buffer, .. } => {
                let result = self.write(&executor, offset, &buffer.to_vec()).await;
                return Completion { buffer: Some(buffer), result };
            }
            StorageOperation::WriteZeroes { range, .. } => self.zero(&executor, range).await,
            StorageOperation::Allocate(range) => {
                let mut changed = self.changed();
                changed.length = changed.length.max(range.end().get());
                Ok(())
            }
            StorageOperation::SetLength(length) => {
                let mut changed = self.changed();
                (changed.length, changed.kept) = (length, changed.kept.min(length));
                changed.sectors.retain(|sector, _| sector * SECTOR < length);
                Ok(())
            }
            StorageOperation::Discard(_)
            | StorageOperation::Sync
            | StorageOperation::Unlock
            | StorageOperation::Lock => Ok(()),
        };
        Completion { buffer: None, result }
    }

    /// The sectors of a range, as they are now; zeroes behind what is kept.
    async fn read(&self, executor: &Executor, range: FileRange) -> Result<Vec<u8>> {
        let whole = range.align_out(SECTOR);
        let kept = self.changed().kept.next_multiple_of(SECTOR);
        let below = whole.intersection(FileRange::new(FileOffset::new(0), kept));
        let mut bytes = match below {
            Some(below) => self.below.read_bytes(executor, below.start(), count(below.length())).await?,
            None => Vec::new(),
        };
        bytes.resize(count(whole.length()), 0);
        let changed = self.changed();
        let (first, end) = (whole.start().get() / SECTOR, whole.end().get() / SECTOR);
        for (sector, content) in changed.sectors.range(first..end) {
            bytes[count((sector - first) * SECTOR)..][..SECTOR_BYTES].copy_from_slice(content);
        }
        let from = count(range.start() - whole.start());
        Ok(bytes[from..from + count(range.length())].to_vec())
    }

    async fn write(&self, executor: &Executor, offset: FileOffset, bytes: &[u8]) -> Result<()> {
        let range = FileRange::new(offset, bytes.len() as u64);
        let whole = range.align_out(SECTOR);
        let mut sectors = match range == whole {
            true => bytes.to_vec(),
            false => self.read(executor, whole).await?,
        };
        sectors[count(offset - whole.start())..][..bytes.len()].copy_from_slice(bytes);
        let mut changed = self.changed();
        let first = whole.start().get() / SECTOR;
        for (sector, content) in (first..).zip(sectors.as_chunks::<SECTOR_BYTES>().0) {
            changed.sectors.insert(sector, *content);
        }
        changed.length = changed.length.max(range.end().get());
        Ok(())
    }

    /// Zeroing makes nothing longer.
    async fn zero(&self, executor: &Executor, range: FileRange) -> Result<()> {
        let there = FileRange::new(FileOffset::new(0), self.length());
        match range.intersection(there) {
            Some(range) => self.write(executor, range.start(), &vec![0; count(range.length())]).await,
            None => Ok(()),
        }
    }
}

fn count(bytes: u64) -> usize {
    usize::try_from(bytes).expect("what is rehearsed fits memory")
}

fn filled(mut buffer: Buffer, bytes: &[u8]) -> Buffer {
    buffer.copy_in(0, bytes);
    buffer
}

impl Storage for RehearsalStorage {
    fn submit(&self, executor: &Executor, operation: StorageOperation, hold: Option<Hold>) -> Pending {
        Pending::spawn(executor, hold, self.clone().run(executor.clone(), operation))
    }

    fn length(&self) -> u64 {
        self.changed().length
    }

    fn limits(&self) -> Limits {
        Limits { read_only: false, ..self.below.limits() }
    }

    fn origin(&self) -> Origin {
        self.below.origin()
    }
}

impl fmt::Debug for RehearsalStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RehearsalStorage({:?}, {} sectors changed)", self.below, self.changed().sectors.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{EngineChoice, MemoryStorage};

    #[test]
    fn a_change_is_seen_here_and_nowhere_else() {
        let executor = Executor::new(EngineChoice::Inline).unwrap();
        let below = MemoryStorage::from_bytes((0..8).flat_map(|sector| [sector; 512]).collect());
        let before = below.to_vec();
        let storage = RehearsalStorage::new(Arc::new(below.clone()));
        executor.block_on(async {
            storage.write_bytes(&executor, FileOffset::new(512), &[9; 1024]).await.unwrap();
            // The same as there is: no change.
            storage.write_bytes(&executor, FileOffset::new(2048), &[4; 512]).await.unwrap();
            storage.set_length(&executor, 3584).await.unwrap();
            storage.write_bytes(&executor, FileOffset::new(4096), &[8; 512]).await.unwrap();
            let seen = storage.read_bytes(&executor, FileOffset::new(0), 4608).await.unwrap();
            let expected = [0, 9, 9, 3, 4, 5, 6, 0, 8].map(|byte| vec![byte; 512]).concat();
            assert!(seen == expected && storage.length() == 4608);
            let runs = storage.changes(&executor).await.unwrap();
            let runs: Vec<_> = runs.iter().map(|run| (run.start().get(), run.length())).collect();
            assert_eq!(runs, [(512, 1024), (4096, 512)]);
        });
        assert!(below.to_vec() == before);
    }
}
