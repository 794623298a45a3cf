//! The connections of one socket: how many there may be at once, and who makes room for whom.
//!
//! A connection that has just come is given time to say what it wants: nobody is turned away because many come at once.

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
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use storage_io::{Executor, Moment, Signal, Task};

use crate::{listener::Listener, log::Log};

/// Nobody makes room before that.
const STAY_MIN: Duration = Duration::from_secs(1);
/// How often to look whether a client has gone that has ended its requests.
const LOOK_PERIOD: Duration = Duration::from_secs(1);

/// What is known of a connection while it lasts.
pub(crate) trait Connection: 'static {
    /// Whether nobody waits for anything there.
    fn is_idle(&self) -> bool;

    /// Whether it is one of those that there may be so many of. Of others there are as many as something else allows.
    fn counts(&self) -> bool {
        true
    }
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
    by_age: RefCell<BTreeMap<u64, Known<C>>>,
    next: Cell<u64>,
    changed: Rc<Signal>,
}

struct Known<C> {
    connection: C,
    came: Moment,
    /// Serves it.
    _serving: Task<()>,
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
        self.by_age.borrow().values().filter(|known| known.connection.counts()).count() >= self.count_max
    }

    /// Whoever has to go loses answers, and nothing that was begun.
    async fn make_room(&self) {
        while self.is_full() {
            if let Some(number) = self.least_needed() {
                self.forget(number);
                continue;
            }
            let has_room = pin!(self.changed.until(|| !self.is_full() || self.least_needed().is_some()));
            select(has_room, pin!(self.executor.sleep(STAY_MIN))).await;
        }
    }

    fn least_needed(&self) -> Option<u64> {
        let by_age = self.by_age.borrow();
        let now = self.executor.now();
        let may_go = || by_age.iter().filter(|(_, known)| known.connection.counts() && now - known.came >= STAY_MIN);
        let idle = may_go().find(|(_, known)| known.connection.is_idle());
        let oldest = may_go().next().filter(|_| self.when_full == WhenFull::AnyMakeRoom);
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
        let known = Known { connection, came: self.executor.now(), _serving: task };
        self.by_age.borrow_mut().insert(number, known);
    }

    /// A task may forget itself: it then runs to its end.
    fn forget(&self, number: u64) {
        let forgotten = self.by_age.borrow_mut().remove(&number);
        drop(forgotten);
        self.changed.notify();
    }

    /// Ends when everybody who has asked has got an answer or has gone, or after this time.
    pub(crate) async fn finish(&self, limit: Duration) {
        let is_done = || self.by_age.borrow().values().all(|known| known.connection.is_idle());
        let done = pin!(self.changed.until(is_done));
        select(done, pin!(self.executor.sleep(limit))).await;
    }
}

/// Ends when the client has closed its end. One that has only ended its requests, or sends more than it may, still waits
/// for its answer: that keeps the socket readable, so it is looked at now and then.
pub(crate) async fn gone(executor: &Executor, stream: &UnixStream) {
    // Whatever readiness comes to, the socket itself knows better.
    let _ = executor.readable(stream).await;
    loop {
        let mut state = [PollFd::new(stream, PollFlags::empty())];
        let polled = poll(&mut state, Some(&Timespec::default()));
        if polled.is_err() || state[0].revents().contains(PollFlags::HUP) {
            return;
        }
        executor.sleep(LOOK_PERIOD).await;
    }
}
