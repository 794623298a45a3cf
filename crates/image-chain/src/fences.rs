//! Fences: when has everything ended that was running a moment ago?
//!
//! An extent is a lease: whoever looked up a place may read or write it until its request ends. Room that was freed is
//! handed out again only behind a fence on every queue.
//!
//! ```text
//!   requests     a---------------a      b-----b    c-------------
//!   epochs       |------ 0 ------|------- 1 -------|---- 2 ------
//!   fence                        ^ closes epoch 0, answered when `a` (all of epoch 0 and before) has ended;
//!                                  `b` and `c` began behind it and cannot know the freed place
//! ```
//!
//! Pure bookkeeping: it gives the answer `A` back when it is due.

use std::collections::VecDeque;

/// When a request began, in fences.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Epoch(u64);

/// The running requests of one queue by epoch, and the fences that wait for them.
pub(crate) struct Fences<A> {
    /// Running requests of the oldest epoch that has some, and of each one after it up to the present.
    running: VecDeque<usize>,
    /// The epoch of `running`'s front.
    oldest: u64,
    /// The epoch that a fence closed, and its answer; ascending.
    waiting: VecDeque<(u64, A)>,
}

impl<A> Default for Fences<A> {
    fn default() -> Self {
        Fences { running: VecDeque::from([0]), oldest: 0, waiting: VecDeque::new() }
    }
}

impl<A> Fences<A> {
    /// A request begins.
    pub(crate) fn begin(&mut self) -> Epoch {
        *self.running.back_mut().expect("the present epoch is always there") += 1;
        Epoch(self.oldest + self.running.len() as u64 - 1)
    }

    /// A request ends; gives the answers that are due now.
    #[must_use]
    pub(crate) fn end(&mut self, epoch: Epoch) -> Vec<A> {
        let index = usize::try_from(epoch.0 - self.oldest).expect("an epoch with a running request is remembered");
        self.running[index] -= 1;
        while self.running.len() > 1 && self.running[0] == 0 {
            self.running.pop_front();
            self.oldest += 1;
        }
        let mut due = Vec::new();
        while self.waiting.front().is_some_and(|(closed, _)| *closed < self.oldest) {
            due.extend(self.waiting.pop_front().map(|(_, answer)| answer));
        }
        due
    }

    /// Asks to be told when every request that runs now has ended; gives the answer back if none does.
    #[must_use]
    pub(crate) fn fence(&mut self, answer: A) -> Option<A> {
        if self.is_idle() {
            return Some(answer);
        }
        self.waiting.push_back((self.oldest + self.running.len() as u64 - 1, answer));
        self.running.push_back(0);
        None
    }

    /// Whether no request runs.
    pub(crate) fn is_idle(&self) -> bool {
        self.running.iter().all(|count| *count == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fence_waits_for_what_ran_before_it_and_nothing_else() {
        let mut fences = Fences::default();
        let before = fences.begin();
        assert_eq!(fences.fence("fence"), None);
        let behind = fences.begin();
        assert_eq!(fences.end(before), ["fence"]);
        assert!(fences.end(behind).is_empty());
        assert!(fences.is_idle());
    }

    #[test]
    fn an_idle_queue_answers_at_once() {
        let mut fences = Fences::default();
        assert_eq!(fences.fence(1), Some(1));
        let request = fences.begin();
        assert!(fences.end(request).is_empty());
        assert_eq!(fences.fence(2), Some(2));
    }

    #[test]
    fn an_old_request_holds_up_every_later_fence() {
        let mut fences = Fences::default();
        let oldest = fences.begin();
        assert_eq!(fences.fence(1), None);
        let middle = fences.begin();
        assert_eq!(fences.fence(2), None);
        let newest = fences.begin();
        assert!(fences.end(middle).is_empty());
        assert!(fences.end(newest).is_empty());
        assert_eq!(fences.end(oldest), [1, 2]);
    }

    #[test]
    fn fences_behind_one_another_end_one_by_one() {
        let mut fences = Fences::default();
        let first = fences.begin();
        assert_eq!(fences.fence(1), None);
        let second = fences.begin();
        assert_eq!(fences.fence(2), None);
        assert_eq!(fences.end(first), [1]);
        assert_eq!(fences.end(second), [2]);
    }
}
