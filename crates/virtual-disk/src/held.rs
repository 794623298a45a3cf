//! Requests of one source that limits do not let go yet.
//!
//! ```text
//!   reads    [first: has its turn reserved] <- [behind] <- [behind]
//!   changes  [first: has its turn reserved] <- [behind]
//! ```
//!
//! Reads and what changes the disk wait in lines of their own: one may be limited and the other not. Only the first of a
//! line asks for its turn, so that sources take turns, however many requests each has.

use std::{
    collections::VecDeque,
    rc::Rc,
    task::{Context, Poll},
};

use futures_util::FutureExt;
use storage_io::{Moment, Sleep};

use crate::{
    Pass, Request, RequestKind, Turn,
    limits::Direction,
    queue::{Core, Counting},
};

/// The lines of one source.
#[derive(Default)]
pub(crate) struct Held([Line; 2]);

#[derive(Default)]
struct Line {
    first: Option<First>,
    behind: VecDeque<Waiting>,
}

struct Waiting {
    request: Request,
    came: Moment,
    _counted: Counting,
}

struct First {
    waiting: Waiting,
    pass: Box<Pass>,
    timer: Option<Sleep>,
}

/// A request whose turn has come.
pub(crate) struct Released {
    pub(crate) request: Request,
    pub(crate) came: Moment,
    pub(crate) pass: Option<Box<Pass>>,
}

impl Held {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.iter().all(|line| line.first.is_none() && line.behind.is_empty())
    }

    /// Gives the request back if nothing limits it, else puts it into its line.
    pub(crate) fn admit(&mut self, core: &Rc<Core>, request: Request, came: Moment) -> Option<Released> {
        let Some(direction) = Direction::of(RequestKind::of(&request.operation)) else {
            return Some(Released { request, came, pass: None });
        };
        let line = &mut self.0[direction as usize - 1];
        if line.first.is_none() {
            let Some(pass) = pass(core, &request, came) else {
                return Some(Released { request, came, pass: None });
            };
            line.first = Some(First { waiting: wait(core, request, came), pass, timer: None });
        } else {
            line.behind.push_back(wait(core, request, came));
        }
        None
    }

    /// The next request whose turn has come. When there is none, `cx` is woken when there is, or when to look again.
    pub(crate) fn poll_released(&mut self, core: &Rc<Core>, now: Moment, cx: &mut Context<'_>) -> Poll<Released> {
        for line in &mut self.0 {
            if let Poll::Ready(released) = line.poll_released(core, now, cx) {
                return Poll::Ready(released);
            }
        }
        Poll::Pending
    }

    /// Takes any request out; the line does not go on.
    pub(crate) fn take_any(&mut self) -> Option<Request> {
        let mut lines = self.0.iter_mut();
        let waiting =
            lines.find_map(|line| line.first.take().map(|first| first.waiting).or_else(|| line.behind.pop_front()));
        waiting.map(|waiting| waiting.request)
    }

    /// Whether somebody is bound to wake each line that is not empty.
    pub(crate) fn is_awaited(&self) -> bool {
        self.0.iter().all(|line| line.first.is_some() || line.behind.is_empty())
    }
}

fn wait(core: &Rc<Core>, request: Request, came: Moment) -> Waiting {
    Waiting { request, came, _counted: core.hold() }
}

fn pass(core: &Core, request: &Request, now: Moment) -> Option<Box<Pass>> {
    let bytes = request.operation.range().map_or(0, |range| range.length());
    core.limiter.pass(RequestKind::of(&request.operation), bytes, now).map(Box::new)
}

impl Line {
    fn poll_released(&mut self, core: &Rc<Core>, now: Moment, cx: &mut Context<'_>) -> Poll<Released> {
        let Some(first) = &mut self.first else { return Poll::Pending };
        if first.poll_turn(core, now, cx).is_pending() {
            return Poll::Pending;
        }
        let First { waiting: Waiting { request, came, .. }, pass, .. } = self.first.take().expect("it was there");
        if now > came {
            core.recorder.throttled(now - came);
        }
        self.advance(core, now);
        Poll::Ready(Released { request, came, pass: Some(pass) })
    }

    fn advance(&mut self, core: &Rc<Core>, now: Moment) {
        let Some(waiting) = self.behind.pop_front() else { return };
        let pass =
            self::pass(core, &waiting.request, now).expect("a limiter that was set once measures all that waits");
        self.first = Some(First { waiting, pass, timer: None });
    }
}

impl First {
    fn poll_turn(&mut self, core: &Core, now: Moment, cx: &mut Context<'_>) -> Poll<()> {
        if self.pass.poll_go(&core.limiter, now, cx).is_ready() {
            return Poll::Ready(());
        }
        self.timer = match self.pass.turn(now) {
            Turn::At(moment) => Some(core.executor.sleep_until(moment)),
            Turn::WhenWoken => None,
        };
        if self.timer.as_mut().is_some_and(|timer| timer.poll_unpin(cx).is_ready()) {
            // Its instant has come since `now`.
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}
