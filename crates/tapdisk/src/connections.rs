//! The connections of one socket: how many there may be at once, and who makes room for whom.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    future::Future,
    os::unix::net::UnixStream,
    pin::pin,
    rc::Rc,
    time::Duration,
};

use futures_util::future::select;
use storage_io::{Executor, Signal, Task};

use crate::{listener::Listener, log::Log};

/// What is known of a connection while it lasts.
pub(crate) trait Connection: 'static {
    /// Whether nobody waits for anything there.
    fn is_idle(&self) -> bool;
}

/// What happens when there are as many connections as there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WhenFull {
    /// The oldest idle one makes room; while there is none, nobody is let in.
    IdleMakeRoom,
    /// The oldest idle one makes room, or else the oldest.
    AnyMakeRoom,
}

/// All connections of one socket.
pub(crate) struct Connections<C> {
    executor: Executor,
    count_max: usize,
    when_full: WhenFull,
    /// With the tasks that serve them.
    by_age: RefCell<BTreeMap<u64, (C, Task<()>)>>,
    next: Cell<u64>,
    changed: Rc<Signal>,
}

impl<C: Connection> Connections<C> {
    pub(crate) fn new(executor: &Executor, count_max: usize, when_full: WhenFull) -> Rc<Connections<C>> {
        Rc::new(Connections {
            executor: executor.clone(),
            count_max,
            when_full,
            by_age: RefCell::default(),
            next: Cell::new(0),
            changed: Rc::default(),
        })
    }

    /// To be notified of when a connection may have become idle.
    pub(crate) fn maybe_idle(&self) -> Rc<Signal> {
        self.changed.clone()
    }

    /// Accepts connections until the task is dropped; `begin` says what is known of one, and how it is served.
    pub(crate) fn listen<S: Future<Output = ()> + 'static>(
        self: &Rc<Self>,
        listener: Listener,
        log: Log,
        begin: impl Fn(UnixStream) -> (C, S) + 'static,
    ) -> Task<()> {
        let connections = self.clone();
        self.executor.spawn(async move {
            loop {
                match listener.accept(&connections.executor).await {
                    Ok(stream) => {
                        connections.make_room().await;
                        let (connection, serving) = begin(stream);
                        connections.add(connection, serving);
                    }
                    Err(error) => return log.error(format!("nobody can connect any more: {error}")),
                }
            }
        })
    }

    fn is_full(&self) -> bool {
        self.by_age.borrow().len() >= self.count_max
    }

    /// Whoever has to go loses answers, and nothing that was begun.
    async fn make_room(&self) {
        if self.is_full() {
            self.least_needed().into_iter().for_each(|number| self.forget(number));
        }
        self.changed.until(|| !self.is_full()).await;
    }

    fn least_needed(&self) -> Option<u64> {
        let by_age = self.by_age.borrow();
        let idle = by_age.iter().find(|(_, (connection, _))| connection.is_idle());
        let oldest = by_age.iter().next().filter(|_| self.when_full == WhenFull::AnyMakeRoom);
        idle.or(oldest).map(|(number, _)| *number)
    }

    fn add(self: &Rc<Self>, connection: C, serving: impl Future<Output = ()> + 'static) {
        let number = self.next.get();
        self.next.set(number + 1);
        let connections = self.clone();
        let task = self.executor.spawn(async move {
            serving.await;
            connections.forget(number);
        });
        self.by_age.borrow_mut().insert(number, (connection, task));
    }

    /// A task may forget itself: it then runs to its end.
    fn forget(&self, number: u64) {
        let forgotten = self.by_age.borrow_mut().remove(&number);
        drop(forgotten);
        self.changed.notify();
    }

    /// Ends when everybody who has asked has got an answer or has gone, or after this time.
    pub(crate) async fn finish(&self, limit: Duration) {
        let is_done = || self.by_age.borrow().values().all(|(connection, _)| connection.is_idle());
        let done = pin!(self.changed.until(is_done));
        select(done, pin!(self.executor.sleep(limit))).await;
    }
}
