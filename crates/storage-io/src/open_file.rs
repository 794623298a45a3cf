//! One open file description, shared by all operations on it and by who opened it.

use std::{
    fs::File,
    io::{self, Seek, SeekFrom},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
        unix::fs::FileTypeExt,
    },
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use block_core::{Error, ErrorKind, Origin, Result, ResultExt};
use rustix::fs::fstatfs;

use crate::{
    LockPolicy, Moment,
    engine::CommandKind,
    lease::{LOOK_INTERVAL, Lease},
    write_lock::{self, Leases},
};

/// Stands for a moment: there is no lease to look for.
const NO_LEASE: u64 = u64::MAX;

/// Numbers of file systems that are memory, as `statfs` tells them: tmpfs and ramfs.
const MEMORY_MAGIC: [u64; 2] = [0x0102_1994, 0x8584_58f6];
/// Bytes that are copied faster than another thread is woken, or a little slower.
const AT_HAND_MAX: usize = 256 << 10;

/// A file or device as the reactor keeps it: descriptor, lock and name stay until the last operation has ended.
pub(crate) struct OpenFile {
    file: File,
    /// Its path, and whether it is remote.
    origin: Origin,
    /// Whether it bypasses the page cache.
    direct: bool,
    /// Whether it has no storage behind it but memory.
    in_memory: bool,
    /// Bytes: what was there when it was opened, and what has completed since.
    length: AtomicU64,
    /// Opened as its only writer.
    is_exclusive: bool,
    /// Its writer's lock was not taken yet, or given up for a while.
    is_unlocked: AtomicBool,
    /// Where its writer has a lease,
    leases: Leases,
    /// the lease, if it has one. Held for as long as that is looked at, and never by who only wants to know whether to look.
    lease: Mutex<Option<Lease>>,
    /// When its lease was last seen to be there, in nanoseconds.
    looked: AtomicU64,
}

impl OpenFile {
    /// A file whose lock, if it is to be taken at once, has been taken, and its lease, if it needs one.
    pub(crate) fn new(
        file: File,
        origin: Origin,
        direct: bool,
        lock: LockPolicy,
        (leases, lease): (Leases, Option<Lease>),
    ) -> io::Result<Self> {
        let length = AtomicU64::new(length_of(&file)?);
        let in_memory = is_in_memory(&file);
        let is_exclusive = lock != LockPolicy::None;
        let is_unlocked = AtomicBool::new(lock == LockPolicy::Later);
        let looked = AtomicU64::new(if lease.is_some() { 0 } else { NO_LEASE });
        let lease = Mutex::new(lease);
        Ok(OpenFile { file, origin, direct, in_memory, length, is_exclusive, is_unlocked, leases, lease, looked })
    }

