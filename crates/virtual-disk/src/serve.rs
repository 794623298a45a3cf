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
    outbox::Outbox,
    queue::{Core, Gate, Opened},
    request::{admit, refuse},
};

/// Requests taken from one source before others get their turn.
const TAKEN_AT_ONCE_MAX: usize = 256;

/// Serves one source to its end; then gives it back. Dropping it gives up the answers of what still runs.
pub(crate) struct Serve<S: RequestSource> {
    core: Rc<Core>,
    outbox: Rc<Outbox>,
    source: Option<S>,
    generation: u64,
    has_ended: bool,
    /// The size that the source has seen.
    bytes: Option<u64>,
    /// Empty between polls; keeps its memory.
    answers: Vec<(Tag, Outcome)>,
}

/// Why the loop sleeps, each with what will wake it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Idle {
    /// The source has nothing, and wakes the loop when it has.
    Source,
    /// The gate is not open; home opens it.
    Gate,
    /// Others get their turn; the loop has woken itself.
    Turn,
    /// The source has ended: only answers are awaited.
    End,
}

/// Nothing in it is ever pinned.
impl<S: RequestSource> Unpin for Serve<S> {}

impl<S: RequestSource> Serve<S> {
    pub(crate) fn new(core: Rc<Core>, source: S) -> Self {
        Serve {
            outbox: core.new_outbox(),
            generation: core.generation(),
            source: Some(source),
            has_ended: false,
            bytes: core.status.geometry().map(|geometry| geometry.bytes()),
            answers: Vec::new(),
            core,
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
    fn take(
        &mut self,
        cx: &mut Context<'_>,
        mut handle: impl FnMut(&Self, Request) -> Option<Outcome>,
    ) -> (usize, Idle) {
        let mut answered = 0;
        for _ in 0..TAKEN_AT_ONCE_MAX {
            let request = match self.source().poll_next(cx) {
                Poll::Pending => return (answered, Idle::Source),
                Poll::Ready(None) => {
                    self.has_ended = true;
                    return (answered, Idle::End);
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
        (answered, Idle::Turn)
    }

    fn take_to_serve(&mut self, cx: &mut Context<'_>, opened: &Rc<Opened>) -> (usize, Idle) {
        self.tell_size(&opened.geometry);
        let now = self.core.executor.now();
        self.take(cx, |this, request| admit(&this.core, opened, &this.outbox, request, now))
    }

    fn take_to_refuse(&mut self, cx: &mut Context<'_>, error: &Error) -> (usize, Idle) {
        let now = self.core.executor.now();
        self.take(cx, |this, request| Some(refuse(&this.core, &request, error, now)))
    }

    fn tell_size(&mut self, geometry: &Geometry) {
        let bytes = Some(geometry.bytes());
        if self.bytes.replace(geometry.bytes()).is_some_and(|before| Some(before) != bytes) {
            self.source().resized(geometry);
        }
    }

    /// Takes requests, or not, as the gate says. Says how many were answered, and why no more were taken.
    fn work(&mut self, cx: &mut Context<'_>) -> (usize, Idle) {
        match self.core.gate() {
            _ if self.has_ended => (0, Idle::End),
            Gate::Open(opened) => self.take_to_serve(cx, &opened),
            Gate::Refusing(error) => self.take_to_refuse(cx, &error),
            Gate::Held => (0, Idle::Gate),
        }
    }
}

impl<S: RequestSource> Future for Serve<S> {
    type Output = S;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<S> {
        let this = &mut *self;
        this.outbox.set_waker(cx.waker());
        let mut answered = this.deliver();
        if this.generation != this.core.generation() {
            this.generation = this.core.generation();
            this.outbox.forget_taken();
        }
        let taken_before = this.core.recorder.status().requests();
        let (more, idle) = this.work(cx);
        if this.core.recorder.status().requests() > taken_before {
            this.core.recorder.kicked_in();
        }
        answered += more;
        if answered > 0 {
            this.source().publish();
            this.core.recorder.kicked_out();
        }
        if this.has_ended && this.outbox.taken() == 0 && this.outbox.is_empty() {
            return Poll::Ready(this.source.take().expect("a loop ends once"));
        }
        let is_open = matches!(this.core.gate(), Gate::Open(_));
        assert!(!is_open || idle != Idle::Gate, "a source is left alone while the disk runs");
        Poll::Pending
    }
}

impl<S: RequestSource> Drop for Serve<S> {
    fn drop(&mut self) {
        self.outbox.close();
        self.core.look_again();
    }
}
