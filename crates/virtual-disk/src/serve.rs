//! The loop of one source: take what it asks while the disk runs, hand it the answers in batches.

use std::{
    future::Future,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use block_core::{Error, Tag};

use crate::{
    Geometry, Outcome, Request, RequestSource,
    queue::{DiskQueue, Gate, Outbox},
};

/// Requests taken from one source before others get their turn.
const TAKEN_AT_ONCE_MAX: usize = 256;

/// Serves one source to its end; then gives it back. Dropping it gives up the answers of what still runs.
pub(crate) struct Serve<S: RequestSource> {
    queue: Rc<DiskQueue>,
    outbox: Rc<Outbox>,
    source: Option<S>,
    generation: u64,
    has_ended: bool,
    /// Empty between polls; keeps its memory.
    answers: Vec<(Tag, Outcome)>,
}

/// Nothing in it is ever pinned.
impl<S: RequestSource> Unpin for Serve<S> {}

impl<S: RequestSource> Serve<S> {
    pub(crate) fn new(queue: Rc<DiskQueue>, source: S) -> Self {
        Serve {
            outbox: queue.new_outbox(),
            generation: queue.generation(),
            source: Some(source),
            has_ended: false,
            answers: Vec::new(),
            queue,
        }
    }

    fn source(&mut self) -> &mut S {
        self.source.as_mut().expect("the source is given back only at the end")
    }

    /// Hands over what has been answered meanwhile.
    fn deliver(&mut self) -> usize {
        let mut answers = std::mem::take(&mut self.answers);
        self.outbox.swap(&mut answers);
        let count = answers.len();
        for (tag, outcome) in answers.drain(..) {
            self.source().answer(tag, outcome);
        }
        self.answers = answers;
        count
    }

    /// Takes what the source has, up to a limit, and gives each request to `handle`; what that answers at once goes
    /// back at once. Says how many were answered.
    fn take(&mut self, cx: &mut Context<'_>, mut handle: impl FnMut(&Self, Request) -> Option<Outcome>) -> usize {
        let mut answered = 0;
        for _ in 0..TAKEN_AT_ONCE_MAX {
            let request = match self.source().poll_next(cx) {
                Poll::Pending => return answered,
                Poll::Ready(None) => {
                    self.has_ended = true;
                    return answered;
                }
                Poll::Ready(Some(request)) => request,
            };
            let tag = request.tag;
            if let Some(outcome) = handle(self, request) {
                self.source().answer(tag, outcome);
                answered += 1;
            }
        }
        cx.waker().wake_by_ref();
        answered
    }

    fn take_to_serve(&mut self, cx: &mut Context<'_>, geometry: &Geometry, chain: &image_chain::Queue) -> usize {
        let now = self.queue.executor().now();
        self.take(cx, |this, request| this.queue.admit((geometry, chain), &this.outbox, request, now))
    }

    fn take_to_refuse(&mut self, cx: &mut Context<'_>, error: &Error) -> usize {
        let now = self.queue.executor().now();
        self.take(cx, |this, request| Some(this.queue.refuse(&request, error, now)))
    }
}

impl<S: RequestSource> Future for Serve<S> {
    type Output = S;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<S> {
        let this = &mut *self;
        this.outbox.set_waker(cx.waker());
        let mut answered = this.deliver();
        if this.generation != this.queue.generation() {
            this.generation = this.queue.generation();
            this.outbox.forget_running();
        }
        if !this.has_ended {
            let taken_before = this.queue.recorder().status().requests();
            answered += match this.queue.gate() {
                Gate::Open(geometry, chain) => this.take_to_serve(cx, &geometry, &chain),
                Gate::Refusing(error) => this.take_to_refuse(cx, &error),
                Gate::Held => 0,
            };
            if this.queue.recorder().status().requests() > taken_before {
                this.queue.recorder().kicked_in();
            }
        }
        if answered > 0 {
            this.source().publish();
            this.queue.recorder().kicked_out();
        }
        if this.has_ended && this.outbox.running() == 0 && this.outbox.is_empty() {
            return Poll::Ready(this.source.take().expect("a loop ends once"));
        }
        Poll::Pending
    }
}

impl<S: RequestSource> Drop for Serve<S> {
    fn drop(&mut self) {
        self.outbox.close();
    }
}