    pub(crate) fn descriptor(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    pub(crate) fn path(&self) -> &str {
        &self.origin.place
    }

    pub(crate) fn origin(&self) -> Origin {
        self.origin.clone()
    }

    pub(crate) fn is_direct(&self) -> bool {
        self.direct
    }

    /// Whether a transfer of so many bytes takes no longer than to have somebody else do it.
    pub(crate) fn is_at_hand(&self, bytes: usize) -> bool {
        self.in_memory && bytes <= AT_HAND_MAX
    }

    pub(crate) fn length(&self) -> u64 {
        self.length.load(Ordering::Acquire)
    }

    pub(crate) fn is_unlocked(&self) -> bool {
        self.is_unlocked.load(Ordering::Acquire)
    }

    /// Whether its lease must be looked at before something is written.
    pub(crate) fn must_look(&self, now: Moment) -> bool {
        let looked = self.looked.load(Ordering::Acquire);
        looked != NO_LEASE && now - Moment::from_nanoseconds(looked) >= LOOK_INTERVAL
    }

    /// Looks whether its lease is still there. It is `now`, or was when this was asked for.
    pub(crate) fn look_at_lease(&self, now: Moment) -> Result<()> {
        match self.lease().as_mut() {
            Some(lease) => lease.look().map_err(|error| self.named(error))?,
            None => return Ok(()),
        }
        // Of two who have looked, the later counts; if it was given up meanwhile, nobody has to look.
        let later = |looked| (looked != NO_LEASE).then_some(now.nanoseconds().max(looked));
        let _ = self.looked.fetch_update(Ordering::AcqRel, Ordering::Acquire, later);
        Ok(())
    }

    fn lease(&self) -> MutexGuard<'_, Option<Lease>> {
        self.lease.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives up the writer's lock, if it has one. Without one it looks at the length again, which others may have changed.
    /// May wait for a server.
    pub(crate) fn unlock(&self) -> Result<()> {
        if !self.is_exclusive || self.is_unlocked.swap(true, Ordering::AcqRel) {
            return self.look_at_length();
        }
        let given_up = self.give_up_lease().and_then(|()| write_lock::give_up(&self.file));
        given_up.map_err(|error| {
            self.is_unlocked.store(false, Ordering::Release);
            self.named(error)
        })
    }

    /// The lease first: whoever waits for it on another host is not kept from it by the lock of this one.
    fn give_up_lease(&self) -> Result<()> {
        let mut lease = self.lease();
        if let Some(held) = lease.as_ref() {
            held.give_up().context("giving up its lease")?;
        }
        *lease = None;
        self.looked.store(NO_LEASE, Ordering::Release);
        Ok(())
    }

    /// Takes the writer's lock again, if it had one, and looks at the length again. May wait for a server, never for who
    /// has the lock.
    pub(crate) fn lock(&self) -> Result<()> {
        // Whoever takes a lock that is there already looks for changes of others; with a lease that was broken there are some.
        let has_lost = self.lease().take_if(|lease| lease.is_lost()).is_some();
        if has_lost {
            self.is_unlocked.store(true, Ordering::Release);
        }
        if self.is_exclusive && self.is_unlocked() {
            let lease = write_lock::take(&self.file, self.leases).map_err(|error| self.named(error))?;
            self.looked.store(if lease.is_some() { 0 } else { NO_LEASE }, Ordering::Release);
            *self.lease() = lease;
        }
        self.look_at_length()?;
        self.is_unlocked.store(false, Ordering::Release);
        Ok(())
    }

    fn look_at_length(&self) -> Result<()> {
        let length = length_of(&self.file).map_err(|error| self.failure("looking at its length", error))?;
        self.length.store(length, Ordering::Release);
        Ok(())
    }

    /// An error of our own finding.
    pub(crate) fn refusal(&self, kind: ErrorKind, words: &str) -> Error {
        Error::new(kind, format!("{}: {words}", self.path())).with_origin(self.origin())
    }

    fn failure(&self, doing: &str, error: io::Error) -> Error {
        Error::from_os(format!("{}: {doing}", self.path()), error).with_origin(self.origin())
    }

    /// Says which file it was.
    fn named(&self, error: Error) -> Error {
        error.context(self.path().to_owned()).with_origin(self.origin())
    }

    /// Takes note of an operation of `bytes` bytes that was done.
    pub(crate) fn was_done(&self, kind: CommandKind, bytes: usize) {
        match kind {
            CommandKind::Write { offset, .. } => self.grow(offset + bytes as u64),
            CommandKind::Fallocate { range, mode: 0 } => self.grow(range.end().get()),
            CommandKind::SetLength(length) => self.length.store(length, Ordering::Release),
            _ => {}
        }
    }

    fn grow(&self, end: u64) {
        if end > self.length() {
            self.length.fetch_max(end, Ordering::AcqRel);
        }
    }

    /// Says which file it was, and what was being done.
    pub(crate) fn explain(&self, kind: CommandKind, bytes: usize, error: Error) -> Error {
        error.with_origin(self.origin()).context(self.describe(kind, bytes))
    }

    /// The file, and what is done with it.
    pub(crate) fn describe(&self, kind: CommandKind, bytes: usize) -> String {
        let path = self.path();
        match kind {
            CommandKind::Read { offset, .. } => format!("{path}: reading {bytes} bytes at {offset:#x}"),
            CommandKind::Write { offset, .. } => format!("{path}: writing {bytes} bytes at {offset:#x}"),
            CommandKind::Sync => format!("{path}: syncing"),
            CommandKind::Fallocate { range, mode: 0 } => format!("{path}: allocating {range}"),
            CommandKind::Fallocate { range, .. } | CommandKind::Discard(range) | CommandKind::ZeroOut(range) => {
                format!("{path}: freeing or zeroing {range}")
            }
            CommandKind::SetLength(length) => format!("{path}: setting its length to {length} bytes"),
        }
    }
}

/// Whether its file system is memory, and nothing else. Devices are elsewhere, wherever their names are.
fn is_in_memory(file: &File) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.is_file())
        && fstatfs(file).is_ok_and(|system| MEMORY_MAGIC.contains(&(system.f_type as u64 & 0xffff_ffff)))
}

/// Bytes in a file or a device now.
fn length_of(file: &File) -> io::Result<u64> {
    let metadata = file.metadata()?;
    if metadata.file_type().is_block_device() {
        // The end of a device is where its size is told; nobody uses the position.
        return (&mut &*file).seek(SeekFrom::End(0));
    }
    Ok(metadata.len())
}

impl AsFd for OpenFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
