//! A spawned future, seen from whoever spawned it.

use std::{
    cell::RefCell,
    future::Future,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use crate::executor::{Executor, TaskId};

/// Where a task leaves its result for whoever waits.
pub(crate) struct Slot<T> {
    result: Option<T>,
    waiter: Option<Waker>,
}

impl<T> Slot<T> {
    pub(crate) fn new() -> Rc<RefCell<Self>> {
        Rc::new(RefCell::new(Slot { result: None, waiter: None }))
    }

    /// Leaves the result and wakes whoever waits.
    pub(crate) fn fill(slot: &RefCell<Self>, result: T) {
        let mut slot = slot.borrow_mut();
        slot.result = Some(result);
        let waiter = slot.waiter.take();
        drop(slot);
        if let Some(waiter) = waiter {
            waiter.wake();
        }
    }

    /// Takes the result, or asks to be woken when it is there.
    pub(crate) fn poll(slot: &RefCell<Self>, cx: &mut Context<'_>) -> Poll<T> {
        let mut slot = slot.borrow_mut();
        match slot.result.take() {
            Some(result) => Poll::Ready(result),
            None => {
                slot.waiter = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// A spawned future. Awaiting it gives its result; dropping it ends it (inside its own poll: it is marked, and freed
/// after that poll returns); [`Task::detach`] lets it run on alone.
pub struct Task<T> {
    pub(crate) executor: Executor,
    pub(crate) id: Option<TaskId>,
    pub(crate) slot: Rc<RefCell<Slot<T>>>,
}

impl<T> Task<T> {
    /// Lets it run to its end with nobody waiting.
    pub fn detach(mut self) {
        self.id = None;
    }
}

impl<T> Future for Task<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        Slot::poll(&self.slot, cx)
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        if let Some(id) = self.id.take() {
            self.executor.cancel(id);
        }
    }
}
