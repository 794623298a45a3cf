//! Memory for requests and replies: what each connection has for itself, and what all connections of a server share.
//!
//! ```text
//!   connection A: [own|+taken-----]        what all have taken and what is free add up to the budget
//!   connection B: [own|]
//!   connection C: [own|+taken--]  ... waits in line for more
//! ```
//!
//! A connection within its own part asks nobody, so that queues on different threads share nothing but for large work.
//! Who wants more than is free waits in line; a large wish is not overtaken by small ones.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

/// What the connections of a server share.
#[derive(Debug)]
pub(super) struct Budget(Mutex<State>);

#[derive(Debug)]
struct State {
    free: usize,
    /// Who waits, in the order of coming. Only the first may take.
    line: VecDeque<(u64, Waker)>,
    next: u64,
}

impl Budget {
    pub(super) fn new(bytes: usize) -> Arc<Budget> {
        Arc::new(Budget(Mutex::new(State { free: bytes, line: VecDeque::new(), next: 0 })))
    }

    /// The lock guards a few words; nothing waits and nothing can panic while it is held.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Who may try again now.
    fn first(&self) -> Option<Waker> {
        self.line.front().map(|(_, waker)| waker.clone())
    }
}

/// One connection's part: its own, and what it has taken from the budget. What was taken goes back at the latest when
/// this is dropped.
#[derive(Debug)]
pub(super) struct Share {
    budget: Arc<Budget>,
    own: usize,
    taken: usize,
    /// Its place in the line.
    place: Option<u64>,
}

impl Share {
    pub(super) fn new(budget: &Arc<Budget>, own: usize) -> Share {
        Share { budget: budget.clone(), own, taken: 0, place: None }
    }

    /// How many bytes the connection may hold now.
    pub(super) fn bytes(&self) -> usize {
        self.own + self.taken
    }

    /// Takes what is missing to hold `bytes`, all of it or nothing. `cx` is woken when it is worth to try again.
    pub(super) fn poll_grow(&mut self, bytes: usize, cx: &mut Context<'_>) -> Poll<()> {
        let missing = bytes.saturating_sub(self.bytes());
        if missing == 0 {
            self.leave_line();
            return Poll::Ready(());
        }
        let mut state = self.budget.state();
        let is_first = state.line.front().is_none_or(|&(place, _)| Some(place) == self.place);
        if is_first && missing <= state.free {
            state.free -= missing;
            self.taken += missing;
            drop(state);
            self.leave_line();
            return Poll::Ready(());
        }
        let place = self.place.and_then(|own| state.line.iter_mut().find(|(place, _)| *place == own));
        if let Some((_, waker)) = place {
            waker.clone_from(cx.waker());
        } else {
            let number = state.next;
            state.next += 1;
            state.line.push_back((number, cx.waker().clone()));
            self.place = Some(number);
        }
        Poll::Pending
    }

    /// Gives back what is not needed to hold `bytes`.
    pub(super) fn shrink(&mut self, bytes: usize) {
        let surplus = self.taken.min(self.bytes().saturating_sub(bytes));
        if surplus == 0 {
            return;
        }
        self.taken -= surplus;
        let mut state = self.budget.state();
        state.free += surplus;
        let first = state.first();
        drop(state);
        first.into_iter().for_each(Waker::wake);
    }

    /// Wants no more for now. Whoever was behind may be first now, and what is free enough for him.
    pub(super) fn leave_line(&mut self) {
        let Some(own) = self.place.take() else { return };
        let mut state = self.budget.state();
        state.line.retain(|&(place, _)| place != own);
        let first = state.first();
        drop(state);
        first.into_iter().for_each(Waker::wake);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.own = 0;
        self.shrink(0);
        self.leave_line();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        task::Wake,
    };

    #[derive(Default)]
    struct Calls(AtomicUsize);

    impl Wake for Calls {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn grow(share: &mut Share, bytes: usize) -> (bool, Arc<Calls>) {
        let calls = Arc::new(Calls::default());
        let waker = Waker::from(calls.clone());
        (share.poll_grow(bytes, &mut Context::from_waker(&waker)).is_ready(), calls)
    }

    #[test]
    fn all_together_never_hold_more_than_the_budget_and_their_own_parts() {
        let budget = Budget::new(1000);
        let mut shares: Vec<Share> = (0..20).map(|_| Share::new(&budget, 10)).collect();
        let grown = shares.iter_mut().filter_map(|share| grow(share, 310).0.then_some(())).count();
        assert_eq!(grown, 3);
        assert_eq!(shares.iter().map(Share::bytes).sum::<usize>(), 900 + 200);
        drop(shares);
        assert_eq!(budget.state().free, 1000, "all of it comes back");
        assert!(budget.state().line.is_empty());
    }

    #[test]
    fn the_own_part_is_there_however_much_others_have() {
        let budget = Budget::new(1000);
        let (mut greedy, mut modest) = (Share::new(&budget, 10), Share::new(&budget, 10));
        assert!(grow(&mut greedy, 1010).0);
        assert!(grow(&mut modest, 10).0);
        assert!(!grow(&mut modest, 11).0);
    }

    #[test]
    fn a_large_wish_is_not_overtaken_and_is_woken_when_something_comes_back() {
        let budget = Budget::new(1000);
        let [mut holder, mut large, mut small] = std::array::from_fn(|_| Share::new(&budget, 0));
        assert!(grow(&mut holder, 600).0);
        let (is_ready, large_calls) = grow(&mut large, 900);
        assert!(!is_ready);
        let (is_ready, small_calls) = grow(&mut small, 100);
        assert!(!is_ready, "400 are free, but somebody was there before");
        holder.shrink(50);
        assert_eq!((large_calls.0.load(Ordering::Relaxed), small_calls.0.load(Ordering::Relaxed)), (1, 0));
        assert!(grow(&mut large, 900).0);
        assert_eq!(small_calls.0.load(Ordering::Relaxed), 1, "the next in line looks when the first has got his");
        assert!(!grow(&mut small, 100).0, "50 are free");
        drop(large);
        assert!(grow(&mut small, 100).0);
    }

    #[test]
    fn who_leaves_the_line_lets_the_next_one_look() {
        let budget = Budget::new(100);
        let [mut first, mut second] = std::array::from_fn(|_| Share::new(&budget, 0));
        assert!(!grow(&mut first, 101).0);
        let (is_ready, calls) = grow(&mut second, 60);
        assert!(!is_ready);
        drop(first);
        assert_eq!(calls.0.load(Ordering::Relaxed), 1);
        assert!(grow(&mut second, 60).0);
    }
}
