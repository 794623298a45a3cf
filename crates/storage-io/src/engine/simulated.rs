//! The engine of a simulation: no kernel. Memory storages answer by tasks, time moves when the simulation says so.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, RawFd},
    sync::Arc,
    time::Duration,
};

use super::{Command, Engine, EngineKind, Interest, Key, Started};
use crate::{executor::Wait, shared::Shared};

pub(crate) struct Simulated {
    pub(crate) shared: Arc<Shared>,
}

impl Engine for Simulated {
    fn kind(&self) -> EngineKind {
        EngineKind::Simulated
    }

    fn start(&mut self, _key: Key, command: Command) -> Started {
        panic!("a simulation has no files: {command:?}")
    }

    fn watch(&mut self, _key: Key, _descriptor: RawFd, _interest: Interest) -> io::Result<()> {
        Err(io::Error::from_raw_os_error(libc::ENOSYS))
    }

    fn unwatch(&mut self, _key: Key) -> bool {
        true
    }

    fn collect(&mut self, _wait: Wait, _timer: Option<Duration>, _done: &mut Vec<(Key, i32)>) -> io::Result<()> {
        Ok(())
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        self.shared.wake_descriptor().as_fd()
    }

    fn leave(&mut self, _timer: Option<Duration>) -> io::Result<()> {
        Ok(())
    }

    fn runs_jobs_inline(&self) -> bool {
        true
    }
}
