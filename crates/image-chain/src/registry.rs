//! What runs on one queue (or at home): each request has a ticket. The ticket travels with its I/O to the kernel and
//! back, so a requester that goes away does not end the registration before the I/O has ended.

use std::{cell::RefCell, rc::Rc};

use block_core::GuestRange;
use storage_io::{ReplyTo, Signal};

use crate::{
    claims::{ClaimId, Claims, WriteId},
    fences::{Epoch, Fences},
};

/// The running requests of one queue, the claims on it and the fences that wait for it.
#[derive(Default)]
pub(crate) struct Registry {
    claims: RefCell<Claims<ReplyTo<()>>>,
    fences: RefCell<Fences<ReplyTo<()>>>,
    /// Writes that wait for a claim to end.
    claimed: Signal,
}

impl Registry {
    /// Registers a read. It looks up places only after this.
    pub(crate) fn begin_read(self: &Rc<Self>) -> Rc<Ticket> {
        let epoch = self.fences.borrow_mut().begin();
        Rc::new(Ticket { registry: self.clone(), epoch, write: None })
    }

    /// Registers a write of `range` as soon as no claim has it. It looks up places only after this.
    pub(crate) async fn begin_write(self: &Rc<Self>, range: GuestRange) -> Rc<Ticket> {
        let write = self.claimed.find(|| self.claims.borrow_mut().begin_write(range)).await;
        let epoch = self.fences.borrow_mut().begin();
        Rc::new(Ticket { registry: self.clone(), epoch, write: Some(write) })
    }

    /// Claims `range`; `held` is answered when no running write overlaps it.
    pub(crate) fn claim(&self, id: ClaimId, range: GuestRange, held: ReplyTo<()>) {
        let now = self.claims.borrow_mut().claim(id, range, held);
        answer(now);
    }

    /// Ends a claim.
    pub(crate) fn release(&self, id: ClaimId) {
        self.claims.borrow_mut().release(id);
        self.claimed.notify();
    }

    /// `passed` is answered when every request that runs now has ended.
    pub(crate) fn fence(&self, passed: ReplyTo<()>) {
        let now = self.fences.borrow_mut().fence(passed);
        answer(now);
    }
}

/// Home may have gone, and with it the need for an answer.
fn answer(due: impl IntoIterator<Item = ReplyTo<()>>) {
    due.into_iter().for_each(|reply| _ = reply.answer(()));
}

/// A running request; dropping it ends its registration.
pub(crate) struct Ticket {
    registry: Rc<Registry>,
    epoch: Epoch,
    write: Option<WriteId>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(write) = self.write {
            let due = self.registry.claims.borrow_mut().end_write(write);
            answer(due);
        }
        let due = self.registry.fences.borrow_mut().end(self.epoch);
        answer(due);
    }
}
