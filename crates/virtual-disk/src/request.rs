//! The life of a request behind the door: attempted, attempted again while its failures may pass, answered once.
//!
//! ```text
//!   begin --> runs --ok or final--> answered
//!             ^   |
//!             |   | a failure that may pass
//!   the disk  |   v
//!   runs, and | waits: owns no I/O and holds up no drain --the deadline has passed, or the disk is closed--> answered
//!   its time  |   |                                                                  with its last error
//!   has come  +---+
//! ```

use std::{pin::pin, rc::Rc};

use block_core::{Error, GuestRange, Tag};
use futures_util::future::{Either, select};
use storage_io::{Moment, reply};

use crate::{
    Attempts, Failure, Operation, Outcome, Pass, Report, Request, RequestKind, RetryPolicy, Retrying, Verdict,
    door::{self, Admission},
    in_flight::RunningRequest,
    is_repeatable,
    kind::sectors_of,
    outbox::Outbox,
    queue::{Core, Gate, Opened, ToDisk, closed},
    verdict, watchdog,
};

/// Checks a request at the door.
pub(crate) fn check(core: &Core, opened: &Opened, request: Request, now: Moment) -> Result<Request, Outcome> {
    let (tag, kind, range) = (request.tag, RequestKind::of(&request.operation), request.operation.range());
    core.recorder.came(kind, sectors_of(&request.operation));
    match door::admit(&opened.geometry, request.operation) {
        Admission::Enter(operation) => Ok(Request { tag, operation }),
        Admission::Answered(outcome) => {
            count_end(core, Ended { kind, range, attempts: 0, came: now, began: now, now }, &outcome);
            Err(outcome)
        }
    }
}

/// Answers a request that is not let in, for what it would have been refused for.
pub(crate) fn refuse(core: &Core, request: &Request, error: &Error, now: Moment) -> Outcome {
    core.recorder.came(RequestKind::of(&request.operation), 0);
    refuse_counted(core, request, error, now)
}

/// As [`refuse`], for a request that was counted when it came.
pub(crate) fn refuse_counted(core: &Core, request: &Request, error: &Error, now: Moment) -> Outcome {
    let (kind, range) = (RequestKind::of(&request.operation), request.operation.range());
    let outcome = Outcome::Failed(error.clone());
    count_end(core, Ended { kind, range, attempts: 0, came: now, began: now, now }, &outcome);
    outcome
}

/// Runs a request that was checked at the door, as a task of its own; what has not to wait for anything is answered when
/// this returns. It came at `came`, and has passed the limits with `pass`.
pub(crate) fn begin(
    core: &Rc<Core>,
    opened: &Rc<Opened>,
    outbox: &Rc<Outbox>,
    request: Request,
    came: Moment,
    pass: Option<Box<Pass>>,
) {
    let Request { tag, operation } = request;
    let mut unanswered = Unanswered::new(core, outbox, tag, &operation, came);
    unanswered.pass = pass;
    unanswered.starts();
    core.executor.begin(run(opened.clone(), operation, unanswered));
}

/// What is counted and told of a request that has ended.
struct Ended {
    kind: RequestKind,
    range: Option<GuestRange>,
    attempts: u32,
    came: Moment,
    began: Moment,
    now: Moment,
}

fn count_end(core: &Core, ended: Ended, outcome: &Outcome) {
    let Ended { kind, range, attempts, came, began, now } = ended;
    let failure = if let Outcome::Failed(error) = outcome { Some(error) } else { None };
    core.recorder.ended(kind, failure, began - came, now - began);
    if let Some(error) = failure {
        let queue = core.recorder.status();
        core.reporter.report(Report::Failed(Failure {
            queue: queue.number(),
            kind,
            range,
            error: error.clone(),
            attempts,
            lasted: now - came,
            kicks_in: queue.kicks_in(),
            kicks_out: queue.kicks_out(),
            requests: queue.requests(),
        }));
    }
}

