//! Home's side of claims and fences: it asks every queue, and its own table, and waits for all answers.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use block_core::GuestRange;
use futures_util::future::join_all;
use storage_io::{ReplyTo, Sender, Signal, reply};

use crate::{claims::ClaimId, messages::ToQueue, queue::QueueId, registry::Registry};

/// Who is asked, and which claims are held or being asked for.
#[derive(Default)]
pub(crate) struct Claiming {
    registry: Rc<Registry>,
    queues: RefCell<Vec<(QueueId, Sender<ToQueue>)>>,
    claims: RefCell<Vec<(ClaimId, GuestRange)>>,
    released: Signal,
    next: Cell<u64>,
}

impl Claiming {
    /// Home's own running writes.
    pub(crate) fn registry(&self) -> &Rc<Registry> {
        &self.registry
    }

    /// A number that no claim and no queue of this chain has had.
    fn next(&self) -> u64 {
        self.next.replace(self.next.get() + 1)
    }

    /// A new queue; gives its name and the claims that it is born with.
    pub(crate) fn add_queue(&self, queue: Sender<ToQueue>) -> (QueueId, Vec<(ClaimId, GuestRange)>) {
        let id = QueueId(self.next());
        self.queues.borrow_mut().push((id, queue));
        (id, self.claims.borrow().clone())
    }

    /// Forgets a queue that starts nothing any more, when what it started has ended.
    pub(crate) async fn remove_queue(&self, id: QueueId) {
        let queue = self.queues.borrow().iter().find(|(queue, _)| *queue == id).map(|(_, queue)| queue.clone());
        if let Some(queue) = queue {
            let (passed, answer) = reply();
            // A queue that has gone runs nothing: no answer is one, too.
            let _ = queue.send(ToQueue::Fence { passed });
            let _ = answer.await;
        }
        self.queues.borrow_mut().retain(|(queue, _)| *queue != id);
    }

    /// Holds `range` alone: no write that overlaps runs until the claim is dropped.
    pub(crate) async fn claim(self: &Rc<Self>, range: GuestRange) -> Claimed {
        let id = ClaimId(self.next());
        self.released.until(|| self.enter(id, range)).await;
        let claimed = Claimed { claiming: self.clone(), id };
        let (held, answer) = reply();
        self.registry.claim(id, range, held);
        self.ask_all(|held| ToQueue::Claim { id, range, held }, Some(answer)).await;
        claimed
    }

    /// Puts the claim into the books, unless one that overlaps is there.
    fn enter(&self, id: ClaimId, range: GuestRange) -> bool {
        let mut claims = self.claims.borrow_mut();
        if claims.iter().any(|(_, other)| other.overlaps(range)) {
            return false;
        }
        claims.push((id, range));
        true
    }

    /// Returns when every request that any queue runs now has ended.
    pub(crate) async fn fence(&self) {
        self.ask_all(|passed| ToQueue::Fence { passed }, None).await;
    }

    /// Sends a question to every queue and waits for all answers. A queue that has gone runs nothing: its silence is an
    /// answer.
    async fn ask_all(&self, question: impl Fn(ReplyTo<()>) -> ToQueue, own: Option<storage_io::Reply<()>>) {
        let mut answers = Vec::from_iter(own);
        self.queues.borrow_mut().retain(|(_, queue)| {
            let (to, answer) = reply();
            let is_there = queue.send(question(to)).is_ok();
            if is_there {
                answers.push(answer);
            }
            is_there
        });
        join_all(answers).await;
    }

    fn release(&self, id: ClaimId) {
        self.claims.borrow_mut().retain(|(claim, _)| *claim != id);
        self.registry.release(id);
        for (_, queue) in self.queues.borrow().iter() {
            let _ = queue.send(ToQueue::Release { id });
        }
        self.released.notify();
    }
}

/// A claim, until it is dropped.
#[must_use = "a claim that is dropped is released"]
pub(crate) struct Claimed {
    claiming: Rc<Claiming>,
    id: ClaimId,
}

impl Drop for Claimed {
    fn drop(&mut self) {
        self.claiming.release(self.id);
    }
}
