//! A regular file or a block device.

use std::{fmt, sync::Arc};

use block_core::{ErrorKind, FileOffset, FileRange, Origin, Result};

use crate::{
    Buffer, Completion, Executor, Hold, Limits, Pending, Storage, StorageKind, StorageOperation, engine::CommandKind,
    open_file::OpenFile,
};

/// An open file or block device, behind the [`Storage`] trait.
#[derive(Clone)]
pub(crate) struct FileStorage {
    file: Arc<OpenFile>,
    limits: Limits,
}

/// Zeroes are written in pieces of this many bytes where the storage cannot make them itself.
const ZERO_PIECE: u64 = 1 << 20;

const PUNCH_HOLE: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
const ZERO_RANGE: i32 = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;

impl FileStorage {
    pub(crate) fn new(file: OpenFile, limits: Limits) -> Self {
        FileStorage { file: Arc::new(file), limits }
    }

    fn is_device(&self) -> bool {
        self.limits.kind == StorageKind::BlockDevice
    }

    /// What the kernel would refuse, or take for something else.
    fn check(&self, operation: &StorageOperation) -> Result<()> {
        if self.limits.read_only && operation.changes() {
            return Err(self.file.refusal(ErrorKind::ReadOnly, "is open for reading only"));
        }
        if operation.changes() && self.file.is_unlocked() {
            return Err(self.file.refusal(ErrorKind::Busy, "its lock was given up"));
        }
        let unit = u64::from(self.limits.alignment);
        let memory = match operation {
            StorageOperation::Read { buffer, .. } | StorageOperation::Write { buffer, .. } => {
                buffer.is_aligned(self.limits.alignment as usize)
            }
            _ => true,
        };
        if memory && operation.range().is_none_or(|range| range.is_aligned(unit)) {
            Ok(())
        } else {
            Err(self.file.refusal(ErrorKind::Invalid, "the operation is not aligned"))
        }
    }

    /// How many bytes at the end of a range may be missing: a file that does not end at a multiple of the alignment reads
    /// as if zeroes followed.
    fn tail(&self, range: FileRange) -> usize {
        let unit = u64::from(self.limits.alignment);
        let (end, length) = (range.end().get(), self.file.length());
        let missing = end.saturating_sub(length);
        if missing < unit && range.start().get() < length {
            usize::try_from(missing).expect("less than a page")
        } else {
            0
        }
    }

    fn allocate(&self, executor: &Executor, range: FileRange, hold: Option<Hold>) -> Pending {
        if self.is_device() {
            let fits = range.end().get() <= self.file.length();
            let result = if fits {
                Ok(())
            } else {
                Err(self.file.refusal(ErrorKind::NoSpace, "the device ends before the range does"))
            };
            return answer(result);
        }
        let (file, executor) = (self.file.clone(), executor.clone());
        Pending::spawn(&executor.clone(), hold, async move {
            let done = command(&executor, &file, CommandKind::Fallocate { range, mode: 0 }).await;
            if !is_unsupported(&done) || range.end().get() <= file.length() {
                return completion(unless_unsupported(done));
            }
            completion(command(&executor, &file, CommandKind::SetLength(range.end().get())).await)
        })
    }

    fn discard(&self, executor: &Executor, range: FileRange, hold: Option<Hold>) -> Pending {
        let kind = if self.is_device() {
            let Some(range) = align_in(range, self.limits.logical_block_size) else {
                return answer(Ok(()));
            };
            CommandKind::Discard(range)
        } else {
            CommandKind::Fallocate { range, mode: PUNCH_HOLE }
        };
        executor.start(kind, &self.file, None, hold)
    }

    fn write_zeroes(&self, executor: &Executor, range: FileRange, may_free: bool, hold: Option<Hold>) -> Pending {
        let zeroing = Zeroing {
            executor: executor.clone(),
            file: self.file.clone(),
            unit: self.limits.logical_block_size,
            alignment: self.limits.alignment.into(),
            is_device: self.is_device(),
        };
        Pending::spawn(executor, hold, async move { completion(zeroing.run(range, may_free).await) })
    }