#[derive(Clone, Copy)]
enum Place {
    Running(usize),
    Parked(usize),
}

/// A request that has been taken and has no answer yet. The only way out is [`answer`](Self::answer); dropping it is a
/// bug that shouts, since a guest waits for the answer forever.
struct Unanswered {
    core: Rc<Core>,
    outbox: Rc<Outbox>,
    generation: u64,
    is_answered: bool,
    tag: Tag,
    kind: RequestKind,
    range: Option<GuestRange>,
    /// Its place among what runs, or among what waits for another attempt.
    place: Option<Place>,
    /// It was reported as stuck, in this attempt or an earlier one.
    is_told: bool,
    attempts: u32,
    came: Moment,
    /// When its first attempt began.
    began: Option<Moment>,
    /// Gives account of what it took from a budget.
    pass: Option<Box<Pass>>,
}

impl Unanswered {
    fn new(core: &Rc<Core>, outbox: &Rc<Outbox>, tag: Tag, operation: &Operation, came: Moment) -> Unanswered {
        outbox.take();
        Unanswered {
            core: core.clone(),
            outbox: outbox.clone(),
            generation: core.generation(),
            is_answered: false,
            tag,
            kind: RequestKind::of(operation),
            range: operation.range(),
            place: None,
            is_told: false,
            attempts: 0,
            came,
            began: None,
            pass: None,
        }
    }

    /// It runs from now on: whoever drains the disk waits for it.
    fn starts(&mut self) {
        self.leaves();
        let running = self.as_it_is(self.attempts + 1);
        self.place = Some(Place::Running(self.core.recorder.in_flight().insert(running, self.is_told)));
        watchdog::begin(&self.core);
    }

    fn as_it_is(&self, attempts: u32) -> RunningRequest {
        let since = self.core.executor.now();
        let began = self.began.unwrap_or(since);
        RunningRequest { kind: self.kind, range: self.range, attempts, since, began }
    }

    /// It waits for its next attempt: it has let go of the images, and no drain waits for it.
    fn parks(&mut self) {
        self.leaves();
        let waiting = self.as_it_is(self.attempts);
        self.place = Some(Place::Parked(self.core.recorder.parked().insert(waiting, self.is_told)));
    }

    /// It leaves its place.
    fn leaves(&mut self) {
        let recorder = &self.core.recorder;
        match self.place.take() {
            Some(Place::Running(slot)) => {
                let (is_told, left) = recorder.in_flight().remove(slot);
                self.is_told = is_told;
                self.core.left(left);
            }
            Some(Place::Parked(slot)) => (self.is_told, _) = recorder.parked().remove(slot),
            None => {}
        }
    }

    fn answer(mut self, outcome: Outcome) {
        self.is_answered = true;
        let (came, now) = (self.came, self.core.executor.now());
        let ended =
            Ended { kind: self.kind, range: self.range, attempts: self.attempts, came, began: self.began(), now };
        count_end(&self.core, ended, &outcome);
        if self.is_awaited() {
            self.outbox.put(self.tag, outcome);
        }
    }

    fn began(&self) -> Moment {
        self.began.unwrap_or(self.came)
    }

    /// Whether somebody still wants the answer.
    fn is_awaited(&self) -> bool {
        !self.outbox.is_closed() && self.generation == self.core.generation()
    }

    /// Waits until its next attempt may begin. `None`: there will be none, since the disk is being closed or nobody waits
    /// for the answer any more.
    async fn parked(&mut self, until: Moment) -> Option<Rc<Opened>> {
        self.parks();
        let core = self.core.clone();
        let over = pin!(core.find_at_gate(|gate| self.is_over_at(gate).then_some(())));
        if let Either::Right(_) = select(pin!(core.executor.sleep_until(until)), over).await {
            return None;
        }
        self.at_open_gate().await
    }

    /// Whether there is nothing to wait for any more.
    fn is_over_at(&self, gate: &Gate) -> bool {
        matches!(gate, Gate::Refusing(_)) || !self.is_awaited()
    }

