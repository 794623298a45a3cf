//! Where the answers for one source gather until its loop hands them over in a batch.

use std::{
    cell::{Cell, RefCell},
    task::Waker,
};

use block_core::Tag;

use crate::Outcome;

/// The answers for one source.
#[derive(Default)]
pub(crate) struct Outbox {
    answers: RefCell<Vec<(Tag, Outcome)>>,
    /// Requests of the current generation that were taken and not answered.
    taken: Cell<usize>,
    waker: RefCell<Option<Waker>>,
    /// The loop is at work, and will look before it sleeps: nobody needs to wake it.
    is_attended: Cell<bool>,
    /// The source has gone: answers are dropped.
    is_closed: Cell<bool>,
}

impl Outbox {
    pub(crate) fn taken(&self) -> usize {
        self.taken.get()
    }

    /// A request was taken that will be answered later.
    pub(crate) fn take(&self) {
        self.taken.set(self.taken.get() + 1);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.answers.borrow().is_empty()
    }

    /// Forgets what was taken: its answers will not come.
    pub(crate) fn forget_taken(&self) {
        self.taken.set(0);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed.get()
    }

    pub(crate) fn close(&self) {
        self.is_closed.set(true);
        self.answers.take();
    }

    /// Swaps the gathered answers with an empty vector, so that both keep their memory.
    pub(crate) fn swap(&self, empty: &mut Vec<(Tag, Outcome)>) {
        std::mem::swap(&mut *self.answers.borrow_mut(), empty);
    }

    pub(crate) fn set_waker(&self, waker: &Waker) {
        let mut own = self.waker.borrow_mut();
        if !own.as_ref().is_some_and(|own| own.will_wake(waker)) {
            *own = Some(waker.clone());
        }
    }

    /// From now on, or no longer, the loop itself looks for answers before it sleeps.
    pub(crate) fn attend(&self, is_attended: bool) {
        self.is_attended.set(is_attended);
    }

    pub(crate) fn waker(&self) -> Option<Waker> {
        self.waker.borrow().clone()
    }

    /// The answer of a request that was taken.
    pub(crate) fn put(&self, tag: Tag, outcome: Outcome) {
        self.taken.set(self.taken.get() - 1);
        let mut answers = self.answers.borrow_mut();
        answers.push((tag, outcome));
        let is_first = answers.len() == 1;
        drop(answers);
        if is_first
            && !self.is_attended.get()
            && let Some(waker) = self.waker()
        {
            waker.wake();
        }
    }
}
