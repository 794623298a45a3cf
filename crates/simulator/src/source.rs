//! The work as an export gives it to a disk: a few requests at a time, each answered exactly once.

use std::{
    collections::BTreeMap,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use block_core::Tag;
use virtual_disk::{Outcome, Request, RequestSource};

use crate::work::{Expected, Work};

/// Gives out operations, and holds the answers against the model.
pub struct WorkSource {
    work: Rc<Work>,
    in_flight: BTreeMap<Tag, Expected>,
    in_flight_max: usize,
    last_tag: u64,
    /// Answers that were not published yet.
    unpublished: usize,
    waiting: Option<Waker>,
}

impl WorkSource {
    pub(crate) fn new(work: Rc<Work>, in_flight_max: usize) -> Self {
        let in_flight = BTreeMap::new();
        WorkSource { work, in_flight, in_flight_max, last_tag: 0, unpublished: 0, waiting: None }
    }

    /// Requests that wait for their answer, or whose answer was not published.
    pub fn unanswered(&self) -> usize {
        self.in_flight.len() + self.unpublished
    }
}

impl RequestSource for WorkSource {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Request>> {
        if self.in_flight.len() >= self.in_flight_max {
            self.waiting = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let Some(operation) = self.work.next_operation() else { return Poll::Ready(None) };
        let (operation, expected) = self.work.begin(operation);
        self.last_tag += 1;
        let tag = Tag(self.last_tag);
        self.in_flight.insert(tag, expected);
        Poll::Ready(Some(Request { tag, operation }))
    }

    fn answer(&mut self, tag: Tag, outcome: Outcome) {
        let expected = self.in_flight.remove(&tag).expect("a request is answered once");
        self.unpublished += 1;
        self.work.end(expected, outcome);
    }

    fn publish(&mut self) {
        self.unpublished = 0;
        if let Some(waiting) = self.waiting.take() {
            waiting.wake();
        }
    }
}
