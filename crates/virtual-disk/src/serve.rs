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
    held::{Held, Released},
    outbox::Outbox,
    queue::{Core, Gate, Opened},
    request,
    writing::Writer,
};

/// Requests taken from one source before others get their turn.
const TAKEN_AT_ONCE_MAX: usize = 256;

/// Serves one source to its end; then gives it back. Dropping it gives up the answers of what still runs.
pub(crate) struct Serve<S: RequestSource> {
    core: Rc<Core>,
    outbox: Rc<Outbox>,
    source: Option<S>,
    /// What was taken and waits for its turn within the limits; what bounds the source's requests bounds this.
    held: Held,
    generation: u64,
    has_ended: bool,
    /// The size that the source has seen.
    bytes: Option<u64>,
    /// It has changed the disk: as long as it is there, the disk may be changed.
    writer: Option<Writer>,
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
            held: Held::default(),
            has_ended: false,
            bytes: core.status.geometry().map(|geometry| geometry.bytes()),
            writer: None,
            answers: Vec::new(),
            core,
        }
    }

    fn source(&mut self) -> &mut S {
        self.source.as_mut().expect("the source is given back only at the end")
    }

    /// Hands over what has been answered meanwhile.
    fn deliver(&mut self) -> usize {
        if self.outbox.is_empty() {
            return 0;
        }
        let mut answers = std::mem::take(&mut self.answers);
        self.outbox.swap(&mut answers);
        let count = answers.len();
        for (tag, outcome) in answers.drain(..) {
            self.source().answer(tag, outcome);
        }
        self.answers = answers;
        count
    }

    /// The source's next request, or why there is none now.
    fn next(&mut self, cx: &mut Context<'_>) -> Result<Request, Idle> {
        if self.has_ended {
            return Err(Idle::End);
        }
        match self.source().poll_next(cx) {
            Poll::Ready(Some(request)) => Ok(request),
            Poll::Ready(None) => {
                self.has_ended = true;
                Err(Idle::End)
            }
            Poll::Pending => Err(Idle::Source),
        }
    }

    /// Takes what the source has, up to a limit. Says how many were answered at once, and why no more were taken.
    fn take_to_serve(&mut self, cx: &mut Context<'_>, opened: &Rc<Opened>) -> (usize, Idle) {
        self.tell_size(&opened.geometry);
        let now = self.core.executor.now();
        let (mut answered, mut idle) = (0, Idle::Turn);
        for _ in 0..TAKEN_AT_ONCE_MAX {
            let request = match self.next(cx) {
                Ok(request) => request,
                Err(found) => {
                    idle = found;
                    break;
                }
            };
            let tag = request.tag;
            match request::check(&self.core, opened, request, now) {
                Ok(request) => {
                    if opened.access.is_late && self.writer.is_none() && request.operation.changes() {
                        self.writer = Some(self.core.writer());
                    }
                    let released = self.held.admit(&self.core, request, now);
                    released.into_iter().for_each(|released| self.begin(opened, released));
                    // What was answered at once goes on at once, and its memory is there for the next.
                    answered += self.deliver();
                }
                Err(outcome) => {
                    self.source().answer(tag, outcome);
                    answered += 1;
                }
            }
        }
        while let Poll::Ready(released) = self.held.poll_released(&self.core, now, cx) {
            self.begin(opened, released);
        }
        if idle == Idle::Turn {
            cx.waker().wake_by_ref();
        }
        (answered, idle)
    }

    fn begin(&self, opened: &Rc<Opened>, Released { request, came, pass }: Released) {
        request::begin(&self.core, opened, &self.outbox, request, came, pass);
    }

    fn take_to_refuse(&mut self, cx: &mut Context<'_>, error: &Error) -> (usize, Idle) {
        let now = self.core.executor.now();
        let mut answered = 0;
        while let Some(request) = self.held.take_any() {
            let outcome = request::refuse_counted(&self.core, &request, error, now);
            self.source().answer(request.tag, outcome);
            answered += 1;
        }
        for _ in 0..TAKEN_AT_ONCE_MAX {
            let request = match self.next(cx) {
                Ok(request) => request,
                Err(idle) => return (answered, idle),
            };
            let outcome = request::refuse(&self.core, &request, error, now);
            self.source().answer(request.tag, outcome);
            answered += 1;
        }
        cx.waker().wake_by_ref();
        (answered, Idle::Turn)
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
            Gate::Open(opened) => self.take_to_serve(cx, &opened),
            Gate::Refusing(error) => self.take_to_refuse(cx, &error),
            Gate::Held => {
                self.has_ended = self.has_ended || self.source().poll_gone(cx).is_ready();
                (0, Idle::Gate)
            }
        }
    }

    /// Whether nothing is left to do for the source.
    fn is_done(&self) -> bool {
        self.has_ended && self.held.is_empty() && self.outbox.taken() == 0 && self.outbox.is_empty()
    }

    /// A queue is never idle with work pending: whenever the loop sleeps, somebody is bound to wake it.
    fn check_idle(&self, idle: Idle) {
        let is_explained = match idle {
            Idle::Source | Idle::Turn => self.held.is_awaited(),
            Idle::End => self.has_ended && self.held.is_awaited(),
            Idle::Gate => !matches!(self.core.gate(), Gate::Open(_)),
        };
        assert!(is_explained, "a source is left alone with work pending: {idle:?}");
        let under_way = || self.core.recorder.in_flight().count() + self.core.recorder.parked().count();
        debug_assert!(self.outbox.taken() <= under_way(), "what was taken neither runs nor waits, and has no answer");
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
        this.outbox.attend(true);
        let (more, idle) = this.work(cx);
        let late = this.deliver();
        this.outbox.attend(false);
        if late > 0 {
            // The source was asked before it had these answers, and may have waited for just them.
            cx.waker().wake_by_ref();
        }
        answered += late;
        if this.core.recorder.status().requests() > taken_before {
            this.core.recorder.kicked_in();
        }
        answered += more;
        if answered > 0 {
            this.source().publish();
            this.core.recorder.kicked_out();
        } else if this.has_ended {
            // It is not asked for requests any more, so it hears here that it can go on with answers that it still has.
            this.source().publish();
        }
        if this.is_done() {
            return Poll::Ready(this.source.take().expect("a loop ends once"));
        }
        if this.outbox.taken() == 0 && this.held.is_empty() && this.source().rests() {
            this.writer = None;
        }
        this.check_idle(idle);
        Poll::Pending
    }
}

impl<S: RequestSource> Drop for Serve<S> {
    fn drop(&mut self) {
        self.outbox.close();
        self.core.look_again();
    }
}