    async fn at_open_gate(&self) -> Option<Rc<Opened>> {
        let look = |gate: &Gate| match gate {
            gate if self.is_over_at(gate) => Some(None),
            Gate::Open(opened) => Some(Some(opened.clone())),
            _ => None,
        };
        self.core.find_at_gate(look).await
    }

    /// The images as `operation` needs them: to change them, the disk may have to take write access first.
    async fn opened_for(&mut self, opened: Rc<Opened>, operation: &Operation) -> Result<Rc<Opened>, Error> {
        if opened.access.writes || !operation.changes() {
            return Ok(opened);
        }
        drop(opened);
        Box::pin(self.may_write()).await
    }

    /// Has home take write access; meanwhile it holds up no drain.
    async fn may_write(&mut self) -> Result<Rc<Opened>, Error> {
        self.parks();
        loop {
            let (to, answer) = reply();
            // Without a home the gate refuses.
            let _ = self.core.home.send(ToDisk::Write(to));
            {
                let over = pin!(self.core.find_at_gate(|gate| self.is_over_at(gate).then_some(())));
                match select(answer, over).await {
                    Either::Left((Some(taken), _)) => taken?,
                    Either::Left((None, _)) | Either::Right(_) => return Err(closed()),
                }
            }
            let opened = self.at_open_gate().await.ok_or_else(closed)?;
            if opened.access.writes {
                self.starts();
                return Ok(opened);
            }
        }
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        self.leaves();
        if self.is_told {
            watchdog::tell_end(&self.core, self.as_it_is(self.attempts));
        }
        if !self.is_answered && self.is_awaited() && !std::thread::panicking() {
            panic!("a {} request, {:?}, was dropped without an answer", self.kind.name(), self.tag);
        }
    }
}

/// An attempt that has failed: what it takes to attempt it again, and why.
struct Failed {
    operation: Operation,
    error: Error,
    policy: RetryPolicy,
}

impl Failed {
    fn may_pass(&self) -> bool {
        is_repeatable(&self.operation) && verdict(&self.error, &self.policy) == Verdict::Retry
    }
}

async fn run(opened: Rc<Opened>, operation: Operation, mut unanswered: Unanswered) {
    let opened = match unanswered.opened_for(opened, &operation).await {
        Ok(opened) => opened,
        Err(error) => return unanswered.answer(Outcome::Failed(error)),
    };
    unanswered.began = Some(unanswered.core.executor.now());
    match attempt(opened, operation, &mut unanswered).await {
        Ok(outcome) => unanswered.answer(outcome),
        // Apart, so that requests that succeed carry no room for it.
        Err(failed) if failed.may_pass() => Box::pin(retry(failed, unanswered)).await,
        Err(failed) => unanswered.answer(Outcome::Failed(failed.error)),
    }
}

/// Attempts a request again and again, as long as its failures may pass.
async fn retry(mut failed: Failed, mut unanswered: Unanswered) {
    let core = unanswered.core.clone();
    let mut attempts = Attempts::default();
    tell_first(&unanswered, &failed.error);
    while failed.may_pass() {
        let next = attempts.next(core.executor.now(), &failed.policy, core.executor.random());
        let Some(next) = next else { break };
        let Some(opened) = unanswered.parked(next).await else { break };
        core.recorder.retried();
        unanswered.starts();
        let opened = match unanswered.opened_for(opened, &failed.operation).await {
            Ok(opened) => opened,
            Err(error) => return unanswered.answer(Outcome::Failed(error)),
        };
        failed = match attempt(opened, failed.operation, &mut unanswered).await {
            Ok(outcome) => return unanswered.answer(outcome),
            Err(failed) => failed,
        };
    }
    unanswered.answer(Outcome::Failed(failed.error));
}

fn tell_first(unanswered: &Unanswered, error: &Error) {
    unanswered.core.reporter.report(Report::Retrying(Retrying {
        queue: unanswered.core.recorder.status().number(),
        kind: unanswered.kind,
        range: unanswered.range,
        error: error.clone(),
    }));
}

