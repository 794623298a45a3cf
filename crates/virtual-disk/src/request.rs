//! The life of a request behind the door.

use std::rc::Rc;

use block_core::{GuestRange, Tag};
use storage_io::Moment;

use crate::{
    Operation, Outcome, Request, RequestKind,
    door::{self, Admission},
    in_flight::RunningRequest,
    kind::sectors_of,
    outbox::Outbox,
    queue::{Core, Opened},
};

/// Lets a request through the door: it runs as a task of its own, or is answered at once.
pub(crate) fn admit(
    core: &Rc<Core>,
    opened: &Rc<Opened>,
    outbox: &Rc<Outbox>,
    request: Request,
    now: Moment,
) -> Option<Outcome> {
    let kind = RequestKind::of(&request.operation);
    core.recorder.came(kind, sectors_of(&request.operation));
    match door::admit(&opened.geometry, request.operation) {
        Admission::Answered(outcome) => {
            count_end(core, kind, &outcome, now, now, now);
            Some(outcome)
        }
        Admission::Enter(operation) => {
            let unanswered = Unanswered::begin(core, outbox, request.tag, &operation, now);
            core.executor.spawn(run(opened.clone(), operation, unanswered)).detach();
            None
        }
    }
}

/// Answers a request that is not let in, for what it would have been refused for.
pub(crate) fn refuse(core: &Core, request: &Request, error: &block_core::Error, now: Moment) -> Outcome {
    let kind = RequestKind::of(&request.operation);
    let outcome = Outcome::Failed(error.clone());
    core.recorder.came(kind, 0);
    count_end(core, kind, &outcome, now, now, now);
    outcome
}

fn count_end(core: &Core, kind: RequestKind, outcome: &Outcome, came: Moment, began: Moment, ended: Moment) {
    let failure = if let Outcome::Failed(error) = outcome { Some(error) } else { None };
    core.recorder.ended(kind, failure, began - came, ended - began);
}

/// A request that has been taken and has no answer yet. The only way out is [`answer`](Self::answer); dropping it is a
/// bug that shouts, since a guest waits for the answer forever.
pub(crate) struct Unanswered {
    core: Rc<Core>,
    outbox: Rc<Outbox>,
    generation: u64,
    is_answered: bool,
    tag: Tag,
    kind: RequestKind,
    range: Option<GuestRange>,
    /// Its place among what runs, while it runs.
    slot: Option<usize>,
    came: Moment,
    began: Moment,
}

impl Unanswered {
    fn begin(core: &Rc<Core>, outbox: &Rc<Outbox>, tag: Tag, operation: &Operation, now: Moment) -> Unanswered {
        outbox.take();
        let mut unanswered = Unanswered {
            core: core.clone(),
            outbox: outbox.clone(),
            generation: core.generation(),
            is_answered: false,
            tag,
            kind: RequestKind::of(operation),
            range: operation.range(),
            slot: None,
            came: now,
            began: now,
        };
        unanswered.starts();
        unanswered
    }

    /// It runs from now on: whoever drains the disk waits for it.
    fn starts(&mut self) {
        let running = RunningRequest { kind: self.kind, range: self.range, since: self.came };
        self.slot = Some(self.core.recorder.in_flight().insert(running));
    }

    /// It runs no more, and has let go of the images.
    fn stops(&mut self) {
        if let Some(slot) = self.slot.take() {
            let left = self.core.recorder.in_flight().remove(slot);
            self.core.left(left);
        }
    }

    fn answer(mut self, outcome: Outcome) {
        self.is_answered = true;
        count_end(&self.core, self.kind, &outcome, self.came, self.began, self.core.executor.now());
        if self.is_awaited() {
            self.outbox.put(self.tag, outcome);
        }
    }

    /// Whether somebody still wants the answer.
    fn is_awaited(&self) -> bool {
        !self.outbox.is_closed() && self.generation == self.core.generation()
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        self.stops();
        if !self.is_answered && self.is_awaited() && !std::thread::panicking() {
            panic!("a {} request, {:?}, was dropped without an answer", self.kind.name(), self.tag);
        }
    }
}

async fn run(opened: Rc<Opened>, operation: Operation, mut unanswered: Unanswered) {
    unanswered.began = unanswered.core.executor.now();
    let outcome = carry_out(&opened.chain, operation).await;
    // The chain's handle goes first: whoever waits for the answer may close the images next.
    drop(opened);
    unanswered.answer(outcome);
}

async fn carry_out(chain: &image_chain::Queue, operation: Operation) -> Outcome {
    let done = |result: block_core::Result<()>| result.map_or_else(Outcome::Failed, |()| Outcome::Done);
    match operation {
        Operation::Read { range, buffer } => {
            let (buffer, result) = chain.read(range, buffer).await;
            result.map_or_else(Outcome::Failed, |()| Outcome::Read(buffer))
        }
        Operation::Write { range, buffer, durable } => done(chain.write(range, buffer, durable).await.1),
        Operation::Flush => done(chain.flush().await),
        Operation::Discard { range } => done(chain.discard(range).await),
        Operation::WriteZeroes { range, may_free, fast_only, durable } => {
            done(chain.write_zeroes(range, may_free, fast_only, durable).await)
        }
        Operation::Cache { range } => done(chain.cache(range).await),
        Operation::Extents { range, first_only } => {
            chain.extents(range, first_only).await.map_or_else(Outcome::Failed, Outcome::Extents)
        }
    }
}
