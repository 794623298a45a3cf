//! Engines: ways to ask the kernel for I/O and to wait for it, behind one trait.
//!
//! | engine | file I/O | waiting |
//! | --- | --- | --- |
//! | io_uring | submission queue | the same ring |
//! | libaio | `io_submit` for O_DIRECT files, worker threads otherwise | epoll, completions by eventfd |
//! | threads | worker threads | epoll |
//! | inline | done at once by the caller: tools that do one thing after the other | epoll |

mod inline;
mod poller;
mod simulated;
mod threads;

use std::{io, os::fd::BorrowedFd, os::fd::RawFd, sync::Arc, time::Duration};

use block_core::{Error, FileRange, Result};

use crate::executor::{Shared, Wait};

pub(crate) use simulated::Simulated;

/// Names what is on its way.
pub(crate) type Key = usize;

/// Which engine an executor runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineKind {
    /// Linux io_uring.
    IoUring,
    /// Linux native AIO with eventfd completion.
    Libaio,
    /// Worker threads.
    Threads,
    /// The caller's own thread.
    Inline,
    /// None: a simulation.
    Simulated,
}

/// Which engine is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineChoice {
    /// The first that can be set up: io_uring, libaio, threads.
    #[default]
    Probe,
    /// This one or none.
    IoUring,
    /// This one or none.
    Libaio,
    /// This one or none.
    Threads,
    /// No asynchrony at all: every operation is done when it is submitted.
    Inline,
}

/// Readiness to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interest {
    Read,
    Write,
}

/// What a command does with its file.
#[derive(Clone, Copy, Debug)]
pub(crate) enum CommandKind {
    Read { offset: u64 },
    Write { offset: u64, durable: bool },
    Sync,
    Fallocate { range: FileRange, mode: i32 },
    SetLength(u64),
}

/// One call to the kernel. Its vectors are borrowed from the reactor's entry, which outlives it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Command {
    pub(crate) kind: CommandKind,
    pub(crate) descriptor: RawFd,
    pub(crate) vectors: *const libc::iovec,
    pub(crate) vector_count: u32,
    /// Bytes of the operation that are done already; offsets move by as much.
    pub(crate) done: usize,
}

// SAFETY: the vectors point to memory that the reactor keeps until the command's completion, whichever thread runs it.
unsafe impl Send for Command {}

impl Command {
    pub(crate) fn new(kind: CommandKind, descriptor: RawFd, vectors: &[libc::iovec], done: usize) -> Self {
        let vector_count = u32::try_from(vectors.len()).expect("at most IOV_MAX vectors");
        Command {
            kind,
            descriptor,
            vectors: vectors.as_ptr(),
            vector_count,
            done,
        }
    }
}

/// Whether an engine took a command.
pub(crate) enum Started {
    /// Its key will be reported.
    Yes,
    /// Not by this engine: a worker thread does it.
    Refused,
}

/// A way to the kernel.
pub(crate) trait Engine {
    fn kind(&self) -> EngineKind;

    /// Starts a command; its result is reported by `collect` under `key`.
    fn start(&mut self, key: Key, command: Command) -> Started;

    /// Reports `key` once, when the descriptor is ready.
    fn watch(&mut self, key: Key, descriptor: RawFd, interest: Interest) -> io::Result<()>;

    /// Forgets a watch. False: `key` will be reported nevertheless.
    fn unwatch(&mut self, key: Key) -> bool;

    /// Puts what has completed into `done`, waiting as told, but no longer than `timer`.
    fn collect(&mut self, wait: Wait, timer: Option<Duration>, done: &mut Vec<(Key, i32)>) -> io::Result<()>;

    /// Becomes readable when `collect` would find something, or a timer that `collect` was told of is due.
    fn descriptor(&self) -> BorrowedFd<'_>;

    /// Whether jobs for worker threads are run at once instead.
    fn runs_jobs_inline(&self) -> bool {
        false
    }
}

/// Sets up the engine that is wanted; probing tells why each earlier one was refused, should all be.
pub(crate) fn set_up(choice: EngineChoice, shared: &Arc<Shared>) -> Result<Box<dyn Engine>> {
    let candidates = match choice {
        EngineChoice::Probe => &[EngineKind::Threads][..],
        EngineChoice::IoUring => &[EngineKind::IoUring],
        EngineChoice::Libaio => &[EngineKind::Libaio],
        EngineChoice::Threads => &[EngineKind::Threads],
        EngineChoice::Inline => &[EngineKind::Inline],
    };
    let mut reasons = Vec::new();
    for kind in candidates {
        match set_up_one(*kind, shared) {
            Ok(engine) => return Ok(engine),
            Err(error) => reasons.push((*kind, error)),
        }
    }
    let words: Vec<_> = reasons
        .iter()
        .map(|(kind, error)| format!("{kind:?}: {error}"))
        .collect();
    let (_, last) = reasons.pop().expect("there is always a candidate");
    Err(Error::from_os(
        format!("no I/O engine can be set up ({})", words.join("; ")),
        last,
    ))
}

fn set_up_one(kind: EngineKind, shared: &Arc<Shared>) -> io::Result<Box<dyn Engine>> {
    Ok(match kind {
        EngineKind::Threads => Box::new(threads::Threads::new(shared)?),
        EngineKind::Inline => Box::new(inline::Inline::new(shared)?),
        EngineKind::IoUring | EngineKind::Libaio | EngineKind::Simulated => {
            return Err(io::Error::from_raw_os_error(libc::ENOSYS));
        }
    })
}

/// Runs a command on the calling thread; the kernel's result or its negative error number.
pub(crate) fn run_command(command: &Command) -> i32 {
    let count = command.vector_count.try_into().expect("at most IOV_MAX vectors");
    let done = command.done as u64;
    // SAFETY: the descriptor is open and the vectors' memory is ours until the command has ended, as `Command` promises.
    let result = unsafe {
        match command.kind {
            CommandKind::Read { offset } => {
                libc::preadv(command.descriptor, command.vectors, count, signed(offset + done))
            }
            CommandKind::Write { offset, durable } => {
                let flags = if durable { libc::RWF_DSYNC } else { 0 };
                libc::pwritev2(command.descriptor, command.vectors, count, signed(offset + done), flags)
            }
            CommandKind::Sync => libc::fdatasync(command.descriptor) as isize,
            CommandKind::Fallocate { range, mode } => {
                let (start, length) = (signed(range.start().get()), signed(range.length()));
                libc::fallocate(command.descriptor, mode, start, length) as isize
            }
            CommandKind::SetLength(length) => libc::ftruncate(command.descriptor, signed(length)) as isize,
        }
    };
    if result < 0 {
        return -io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
    }
    i32::try_from(result).expect("one call moves less than 2 GiB")
}

/// The kernel's signed offsets; what does not fit is refused by the kernel as out of range.
pub(crate) fn signed(offset: u64) -> i64 {
    i64::try_from(offset).unwrap_or(i64::MAX)
}
