//! What the tests of the engines share: every test runs on each of them.

#![allow(dead_code, reason = "each test program uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

use std::{path::Path, sync::Arc};

use block_core::{FileOffset, FileRange};
use storage_io::{CreateMode, Executor, Files, LockPolicy, OpenOptions, Opener, Storage};
use tempfile::TempDir;

/// Makes a test of each story for each engine; it is given an executor.
#[macro_export]
macro_rules! on_every_engine {
    ($($(#[$attribute:meta])* fn $story:ident($executor:ident) $body:block)*) => {$(
        mod $story {
            #[allow(unused_imports, reason = "some stories need less")]
            use super::*;

            $(#[$attribute])*
            fn story($executor: &Executor) $body

            #[test]
            fn on_io_uring() {
                story(&Executor::new(storage_io::EngineChoice::IoUring).unwrap());
            }

            #[test]
            fn on_libaio() {
                story(&Executor::new(storage_io::EngineChoice::Libaio).unwrap());
            }

            #[test]
            fn on_threads() {
                story(&Executor::new(storage_io::EngineChoice::Threads).unwrap());
            }

            #[test]
            fn inline() {
                story(&Executor::new(storage_io::EngineChoice::Inline).unwrap());
            }
        }
    )*};
}

/// A private directory on the disk that we build on: the system's temporary directory may be memory.
pub(crate) fn directory() -> TempDir {
    TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Options for a file that is made new: without a lock.
pub(crate) fn new_file(direct: bool) -> OpenOptions {
    OpenOptions { direct, lock: LockPolicy::None, create: CreateMode::New, ..OpenOptions::write() }
}

/// Opens a storage of the file system.
pub(crate) fn open(executor: &Executor, path: &Path, options: OpenOptions) -> Arc<dyn Storage> {
    executor.block_on(Files.open(executor, path, options)).unwrap()
}

/// Bytes that tell their position: they repeat at no power of two.
pub(crate) fn pattern(length: usize, salt: u8) -> Vec<u8> {
    (0..length).map(|index| u8::try_from(index % 251).unwrap().wrapping_add(salt)).collect()
}

/// A position.
pub(crate) fn at(position: u64) -> FileOffset {
    FileOffset::new(position)
}

/// A range.
pub(crate) fn range(position: u64, length: u64) -> FileRange {
    FileRange::new(at(position), length)
}

/// A sequence of numbers drawn from a seed (xorshift).
pub(crate) struct Draw(u64);

impl Draw {
    pub(crate) fn new(seed: u64) -> Self {
        Draw(seed | 1)
    }

    /// A number below `limit`.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 8) % limit
    }
}
