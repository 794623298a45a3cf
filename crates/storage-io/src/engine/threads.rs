//! Plain synchronous I/O on worker threads: works everywhere, costs a hop for each operation.

use std::{
    io,
    os::fd::{BorrowedFd, RawFd},
    sync::Arc,
    time::Duration,
};

use super::{Command, Engine, EngineKind, Interest, Key, Started, poller::Poller};
use crate::{executor::Wait, shared::Shared};

pub(super) struct Threads {
    poller: Poller,
}

impl Threads {
    pub(super) fn new(shared: &Arc<Shared>) -> io::Result<Self> {
        Ok(Threads { poller: Poller::new(shared)? })
    }
}

impl Engine for Threads {
    fn kind(&self) -> EngineKind {
        EngineKind::Threads
    }

    fn start(&mut self, _key: Key, _command: Command) -> Started {
        Started::Refused
    }

    fn watch(&mut self, key: Key, descriptor: RawFd, interest: Interest) -> io::Result<()> {
        self.poller.watch(key, descriptor, interest)
    }

    fn unwatch(&mut self, key: Key) -> bool {
        self.poller.unwatch(key)
    }

    fn collect(&mut self, wait: Wait, timer: Option<Duration>, done: &mut Vec<(Key, i32)>) -> io::Result<()> {
        self.poller.collect(wait, timer, done)
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        self.poller.descriptor()
    }

    fn leave(&mut self, timer: Option<Duration>) -> io::Result<()> {
        self.poller.leave(timer)
    }
}
