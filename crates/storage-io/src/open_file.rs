//! One open file description, shared by all operations on it and by who opened it.

use std::{
    fs::File,
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use block_core::Error;

use crate::engine::CommandKind;

/// A file or device as the reactor keeps it: descriptor, lock and name stay until the last operation has ended.
pub(crate) struct OpenFile {
    file: File,
    path: PathBuf,
    /// Whether it bypasses the page cache.
    direct: bool,
    /// Bytes: what was there when it was opened, and what has completed since.
    length: AtomicU64,
}

impl OpenFile {
    pub(crate) fn new(file: File, path: PathBuf, direct: bool, length: u64) -> Self {
        OpenFile { file, path, direct, length: AtomicU64::new(length) }
    }

    pub(crate) fn descriptor(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn is_direct(&self) -> bool {
        self.direct
    }

    pub(crate) fn length(&self) -> u64 {
        self.length.load(Ordering::Acquire)
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
        let path = self.path.display();
        match kind {
            CommandKind::Read { offset, .. } => {
                error.context(format_args!("{path}: reading {bytes} bytes at {offset:#x}"))
            }
            CommandKind::Write { offset, .. } => {
                error.context(format_args!("{path}: writing {bytes} bytes at {offset:#x}"))
            }
            CommandKind::Sync => error.context(format_args!("{path}: syncing")),
            CommandKind::Fallocate { range, mode: 0 } => error.context(format_args!("{path}: allocating {range}")),
            CommandKind::Fallocate { range, .. } | CommandKind::Discard(range) | CommandKind::ZeroOut(range) => {
                error.context(format_args!("{path}: freeing or zeroing {range}"))
            }
            CommandKind::SetLength(length) => {
                error.context(format_args!("{path}: setting its length to {length} bytes"))
            }
        }
    }
}

impl AsFd for OpenFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