    fn set_length(&self, executor: &Executor, length: u64, hold: Option<Hold>) -> Pending {
        if !self.is_device() {
            return executor.start(CommandKind::SetLength(length), &self.file, None, hold);
        }
        answer(if length == self.file.length() {
            Ok(())
        } else {
            Err(self.file.refusal(ErrorKind::Unsupported, "a device has the length that it has"))
        })
    }

    /// What the kernel offers only to those who wait: a lock on a dead server hangs.
    fn on_worker(
        &self,
        executor: &Executor,
        doing: &str,
        hold: Option<Hold>,
        job: impl FnOnce(&OpenFile) -> Result<()> + Send + 'static,
    ) -> Pending {
        let (file, worker) = (self.file.clone(), executor.clone());
        let what = format!("{doing} {}", file.path());
        Pending::spawn(executor, hold, async move {
            let origin = file.origin();
            let done = worker.blocking(what, move || job(&file)).await.and_then(|result| result);
            completion(done.map_err(|error| error.with_origin(origin)))
        })
    }

    /// Begins `operation`, which changes the storage, when its lease has been seen to be there.
    fn submit_leased(&self, executor: &Executor, operation: StorageOperation, hold: Option<Hold>) -> Pending {
        let (storage, executor) = (self.clone(), executor.clone());
        Pending::spawn(&executor.clone(), hold, async move {
            // Looking may itself take so long that it says nothing any more.
            while storage.file.must_look(executor.now()) {
                let now = executor.now();
                let look = move |file: &OpenFile| file.look_at_lease(now);
                let looked = storage.on_worker(&executor, "looking at the lease of", None, look).await.result;
                if let Err(error) = looked {
                    return Completion { buffer: operation.into_buffer(), result: Err(error) };
                }
            }
            match storage.check(&operation) {
                Ok(()) => storage.begin(&executor, operation, None).await,
                Err(error) => Completion { buffer: operation.into_buffer(), result: Err(error) },
            }
        })
    }

    fn begin(&self, executor: &Executor, operation: StorageOperation, hold: Option<Hold>) -> Pending {
        match operation {
            StorageOperation::Read { offset, buffer } => {
                let tail = self.tail(FileRange::new(offset, buffer.len() as u64));
                let offset = offset.get();
                executor.start(CommandKind::Read { offset, tail }, &self.file, Some(buffer), hold)
            }
            StorageOperation::Write { offset, buffer, durable } => {
                let offset = offset.get();
                let kind = CommandKind::Write { offset, durable };
                executor.start(kind, &self.file, Some(buffer), hold)
            }
            StorageOperation::Sync => executor.start(CommandKind::Sync, &self.file, None, hold),
            StorageOperation::Allocate(range) => self.allocate(executor, range, hold),
            StorageOperation::Discard(range) => self.discard(executor, range, hold),
            StorageOperation::WriteZeroes { range, may_free } => self.write_zeroes(executor, range, may_free, hold),
            StorageOperation::SetLength(length) => self.set_length(executor, length, hold),
            StorageOperation::Unlock => self.on_worker(executor, "unlocking", hold, OpenFile::unlock),
            StorageOperation::Lock => self.on_worker(executor, "locking", hold, OpenFile::lock),
        }
    }
}

impl Storage for FileStorage {
    fn submit(&self, executor: &Executor, operation: StorageOperation, hold: Option<Hold>) -> Pending {
        if let Err(error) = self.check(&operation) {
            return Pending::ready(operation, Err(error));
        }
        if operation.range().is_some_and(FileRange::is_empty) {
            return Pending::ready(operation, Ok(()));
        }
        if operation.changes() && self.file.must_look(executor.now()) {
            return self.submit_leased(executor, operation, hold);
        }
        self.begin(executor, operation, hold)
    }

