//! The [`Storage`] trait: bytes at offsets, under an image.

use std::fmt::{self, Debug};

use block_core::{FileOffset, FileRange, Origin, Result};

use crate::{Buffer, Executor, Hold, Pending};

/// One thing asked of a storage. Offsets, lengths and memory are multiples of [`Limits::alignment`].
#[derive(Debug)]
pub enum StorageOperation {
    /// Fill the buffer. Reading behind the end is an error, never a short answer; but where a storage ends inside a unit
    /// of its alignment, zeroes follow up to the end of that unit.
    Read {
        /// From where.
        offset: FileOffset,
        /// Into what.
        buffer: Buffer,
    },
    /// Write the buffer; writing behind the end makes the storage longer, where it can.
    Write {
        /// To where.
        offset: FileOffset,
        /// What.
        buffer: Buffer,
        /// Complete only when the bytes would survive a loss of power.
        durable: bool,
    },
    /// Everything that has completed survives a loss of power.
    Sync,
    /// Make room that reads as zeroes where nothing was written; makes the storage longer if need be.
    Allocate(FileRange),
    /// The content no longer matters; the room may be given back. What it reads as afterwards is unspecified on devices
    /// and zeroes on files.
    Discard(FileRange),
    /// The range reads as zeroes.
    WriteZeroes {
        /// Which bytes.
        range: FileRange,
        /// Whether its room may be given back.
        may_free: bool,
    },
    /// Cut or extend to this many bytes.
    SetLength(u64),
    /// Give up the writer's lock, and keep everything else. Nothing that changes the storage may be on its way; until it
    /// is locked again, it refuses changes. One that was opened without a lock has none to give up.
    Unlock,
    /// Take the writer's lock again, on the same open file, and look how long it is now. Never waits for a lock: `Busy`
    /// if somebody else has it.
    Lock,
}

impl StorageOperation {
    /// The bytes that it touches; sync, set-length and what is about the lock touch none.
    pub fn range(&self) -> Option<FileRange> {
        match self {
            StorageOperation::Read { offset, buffer } | StorageOperation::Write { offset, buffer, .. } => {
                Some(FileRange::new(*offset, buffer.len() as u64))
            }
            StorageOperation::Allocate(range)
            | StorageOperation::Discard(range)
            | StorageOperation::WriteZeroes { range, .. } => Some(*range),
            StorageOperation::Sync
            | StorageOperation::SetLength(_)
            | StorageOperation::Unlock
            | StorageOperation::Lock => None,
        }
    }

    /// Whether it changes bytes, length or room.
    pub fn changes(&self) -> bool {
        match self {
            StorageOperation::Read { .. }
            | StorageOperation::Sync
            | StorageOperation::Unlock
            | StorageOperation::Lock => false,
            StorageOperation::Write { .. }
            | StorageOperation::Allocate(_)
            | StorageOperation::Discard(_)
            | StorageOperation::WriteZeroes { .. }
            | StorageOperation::SetLength(_) => true,
        }
    }

    /// Takes the buffer out, for an answer that was found without doing the work.
    pub fn into_buffer(self) -> Option<Buffer> {
        match self {
            StorageOperation::Read { buffer, .. } | StorageOperation::Write { buffer, .. } => Some(buffer),
            _ => None,
        }
    }
}

impl fmt::Display for StorageOperation {
    /// What is being done: "writing 4096 bytes at 0x2000".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StorageOperation::Read { offset, buffer } => {
                write!(f, "reading {} bytes at {:#x}", buffer.len(), offset.get())
            }
            StorageOperation::Write { offset, buffer, .. } => {
                write!(f, "writing {} bytes at {:#x}", buffer.len(), offset.get())
            }
            StorageOperation::Sync => f.write_str("syncing"),
            StorageOperation::Allocate(range) => write!(f, "allocating {range}"),
            StorageOperation::Discard(range) => write!(f, "discarding {range}"),
            StorageOperation::WriteZeroes { range, .. } => write!(f, "zeroing {range}"),
            StorageOperation::SetLength(length) => write!(f, "setting its length to {length} bytes"),
            StorageOperation::Unlock => f.write_str("unlocking"),
            StorageOperation::Lock => f.write_str("locking"),
        }
    }
}

/// How a storage operation ended: the buffer comes back, also after an error.
#[derive(Debug)]
pub struct Completion {
    /// The buffer of a read or a write.
    pub buffer: Option<Buffer>,
    /// Whether it was done, all of it.
    pub result: Result<()>,
}

/// What lies under a storage; decides what a retry may hope for and which order of writes is worth keeping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StorageKind {
    /// A file on a file system of this machine.
    File,
    /// A file on a network file system.
    NetworkFile,
    /// A block device.
    BlockDevice,
    /// Memory of this process.
    Memory,
}

impl StorageKind {
    /// Whether a network lies in between, whose failures may pass. A block device counts as local whatever is behind it:
    /// its driver has its own retries, and an error is its last word.
    pub fn is_remote(self) -> bool {
        self == StorageKind::NetworkFile
    }
}

