//! Bytes to and from files and devices: an executor with its reactor, buffers that the kernel may own, and the
//! [`Storage`] trait with its implementations.
//!
//! ```text
//!   async fn  --spawn-->  Executor  --turn()-->  collect what is ready, then dispatch
//!                            |
//!     Storage::submit -----> reactor: operation | readiness | timer | wake
//!                            |
//!              io_uring  |  libaio + epoll  |  threads + epoll  |  inline
//! ```
//!
//! An executor is a value: whoever needs one is given it. There is no thread-local, no global and no hidden clock, so a
//! test can run several executors on one thread, in virtual time, in an order drawn from a seed. The kernel owns a
//! [`Buffer`] from `submit` until its completion: buffers go in by value and come back with the answer, and dropping a
//! future gives up the answer, never the I/O.
//!
//! What an executor does can be seen while it does nothing: its [`LoopTrace`] is read from other threads,
//! [`Executor::operations`] lists what kernel and workers have not finished, and every error carries the storage it comes
//! from. [`FaultyFiles`] makes storage fail, hang and dawdle by rules, in tests and in the product.
//!
//! This crate knows nothing of images, disks or guests.

pub mod background;
mod buffer;
mod engine;
mod executor;
mod lease;
mod mailbox;
mod open_file;
mod opener;
mod pending;
mod process;
mod reactor;
mod shared;
mod shortcut;
mod signal;
mod storage;
mod stores;
mod task;
mod time;
mod trace;
mod worker;
mod write_lock;

pub use buffer::{Buffer, BufferPool, PAGE};
pub use engine::{EngineChoice, EngineKind};
pub use executor::{Executor, UnderWay, Wait};
pub use lease::{LEASE_BREAK_PAUSE, LeaseHolder, LeaseRecord};
pub use mailbox::{Receiver, Reply, ReplyTo, Sender, mailbox, reply};
pub use opener::{Access, CreateMode, LockPolicy, OpenOptions, Opener};
pub use pending::{Blocking, Hold, Pending, Readiness};
pub use process::{Fork, Signals, fork};
pub use reactor::RunningOperation;
pub use shortcut::Shortcut;
pub use signal::Signal;
pub use storage::{Completion, Limits, Storage, StorageExt, StorageKind, StorageOperation};
pub use stores::{
    aligned::AlignedStorage,
    crash::{CrashPoint, CrashStorage},
    faulty::{Effect, Fault, FaultRule, FaultScript, FaultyFiles, FaultyStorage, OperationKind},
    files::{Files, LeasedFiles},
    memory::MemoryStorage,
    memory_files::MemoryFiles,
    rehearsal::RehearsalStorage,
    remote::may_lack_locks,
    traced::{TracedOperation, TracedStorage},
};
pub use task::Task;
pub use time::{Moment, SimulatedClock, Sleep};
pub use trace::{LoopTrace, Turn, Woken};
