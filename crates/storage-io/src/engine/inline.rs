//! No asynchrony: every operation is done by the caller's thread when it is submitted. For tools that run one step
//! after the other and start thousands of times a day.

use std::{
    io,
    os::fd::{BorrowedFd, RawFd},
    sync::Arc,
    time::Duration,
};

use super::{Command, Engine, EngineKind, Interest, Key, Started, poller::Poller};
use crate::{executor::Wait, shared::Shared};

pub(super) struct Inline {
    poller: Poller,
    finished: Vec<(Key, i32)>,
}

impl Inline {
    pub(super) fn new(shared: &Arc<Shared>) -> io::Result<Self> {
        Ok(Inline { poller: Poller::new(shared)?, finished: Vec::new() })
    }
}

impl Engine for Inline {
    fn kind(&self) -> EngineKind {
        EngineKind::Inline
    }

    fn start(&mut self, key: Key, command: Command) -> Started {
        self.finished.push((key, command.run()));
        Started::Yes
    }

    fn watch(&mut self, key: Key, descriptor: RawFd, interest: Interest) -> io::Result<()> {
        self.poller.watch(key, descriptor, interest)
    }

    fn unwatch(&mut self, key: Key) -> bool {
        self.poller.unwatch(key)
    }

    fn collect(&mut self, wait: Wait, timer: Option<Duration>, done: &mut Vec<(Key, i32)>) -> io::Result<()> {
        if !self.finished.is_empty() {
            done.append(&mut self.finished);
            return Ok(());
        }
        self.poller.collect(wait, timer, done)
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        self.poller.descriptor()
    }

    fn leave(&mut self, timer: Option<Duration>) -> io::Result<()> {
        self.poller.leave(timer)
    }

    fn runs_jobs_inline(&self) -> bool {
        true
    }
}
