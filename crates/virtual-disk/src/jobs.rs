//! What is done to a disk is a job: one at a time, whoever still waits for it. Closing by force waits for no turn.

use std::{
    borrow::Cow,
    cell::Cell,
    future::Future,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll},
};

use block_core::{Error, ErrorKind, Result};
use futures_util::future::{Either, select};
use storage_io::{Moment, Task};

use crate::{DiskState, disk::Inner};

/// The step that waits for requests. It can be turned back.
pub(crate) const WAITING: &str = "waiting for requests to end";
/// The step that makes everything durable. It can be turned back.
pub(crate) const FLUSHING: &str = "flushing the images";
/// The step that opens images. It can be turned back.
pub(crate) const OPENING: &str = "opening the images";
/// The step that reads images anew, in files that are open. A resume can be turned back from it.
pub(crate) const WAKING: &str = "reading the images again";
/// The step of an opening that was turned back.
const LEAVING: &str = "waiting until storage lets go of the images";
/// The step that ends the work on the images. It cannot be turned back.
pub(crate) const CLOSING: &str = "closing the images";

/// What is being done.
#[derive(Default)]
pub(crate) struct Jobs {
    /// Jobs that run: at most one, and the one that closes by force.
    running: Cell<usize>,
    /// What the job waits for, in words for people.
    step: Cell<&'static str>,
    is_forced: Cell<bool>,
    /// Somebody wants the job turned back.
    is_unwanted: Cell<bool>,
}

impl Jobs {
    pub(crate) fn step(&self) -> &'static str {
        self.step.get()
    }
}

impl Inner {
    pub(crate) fn is_forced(&self) -> bool {
        self.jobs.is_forced.get()
    }

    /// Closing by force begins; false if it has begun before.
    pub(crate) fn begin_force(&self) -> bool {
        let begins = !self.jobs.is_forced.replace(true);
        if begins {
            self.changed.notify();
        }
        begins
    }

    pub(crate) fn end_force(&self) {
        self.jobs.is_forced.set(false);
    }

    /// Ends when nobody else does anything to the disk, or nobody can any more. (Closing by force may have begun without
    /// being a job yet.)
    pub(crate) async fn my_turn(&self) {
        let is_free = || match self.state() {
            DiskState::Stuck => true,
            DiskState::Closing => false,
            _ => self.jobs.running.get() == 0,
        };
        self.changed.until(is_free).await;
    }

    /// Ends when no job runs.
    pub(crate) async fn idle(&self) {
        self.changed.until(|| self.jobs.running.get() == 0).await;
    }

    /// Counts what runs until its end.
    pub(crate) async fn counted<T>(&self, body: impl Future<Output = T>) -> T {
        self.jobs.running.set(self.jobs.running.get() + 1);
        let result = body.await;
        self.jobs.running.set(self.jobs.running.get() - 1);
        self.changed.notify();
        result
    }

    /// Runs `body` as a job. Dropping this future does not stop the job, and closing by force ends only the waiting.
    pub(crate) async fn job<T: 'static>(self: &Rc<Self>, body: impl Future<Output = Result<T>> + 'static) -> Result<T> {
        self.jobs.is_unwanted.set(false);
        // Counted from now on, not from its first turn.
        self.jobs.running.set(self.jobs.running.get() + 1);
        let inner = self.clone();
        let task = self.executor.spawn(async move {
            let result = body.await;
            inner.jobs.running.set(inner.jobs.running.get() - 1);
            inner.changed.notify();
            result
        });
        let forced = self.changed.until(|| self.is_forced());
        match select(DetachedWhenDropped(Some(task)), pin!(forced)).await {
            Either::Left((result, _)) => result,
            Either::Right(_) => Err(by_force()),
        }
    }

    /// As [`job`](Self::job), of what begins with reading images: whoever asked does not wait for storage to answer when it
    /// is turned back.
    pub(crate) async fn reading<T: 'static>(
        self: &Rc<Self>,
        body: impl Future<Output = Result<T>> + 'static,
    ) -> Result<T> {
        let job = pin!(self.job(body));
        let turned_back = pin!(self.changed.until(|| self.jobs.is_unwanted.get()));
        match select(job, turned_back).await {
            Either::Left((result, _)) => result,
            Either::Right(_) => Err(self.late(LEAVING)),
        }
    }

    /// Asks the job that runs to turn back; false if it cannot.
    pub(crate) fn turn_back(&self) -> bool {
        let step = self.jobs.step();
        let is_turnable = match self.state() {
            DiskState::Pausing | DiskState::Quiescing | DiskState::Growing => [WAITING, FLUSHING].contains(&step),
            DiskState::Opening | DiskState::Resuming => [OPENING, WAKING].contains(&step),
            _ => false,
        };
        if is_turnable {
            self.jobs.is_unwanted.set(true);
            match self.state() {
                DiskState::Opening | DiskState::Resuming => self.at_step(LEAVING),
                _ => self.changed.notify(),
            }
        }
        is_turnable
    }

    /// Whether the job that runs is still wanted; else why not.
    pub(crate) fn go_on(&self) -> Result<()> {
        if self.jobs.is_unwanted.get() { Err(self.late(LEAVING)) } else { Ok(()) }
    }

    /// What a future gives, unless the time is up or the disk is closed by force before.
    pub(crate) async fn in_time<T>(&self, end: Option<Moment>, future: impl Future<Output = T>) -> Option<T> {
        let forced = pin!(self.changed.until(|| self.is_forced()));
        let too_late = pin!(self.sleep_until(end));
        match select(pin!(future), select(forced, too_late)).await {
            Either::Left((value, _)) => Some(value),
            Either::Right(_) => None,
        }
    }

    /// As [`in_time`](Self::in_time), for what the job may be asked to turn back from.
    pub(crate) async fn unless_unwanted<T>(&self, end: Option<Moment>, future: impl Future<Output = T>) -> Option<T> {
        let unwanted = pin!(self.changed.until(|| self.jobs.is_unwanted.get()));
        match select(pin!(self.in_time(end, future)), unwanted).await {
            Either::Left((value, _)) => value,
            Either::Right(_) => None,
        }
    }

    /// Never ends without an end.
    pub(crate) async fn sleep_until(&self, end: Option<Moment>) {
        match end {
            Some(end) => self.executor.sleep_until(end).await,
            None => std::future::pending().await,
        }
    }

    /// Why something was not waited for any longer.
    pub(crate) fn late(&self, words: impl Into<Cow<'static, str>>) -> Error {
        if self.is_forced() {
            by_force()
        } else if self.jobs.is_unwanted.get() {
            Error::new(ErrorKind::Cancelled, "turned back")
        } else {
            Error::new(ErrorKind::TimedOut, words)
        }
    }

    /// Notes what a job waits for from now on.
    pub(crate) fn at_step(&self, step: &'static str) {
        self.jobs.step.set(step);
        self.status.set_step(step);
        self.changed.notify();
    }
}

fn by_force() -> Error {
    Error::new(ErrorKind::Closed, "the disk was closed by force")
}

/// A task that goes on when nobody waits for it any more.
struct DetachedWhenDropped<T>(Option<Task<T>>);

impl<T> Future for DetachedWhenDropped<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        Pin::new(self.0.as_mut().expect("the task is there until this is dropped")).poll(cx)
    }
}

impl<T> Drop for DetachedWhenDropped<T> {
    fn drop(&mut self) {
        if let Some(task) = self.0.take() {
            task.detach();
        }
    }
}