/// What a storage can do, and in which units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Offsets, lengths and memory addresses must be multiples of this many bytes; a power of two, at most a page.
    pub alignment: u32,
    /// What it is.
    pub kind: StorageKind,
    /// Whether it refuses writes.
    pub read_only: bool,
    /// Whether `Discard` gives room back.
    pub discards: bool,
    /// Whether `WriteZeroes` is cheaper than writing zeroes.
    pub zeroes_fast: bool,
    /// Bytes in the unit that it addresses; 512 for files.
    pub logical_block_size: u32,
    /// Bytes in the unit that it writes at once without reading.
    pub physical_block_size: u32,
    /// Device and inode number of a file, major:minor twice of a device; names the same storage under any path.
    pub identity: (u64, u64),
}

/// Bytes at offsets. One open storage serves all queues: each passes the executor on whose ring its I/O goes.
///
/// The contract: an operation that was submitted is carried out, also when its [`Pending`] is dropped; `hold` is kept
/// until it has ended, whoever still waits. Every error carries [`Storage::origin`], also one that was found before the
/// kernel was asked: whoever sees it knows which storage it was.
pub trait Storage: Send + Sync + Debug {
    /// Starts an operation.
    fn submit(&self, executor: &Executor, operation: StorageOperation, hold: Option<Hold>) -> Pending;

    /// Its length now, in bytes.
    fn length(&self) -> u64;

    /// What it can do.
    fn limits(&self) -> Limits;

    /// What its errors carry: its name, and whether it is remote.
    fn origin(&self) -> Origin;
}

/// The operations as one would like to write them.
#[allow(async_fn_in_trait, reason = "executors are single-threaded; no future crosses a thread")]
pub trait StorageExt {
    /// Fills `buffer` from `offset`.
    async fn read(&self, executor: &Executor, offset: FileOffset, buffer: Buffer) -> (Buffer, Result<()>);
    /// Writes `buffer` at `offset`.
    async fn write(&self, executor: &Executor, offset: FileOffset, buffer: Buffer) -> (Buffer, Result<()>);
    /// Makes all that has completed durable.
    async fn sync(&self, executor: &Executor) -> Result<()>;
    /// Makes room.
    async fn allocate(&self, executor: &Executor, range: FileRange) -> Result<()>;
    /// Gives room back.
    async fn discard(&self, executor: &Executor, range: FileRange) -> Result<()>;
    /// Makes `range` read as zeroes.
    async fn write_zeroes(&self, executor: &Executor, range: FileRange, may_free: bool) -> Result<()>;
    /// Cuts or extends it.
    async fn set_length(&self, executor: &Executor, length: u64) -> Result<()>;
    /// Gives up the writer's lock; see [`StorageOperation::Unlock`].
    async fn unlock(&self, executor: &Executor) -> Result<()>;
    /// Takes the writer's lock again; see [`StorageOperation::Lock`].
    async fn lock(&self, executor: &Executor) -> Result<()>;
    /// A copy of `length` bytes from `offset`; for metadata.
    async fn read_bytes(&self, executor: &Executor, offset: FileOffset, length: usize) -> Result<Vec<u8>>;
    /// Writes a copy of `bytes` at `offset`; for metadata.
    async fn write_bytes(&self, executor: &Executor, offset: FileOffset, bytes: &[u8]) -> Result<()>;
}

impl<S: Storage + ?Sized> StorageExt for S {
    async fn read(&self, executor: &Executor, offset: FileOffset, buffer: Buffer) -> (Buffer, Result<()>) {
        with_buffer(self.submit(executor, StorageOperation::Read { offset, buffer }, None)).await
    }

    async fn write(&self, executor: &Executor, offset: FileOffset, buffer: Buffer) -> (Buffer, Result<()>) {
        with_buffer(self.submit(executor, StorageOperation::Write { offset, buffer, durable: false }, None)).await
    }

    async fn sync(&self, executor: &Executor) -> Result<()> {
        self.submit(executor, StorageOperation::Sync, None).await.result
    }

    async fn allocate(&self, executor: &Executor, range: FileRange) -> Result<()> {
        self.submit(executor, StorageOperation::Allocate(range), None).await.result
    }

    async fn discard(&self, executor: &Executor, range: FileRange) -> Result<()> {
        self.submit(executor, StorageOperation::Discard(range), None).await.result
    }

    async fn write_zeroes(&self, executor: &Executor, range: FileRange, may_free: bool) -> Result<()> {
        self.submit(executor, StorageOperation::WriteZeroes { range, may_free }, None).await.result
    }

    async fn set_length(&self, executor: &Executor, length: u64) -> Result<()> {
        self.submit(executor, StorageOperation::SetLength(length), None).await.result
    }

    async fn unlock(&self, executor: &Executor) -> Result<()> {
        self.submit(executor, StorageOperation::Unlock, None).await.result
    }

    async fn lock(&self, executor: &Executor) -> Result<()> {
        self.submit(executor, StorageOperation::Lock, None).await.result
    }

    async fn read_bytes(&self, executor: &Executor, offset: FileOffset, length: usize) -> Result<Vec<u8>> {
        let (buffer, result) = self.read(executor, offset, Buffer::zeroed(length)).await;
        result.map(|()| buffer.to_vec())
    }

    async fn write_bytes(&self, executor: &Executor, offset: FileOffset, bytes: &[u8]) -> Result<()> {
        self.write(executor, offset, Buffer::from_bytes(bytes)).await.1
    }
}

async fn with_buffer(pending: Pending) -> (Buffer, Result<()>) {
    let Completion { buffer, result } = pending.await;
    (buffer.expect("reads and writes give their buffer back"), result)
}