    fn length(&self) -> u64 {
        self.file.length()
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn origin(&self) -> Origin {
        self.file.origin()
    }
}

impl fmt::Debug for FileStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileStorage({})", self.file.path())
    }
}

fn answer(result: Result<()>) -> Pending {
    Pending::completed(completion(result))
}

fn completion(result: Result<()>) -> Completion {
    Completion { buffer: None, result }
}

async fn command(executor: &Executor, file: &Arc<OpenFile>, kind: CommandKind) -> Result<()> {
    executor.start(kind, file, None, None).await.result
}

/// Whether file system, device or kernel have no such operation.
fn is_unsupported(result: &Result<()>) -> bool {
    let unsupported = [libc::EOPNOTSUPP, libc::ENOSYS, libc::ENOTTY];
    matches!(result, Err(error) if error.os_error().is_some_and(|number| unsupported.contains(&number)))
}

fn unless_unsupported(result: Result<()>) -> Result<()> {
    if is_unsupported(&result) { Ok(()) } else { result }
}

/// The largest range inside whose ends are multiples of `unit`; none, if that is empty.
fn align_in(range: FileRange, unit: u32) -> Option<FileRange> {
    let unit = u64::from(unit);
    let start = range.start().get().checked_next_multiple_of(unit)?;
    let end = range.end().align_down(unit).get();
    let length = end.checked_sub(start).filter(|length| *length > 0)?;
    Some(FileRange::new(FileOffset::new(start), length))
}

/// How zeroes come about: the cheapest way that file system and device offer, in the end by writing them.
struct Zeroing {
    executor: Executor,
    file: Arc<OpenFile>,
    /// What a device zeroes at once.
    unit: u32,
    alignment: u64,
    is_device: bool,
}

impl Zeroing {
    async fn run(&self, range: FileRange, may_free: bool) -> Result<()> {
        let Some(range) = self.clip(range) else { return Ok(()) };
        let whole = if self.is_device { align_in(range, self.unit) } else { Some(range) };
        let Some(whole) = whole else {
            return self.write(range).await;
        };
        if !self.ask(whole, may_free).await? {
            return self.write(range).await;
        }
        self.write(between(range.start(), whole.start())).await?;
        self.write(between(whole.end(), range.end())).await
    }

    /// What lies behind the end needs no zeroes: nothing is there that could be read.
    fn clip(&self, range: FileRange) -> Option<FileRange> {
        let end = self.file.length().checked_next_multiple_of(self.alignment)?;
        range.intersection(FileRange::new(FileOffset::new(0), end))
    }

    /// Asks the kernel to do it. False: it cannot.
    async fn ask(&self, range: FileRange, may_free: bool) -> Result<bool> {
        let free = CommandKind::Fallocate { range, mode: PUNCH_HOLE };
        let zero = if self.is_device {
            CommandKind::ZeroOut(range)
        } else {
            CommandKind::Fallocate { range, mode: ZERO_RANGE }
        };
        for kind in may_free.then_some(free).into_iter().chain([zero]) {
            let result = command(&self.executor, &self.file, kind).await;
            if !is_unsupported(&result) {
                return result.map(|()| true);
            }
        }
        Ok(false)
    }

    async fn write(&self, range: FileRange) -> Result<()> {
        let length = usize::try_from(range.length().min(ZERO_PIECE)).expect("at most a piece");
        let mut zeroes = Buffer::zeroed(length);
        for piece in range.granules(ZERO_PIECE) {
            let rest = zeroes.split_off(usize::try_from(piece.length()).expect("at most a piece"));
            let kind = CommandKind::Write { offset: piece.start().get(), durable: false };
            let done = self.executor.start(kind, &self.file, Some(zeroes), None).await;
            done.result?;
            zeroes = done.buffer.expect("writes give their buffer back");
            zeroes.append(rest);
        }
        Ok(())
    }
}

fn between(start: FileOffset, end: FileOffset) -> FileRange {
    FileRange::new(start, end - start)
}
