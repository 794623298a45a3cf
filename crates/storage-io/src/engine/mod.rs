//! Engines: ways to ask the kernel for I/O and to wait for it, behind one trait.
//!
//! | engine | file I/O | waiting |
//! | --- | --- | --- |
//! | io_uring | submission queue | the same ring |
//! | libaio | `io_submit` for O_DIRECT files, worker threads otherwise | epoll, completions by eventfd |
//! | threads | worker threads | epoll |
//! | inline | done at once by the caller: tools that do one thing after the other | epoll |

mod command;
mod inline;
mod libaio;
mod poller;
mod simulated;
mod threads;
mod uring;

use std::{
    fmt, io,
    os::fd::{BorrowedFd, RawFd},
    sync::Arc,
    time::Duration,
};

use block_core::{Error, Result};

use crate::{executor::Wait, shared::Shared};

pub(crate) use command::{Command, CommandKind, Memory};
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

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            EngineKind::IoUring => "io_uring",
            EngineKind::Libaio => "libaio",
            EngineKind::Threads => "threads",
            EngineKind::Inline => "inline",
            EngineKind::Simulated => "simulated",
        })
    }
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

    /// Becomes readable when `collect` would find something.
    fn descriptor(&self) -> BorrowedFd<'_>;

    /// Somebody else waits for the descriptor now: what was started is on its way, and when `timer` runs out it becomes
    /// readable too.
    fn leave(&mut self, timer: Option<Duration>) -> io::Result<()>;

    /// Whether jobs for worker threads are run at once instead.
    fn runs_jobs_inline(&self) -> bool {
        false
    }
}

/// An engine, and the reasons why better ones were refused.
pub(crate) struct Chosen {
    pub(crate) engine: Box<dyn Engine>,
    pub(crate) refused: Vec<(EngineKind, Error)>,
}

/// Sets up the engine that is wanted; probing takes the first that can be set up.
pub(crate) fn set_up(choice: EngineChoice, shared: &Arc<Shared>) -> Result<Chosen> {
    let candidates = match choice {
        EngineChoice::Probe => &[EngineKind::IoUring, EngineKind::Libaio, EngineKind::Threads][..],
        EngineChoice::IoUring => &[EngineKind::IoUring],
        EngineChoice::Libaio => &[EngineKind::Libaio],
        EngineChoice::Threads => &[EngineKind::Threads],
        EngineChoice::Inline => &[EngineKind::Inline],
    };
    let mut refused = Vec::new();
    for kind in candidates {
        match set_up_one(*kind, shared) {
            Ok(engine) => return Ok(Chosen { engine, refused }),
            Err(error) => refused.push((*kind, Error::from_os(hint(*kind, &error), error))),
        }
    }
    let reasons: Vec<_> = refused.iter().map(|(kind, error)| format!("{kind}: {error}")).collect();
    let (_, last) = refused.pop().expect("there is always a candidate");
    let number = last.os_error().unwrap_or(libc::ENOSYS);
    let words = format!("no I/O engine ({})", reasons.join("; "));
    Err(Error::from_os(words, io::Error::from_raw_os_error(number)))
}

fn set_up_one(kind: EngineKind, shared: &Arc<Shared>) -> io::Result<Box<dyn Engine>> {
    Ok(match kind {
        EngineKind::IoUring => Box::new(uring::Uring::new(shared)?),
        EngineKind::Libaio => Box::new(libaio::Libaio::new(shared)?),
        EngineKind::Threads => Box::new(threads::Threads::new(shared)?),
        EngineKind::Inline => Box::new(inline::Inline::new(shared)?),
        EngineKind::Simulated => return Err(io::Error::from_raw_os_error(libc::ENOSYS)),
    })
}

/// What an error number means for an engine, where its own words do not say it.
fn hint(kind: EngineKind, error: &io::Error) -> &'static str {
    match (kind, error.raw_os_error()) {
        (EngineKind::IoUring, Some(libc::EPERM)) => "forbidden by kernel.io_uring_disabled or a system call filter",
        (EngineKind::IoUring, Some(libc::ENOSYS)) => "not in this kernel",
        (EngineKind::IoUring, Some(libc::ENOMEM)) => "the limit of locked memory is reached",
        (EngineKind::Libaio, Some(libc::EAGAIN)) => "fs.aio-max-nr is used up",
        (EngineKind::Libaio, Some(libc::ENOSYS)) => "not in this kernel",
        _ => "cannot be set up",
    }
}

/// How long a wait may last; none for ever.
fn wait_limit(wait: Wait, timer: Option<Duration>) -> Option<Duration> {
    match (wait, timer) {
        (Wait::No, _) => Some(Duration::ZERO),
        (Wait::For(limit), Some(timer)) => Some(limit.min(timer)),
        (Wait::For(limit), None) => Some(limit),
        (Wait::Forever, timer) => timer,
    }
}