async fn attempt(opened: Rc<Opened>, operation: Operation, unanswered: &mut Unanswered) -> Result<Outcome, Failed> {
    unanswered.attempts += 1;
    let result = carry_out(&opened.chain, operation).await;
    let policy = opened.settings.retry;
    // The chain's handle goes first: whoever waits for the answer may close the images next.
    drop(opened);
    result.map_err(|(operation, error)| Failed { operation, error, policy })
}

/// Gives the operation back if it failed, with its buffer.
async fn carry_out(chain: &image_chain::Queue, operation: Operation) -> Result<Outcome, (Operation, Error)> {
    match operation {
        Operation::Read { range, buffer } => match chain.read(range, buffer).await {
            (buffer, Ok(())) => Ok(Outcome::Read(buffer)),
            (buffer, Err(error)) => Err((Operation::Read { range, buffer }, error)),
        },
        Operation::Write { range, buffer, durable } => match chain.write(range, buffer, durable).await {
            (_, Ok(())) => Ok(Outcome::Done),
            (buffer, Err(error)) => Err((Operation::Write { range, buffer, durable }, error)),
        },
        // Apart, so that reads and writes carry no room for it.
        other => Box::pin(carry_out_other(chain, other)).await,
    }
}

async fn carry_out_other(chain: &image_chain::Queue, operation: Operation) -> Result<Outcome, (Operation, Error)> {
    match operation {
        Operation::Read { .. } | Operation::Write { .. } => unreachable!("carried out before"),
        Operation::Extents { range, first_only } => {
            chain.extents(range, first_only).await.map(Outcome::Extents).map_err(|error| (operation, error))
        }
        Operation::Flush => done(operation, chain.flush().await),
        Operation::Discard { range, durable: false } => done(operation, chain.discard(range).await),
        Operation::Discard { range, durable: true } => {
            let discarded = chain.discard(range).await;
            let flushed = if discarded.is_ok() { chain.flush().await } else { discarded };
            done(operation, flushed)
        }
        Operation::WriteZeroes { range, may_free, fast_only, durable } => {
            done(operation, chain.write_zeroes(range, may_free, fast_only, durable).await)
        }
        Operation::Cache { range } => done(operation, chain.cache(range).await),
    }
}

fn done(operation: Operation, result: block_core::Result<()>) -> Result<Outcome, (Operation, Error)> {
    result.map(|()| Outcome::Done).map_err(|error| (operation, error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::tests::simulated;

    fn unanswered() -> (Rc<Core>, Rc<Outbox>, Unanswered) {
        let core = simulated();
        let outbox = core.new_outbox();
        let mut unanswered = Unanswered::new(&core, &outbox, Tag(7), &Operation::Flush, core.executor.now());
        unanswered.starts();
        (core, outbox, unanswered)
    }

    fn in_flight(core: &Core) -> usize {
        core.recorder.in_flight().count()
    }

    #[test]
    #[should_panic(expected = "a flush request, Tag(7), was dropped without an answer")]
    fn a_request_that_is_dropped_unanswered_shouts() {
        let (_core, _outbox, unanswered) = unanswered();
        drop(unanswered);
    }

    #[test]
    fn a_request_that_nobody_waits_for_may_be_dropped() {
        let (core, _outbox, unanswered) = unanswered();
        core.abandon();
        drop(unanswered);
        assert_eq!(in_flight(&core), 0);
    }

    #[test]
    fn an_answer_ends_the_request_and_waits_in_the_outbox() {
        let (core, outbox, unanswered) = unanswered();
        assert_eq!((in_flight(&core), outbox.taken()), (1, 1));
        unanswered.answer(Outcome::Done);
        let mut answers = Vec::new();
        outbox.swap(&mut answers);
        assert!(matches!(answers[..], [(Tag(7), Outcome::Done)]));
        assert_eq!((in_flight(&core), outbox.taken()), (0, 0));
    }
}
