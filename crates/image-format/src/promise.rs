//! A value that several tasks of one executor wait for, and work that goes on when nobody waits any more.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use storage_io::Executor;

/// A value that is not known yet. Clones are the same promise; each can be awaited.
pub(crate) struct Promise<T>(Rc<RefCell<State<T>>>);

enum State<T> {
    Open(Vec<Waker>),
    Known(T),
}

impl<T: Clone> Promise<T> {
    pub(crate) fn new() -> Self {
        Self(Rc::new(RefCell::new(State::Open(Vec::new()))))
    }

    pub(crate) fn known(value: T) -> Self {
        Self(Rc::new(RefCell::new(State::Known(value))))
    }

    /// Tells everybody, once.
    pub(crate) fn resolve(&self, value: T) {
        let before = self.0.replace(State::Known(value));
        let State::Open(waiting) = before else { panic!("a promise is resolved once") };
        waiting.into_iter().for_each(Waker::wake);
    }
}

impl<T> Clone for Promise<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: Clone> Future for Promise<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        match &mut *self.0.borrow_mut() {
            State::Known(value) => Poll::Ready(value.clone()),
            State::Open(waiting) => {
                if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
                    waiting.push(cx.waker().clone());
                }
                Poll::Pending
            }
        }
    }
}

/// Runs `work` to its end, also if whoever waits for it goes away: half a change of a table helps nobody.
pub(crate) async fn uninterrupted<T: 'static>(executor: &Executor, work: impl Future<Output = T> + 'static) -> T {
    let (to, result) = storage_io::reply();
    executor
        .spawn(async move {
            // Nobody waits any more: the result is of no use, the work was.
            let _ = to.answer(work.await);
        })
        .detach();
    result.await.expect("the task answers at its end")
}
