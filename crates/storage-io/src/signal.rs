//! Waiting for a condition that tasks of the same executor change.

use std::{
    cell::RefCell,
    future::poll_fn,
    task::{Poll, Waker},
};

/// Wakes whoever waits whenever something has changed; they look for themselves whether it was what they wait for.
#[derive(Debug, Default)]
pub struct Signal(RefCell<Vec<Waker>>);

impl Signal {
    /// A signal that nobody waits for.
    pub fn new() -> Self {
        Self::default()
    }

    /// Says that something has changed.
    pub fn notify(&self) {
        for waker in self.0.take() {
            waker.wake();
        }
    }

    /// Waits until `condition` holds; it is asked now and after every [`notify`](Self::notify).
    pub async fn until(&self, mut condition: impl FnMut() -> bool) {
        self.find(|| condition().then_some(())).await;
    }

    /// Waits until `look` finds something; it is asked now and after every [`notify`](Self::notify).
    pub async fn find<T>(&self, mut look: impl FnMut() -> Option<T>) -> T {
        poll_fn(|cx| {
            if let Some(found) = look() {
                return Poll::Ready(found);
            }
            let mut waiting = self.0.borrow_mut();
            if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
                waiting.push(cx.waker().clone());
            }
            Poll::Pending
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, rc::Rc};

    use super::*;
    use crate::{Executor, SimulatedClock};

    #[test]
    fn who_waits_looks_again_after_every_change() {
        let executor = Executor::simulated(1, SimulatedClock::new());
        let (signal, count) = (Rc::new(Signal::new()), Rc::new(Cell::new(0)));
        let (their_signal, their_count) = (signal.clone(), count.clone());
        let waiting = executor.spawn(async move { their_signal.until(|| their_count.get() == 2).await });
        let ended = Rc::new(Cell::new(false));
        let seen = ended.clone();
        executor
            .spawn(async move {
                waiting.await;
                seen.set(true);
            })
            .detach();
        for expected in [false, false, true] {
            while executor.step() {}
            assert_eq!(ended.get(), expected, "{} changes", count.get());
            count.set(count.get() + 1);
            signal.notify();
            while executor.step() {}
        }
    }
}
