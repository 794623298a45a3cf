//! Waiting for something that another task of the same executor will change.

use std::{cell::RefCell, future::poll_fn, task::Poll, task::Waker};

/// Tasks that wait. Whoever changes what they wait for wakes them all; each looks again.
#[derive(Default)]
pub(crate) struct WaitList(RefCell<Vec<Waker>>);

impl WaitList {
    /// Waits until `look` finds something.
    pub(crate) async fn until<T>(&self, mut look: impl FnMut() -> Option<T>) -> T {
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

    /// Lets all who wait look again.
    pub(crate) fn wake_all(&self) {
        let waiting = std::mem::take(&mut *self.0.borrow_mut());
        waiting.into_iter().for_each(Waker::wake);
    }
}
