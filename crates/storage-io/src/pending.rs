//! Futures of the reactor: an operation, a readiness, a job on a worker thread. Dropping one gives up its answer, never
//! the work.

use std::{
    any::Any,
    cell::RefCell,
    future::Future,
    marker::PhantomData,
    os::fd::OwnedFd,
    pin::Pin,
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use block_core::{Error, ErrorKind, Result};

use crate::{Completion, Executor, engine::Key, storage::StorageOperation, task::Slot};

/// Kept by the reactor until the operation it came with has ended: a ticket, a lock, a share of a budget.
pub type Hold = Rc<dyn Any>;

/// A storage operation on its way. One concrete type, so that the data path allocates nothing for it.
#[must_use = "an operation's result is known only to who awaits it"]
pub struct Pending(State);

enum State {
    /// Known already.
    Ready(Option<Completion>),
    /// In the kernel's hands, or a worker's.
    Kernel(Executor, Key),
    /// A task of this executor does it.
    Spawned(Rc<RefCell<Slot<Completion>>>),
}

impl Pending {
    /// An operation that has ended before it was asked for.
    pub fn ready(operation: StorageOperation, result: Result<()>) -> Pending {
        Pending(State::Ready(Some(Completion { buffer: operation.into_buffer(), result })))
    }

    /// An operation whose answer is known.
    pub fn completed(completion: Completion) -> Pending {
        Pending(State::Ready(Some(completion)))
    }

    /// An operation that takes several steps. They are run as a task of their own, which nobody can cancel; `hold` is
    /// kept until it ends.
    pub fn spawn(
        executor: &Executor,
        hold: Option<Hold>,
        steps: impl Future<Output = Completion> + 'static,
    ) -> Pending {
        let slot = Slot::new();
        let result = slot.clone();
        executor
            .spawn(async move {
                let completion = steps.await;
                drop(hold);
                Slot::fill(&result, completion);
            })
            .detach();
        Pending(State::Spawned(slot))
    }

    pub(crate) fn kernel(executor: Executor, key: Key) -> Pending {
        Pending(State::Kernel(executor, key))
    }
}

impl Future for Pending {
    type Output = Completion;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Completion> {
        match &mut self.0 {
            State::Ready(completion) => Poll::Ready(completion.take().expect("polled once more after the end")),
            State::Spawned(slot) => Slot::poll(slot, cx),
            State::Kernel(executor, key) => {
                let Some(completion) = executor.poll_operation(*key, cx) else {
                    return Poll::Pending;
                };
                self.0 = State::Ready(None);
                Poll::Ready(completion)
            }
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let State::Kernel(executor, key) = &self.0 {
            executor.abandon(*key);
        }
    }
}

/// Ends when a descriptor can be read or written without waiting.
#[must_use = "readiness is told to who awaits it"]
pub struct Readiness<'fd> {
    pub(crate) executor: Executor,
    pub(crate) key: Option<Key>,
    pub(crate) descriptor: PhantomData<&'fd ()>,
    /// A descriptor that nobody else is sure to keep open meanwhile.
    pub(crate) _owned: Option<Arc<OwnedFd>>,
}

impl Future for Readiness<'_> {
    type Output = Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let key = self.key.expect("polled once more after the end");
        let Some(completion) = self.executor.poll_operation(key, cx) else {
            return Poll::Pending;
        };
        self.key = None;
        Poll::Ready(completion.result)
    }
}

impl Drop for Readiness<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.executor.unwatch(key);
        }
    }
}

/// A job on a worker thread.
#[must_use = "the job's result is known only to who awaits it"]
pub struct Blocking<T> {
    pub(crate) pending: Pending,
    pub(crate) result: Arc<Mutex<Option<T>>>,
}

impl<T> Future for Blocking<T> {
    /// The job's result; an error when no thread could be had for it, or the job panicked.
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<T>> {
        let Poll::Ready(completion) = Pin::new(&mut self.pending).poll(cx) else {
            return Poll::Pending;
        };
        let result = self.result.lock().unwrap_or_else(PoisonError::into_inner).take();
        let gone = || Error::new(ErrorKind::Closed, "a job on a worker thread ended without a result");
        Poll::Ready(completion.result.and_then(|()| result.ok_or_else(gone)))
    }
}
