//! The loop of one source: take what it asks while the disk runs, hand it the answers in batches.

use std::{
    future::Future,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use block_core::{Error, Tag};
use storage_io::{Moment, Sleep};

use crate::{
    Geometry, Outcome, Pass, Request, RequestKind, RequestSource, Turn,
    outbox::Outbox,
    queue::{Core, Counting, Gate, Opened},
    request,
};

/// Requests taken from one source before others get their turn.
const TAKEN_AT_ONCE_MAX: usize = 256;

/// Serves one source to its end; then gives it back. Dropping it gives up the answers of what still runs.
pub(crate) struct Serve<S: RequestSource> {
    core: Rc<Core>,
    outbox: Rc<Outbox>,
    source: Option<S>,
    /// The one request that was taken and waits for its turn within the limits. No other is taken meanwhile.
    held: Option<Held>,
    generation: u64,
    has_ended: bool,
    /// The size that the source has seen.
    bytes: Option<u64>,
    /// Empty between polls; keeps its memory.
    answers: Vec<(Tag, Outcome)>,
}

struct Held {
    request: Request,
    pass: Box<Pass>,
    came: Moment,
    timer: Option<Sleep>,
    _counted: Counting,
}

/// Why the loop sleeps, each with what will wake it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Idle {
    /// The source has nothing, and wakes the loop when it has.
    Source,
    /// A request waits for its turn within the limits, which wake the loop, or its timer does.
    Limits,
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
            held: None,
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
        let mut answered = 0;
        for _ in 0..TAKEN_AT_ONCE_MAX {
            if self.poll_held(cx, opened, now).is_pending() {
                return (answered, Idle::Limits);
            }
            let request = match self.next(cx) {
                Ok(request) => request,
                Err(idle) => return (answered, idle),
            };
            let tag = request.tag;
            match request::check(&self.core, opened, request, now) {
                Ok(request) => self.let_pass(opened, request, now),
                Err(outcome) => {
                    self.source().answer(tag, outcome);
                    answered += 1;
                }
            }
        }
        cx.waker().wake_by_ref();
        (answered, Idle::Turn)
    }

    /// Begins a request, or holds it if there are limits.
    fn let_pass(&mut self, opened: &Rc<Opened>, request: Request, came: Moment) {
        let bytes = request.operation.range().map_or(0, |range| range.length());
        match self.core.limiter.pass(RequestKind::of(&request.operation), bytes, came) {
            None => request::begin(&self.core, opened, &self.outbox, request, came, None),
            Some(pass) => {
                let _counted = self.core.hold();
                self.held = Some(Held { request, pass: Box::new(pass), came, timer: None, _counted });
            }
        }
    }

    /// Ready when no request is held, or it is its turn.
    fn poll_held(&mut self, cx: &mut Context<'_>, opened: &Rc<Opened>, now: Moment) -> Poll<()> {
        let Some(held) = &mut self.held else { return Poll::Ready(()) };
        let waited = ready!(held.poll_turn(&self.core, cx, now));
        if !waited.is_zero() {
            self.core.recorder.throttled(waited);
        }
        let Held { request, pass, came, .. } = self.held.take().expect("it was there");
        request::begin(&self.core, opened, &self.outbox, request, came, Some(pass));
        Poll::Ready(())
    }

    fn take_to_refuse(&mut self, cx: &mut Context<'_>, error: &Error) -> (usize, Idle) {
        let now = self.core.executor.now();
        let mut answered = 0;
        if let Some(Held { request, .. }) = self.held.take() {
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
        self.has_ended && self.held.is_none() && self.outbox.taken() == 0 && self.outbox.is_empty()
    }

    /// A queue is never idle with work pending: whenever the loop sleeps, somebody is bound to wake it.
    fn check_idle(&self, idle: Idle) {
        let is_explained = match idle {
            Idle::Source => self.held.is_none(),
            Idle::Turn => true,
            Idle::End => self.has_ended && self.held.is_none(),
            Idle::Limits => self.held.is_some(),
            Idle::Gate => !matches!(self.core.gate(), Gate::Open(_)),
        };
        assert!(is_explained, "a source is left alone with work pending: {idle:?}");
    }
}

impl Held {
    /// Ready, with how long it waited, when the limits let it go.
    fn poll_turn(&mut self, core: &Core, cx: &mut Context<'_>, now: Moment) -> Poll<Duration> {
        if let Poll::Ready(waited) = self.pass.poll_go(&core.limiter, now, cx) {
            return Poll::Ready(waited);
        }
        self.timer = match self.pass.turn(now) {
            Turn::At(moment) => Some(core.executor.sleep_until(moment)),
            Turn::WhenWoken => None,
        };
        if let Some(timer) = &mut self.timer
            && Pin::new(timer).poll(cx).is_ready()
        {
            // Its instant has come since `now`.
            cx.waker().wake_by_ref();
        }
        Poll::Pending
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
        if this.is_done() {
            return Poll::Ready(this.source.take().expect("a loop ends once"));
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
