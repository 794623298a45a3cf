//! The disk's queue on one executor: the gate that requests pass, those that run, and the way their answers go.
//!
//! ```text
//!   source --> Serve --door--> [gate] --task--> chain
//!                ^                                |
//!                +---- Outbox <--- Unanswered <---+   answered exactly once; the outbox is emptied in batches
//! ```

use std::{
    cell::{Cell, RefCell},
    rc::{Rc, Weak},
    sync::Arc,
    task::Waker,
};

use block_core::{Error, Tag};
use storage_io::{Executor, Moment, Signal};

use crate::{
    Geometry, Operation, Outcome, Request, RequestKind, Status,
    counters::Recorder,
    door::{self, Admission},
    in_flight::{InFlight, Running},
    kind::sectors_of,
};

/// What happens to requests now.
#[derive(Clone)]
pub(crate) enum Gate {
    /// They go to the chain.
    Open(Geometry, image_chain::Queue),
    /// They stay where they are.
    Held,
    /// They are answered with this error.
    Refusing(Error),
}

/// What belongs to one executor of the disk. (Its home has one. Another thread's would be told by message what home's
/// is told by call: [`set_gate`](Self::set_gate), [`drained`](Self::drained), [`abandon`](Self::abandon).)
pub(crate) struct DiskQueue {
    executor: Executor,
    recorder: Recorder,
    gate: RefCell<Gate>,
    in_flight: RefCell<InFlight>,
    ended: Signal,
    outboxes: RefCell<Vec<Weak<Outbox>>>,
    /// Requests of an earlier generation are not answered any more.
    generation: Cell<u64>,
}

impl DiskQueue {
    pub(crate) fn new(executor: &Executor, status: Arc<Status>, gate: Gate) -> Rc<DiskQueue> {
        Rc::new(DiskQueue {
            executor: executor.clone(),
            recorder: status.add_queue(),
            gate: RefCell::new(gate),
            in_flight: RefCell::default(),
            ended: Signal::default(),
            outboxes: RefCell::default(),
            generation: Cell::new(0),
        })
    }

    pub(crate) fn executor(&self) -> &Executor {
        &self.executor
    }

    pub(crate) fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    pub(crate) fn gate(&self) -> Gate {
        self.gate.borrow().clone()
    }

    /// Changes what happens to requests that come from now on.
    pub(crate) fn set_gate(&self, gate: Gate) {
        self.gate.replace(gate);
        self.wake_sources();
    }

    /// Ends when no request runs.
    pub(crate) async fn drained(&self) {
        self.ended.until(|| self.in_flight.borrow().len() == 0).await;
    }

    /// How many requests run.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.borrow().len()
    }

    /// What runs, in words.
    pub(crate) fn describe(&self) -> String {
        self.in_flight.borrow().describe(self.executor.now())
    }

    /// Gives up the answers of all that runs. What the kernel holds goes on, but nobody will hear of it.
    pub(crate) fn abandon(&self) {
        self.generation.set(self.generation.get() + 1);
        self.wake_sources();
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation.get()
    }

    pub(crate) fn new_outbox(&self) -> Rc<Outbox> {
        let outbox = Rc::new(Outbox::default());
        let mut outboxes = self.outboxes.borrow_mut();
        // Clients come and go while the disk stays as it is: those that have gone must not add up.
        outboxes.retain(|outbox| outbox.strong_count() > 0);
        outboxes.push(Rc::downgrade(&outbox));
        outbox
    }

    fn wake_sources(&self) {
        let mut outboxes = self.outboxes.borrow_mut();
        outboxes.retain(|outbox| outbox.strong_count() > 0);
        let wakers: Vec<_> = outboxes.iter().filter_map(Weak::upgrade).filter_map(|outbox| outbox.waker()).collect();
        drop(outboxes);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Lets a request through the door: it runs as a task of its own, or is answered at once.
    pub(crate) fn admit(
        self: &Rc<Self>,
        (geometry, chain): (&Geometry, &image_chain::Queue),
        outbox: &Rc<Outbox>,
        request: Request,
        now: Moment,
    ) -> Option<Outcome> {
        let kind = RequestKind::of(&request.operation);
        self.recorder.came(kind, sectors_of(&request.operation));
        match door::admit(geometry, request.operation) {
            Admission::Answered(outcome) => {
                self.count_end(kind, &outcome, now, now, now);
                Some(outcome)
            }
            Admission::Enter(operation) => {
                let unanswered = self.begin(outbox, request.tag, kind, &operation, now);
                self.executor.spawn(run(chain.clone(), operation, unanswered)).detach();
                None
            }
        }
    }

    /// Answers a request that is not let in, for what it would have been refused for.
    pub(crate) fn refuse(&self, request: &Request, error: &Error, now: Moment) -> Outcome {
        let kind = RequestKind::of(&request.operation);
        let outcome = Outcome::Failed(error.clone());
        self.recorder.came(kind, 0);
        self.count_end(kind, &outcome, now, now, now);
        outcome
    }

    fn begin(
        self: &Rc<Self>,
        outbox: &Rc<Outbox>,
        tag: Tag,
        kind: RequestKind,
        operation: &Operation,
        now: Moment,
    ) -> Unanswered {
        let running = Running { kind, range: operation.range(), since: now };
        let slot = self.in_flight.borrow_mut().insert(running);
        self.recorder.set_in_flight(self.in_flight());
        outbox.running.set(outbox.running.get() + 1);
        Unanswered {
            queue: self.clone(),
            outbox: outbox.clone(),
            generation: self.generation.get(),
            is_answered: false,
            tag,
            kind,
            slot,
            came: now,
            began: now,
        }
    }

    fn count_end(&self, kind: RequestKind, outcome: &Outcome, came: Moment, began: Moment, ended: Moment) {
        let failure = if let Outcome::Failed(error) = outcome { Some(error) } else { None };
        self.recorder.ended(kind, failure, began - came, ended - began);
    }
}

/// Where the answers for one source gather until its loop hands them over.
#[derive(Default)]
pub(crate) struct Outbox {
    answers: RefCell<Vec<(Tag, Outcome)>>,
    /// Requests of the current generation that run.
    running: Cell<usize>,
    waker: RefCell<Option<Waker>>,
    /// The source has gone: answers are dropped.
    is_closed: Cell<bool>,
}

impl Outbox {
    pub(crate) fn running(&self) -> usize {
        self.running.get()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.answers.borrow().is_empty()
    }

    /// Forgets what runs: its answers will not come.
    pub(crate) fn forget_running(&self) {
        self.running.set(0);
    }

    pub(crate) fn close(&self) {
        self.is_closed.set(true);
        self.answers.take();
    }

    /// Swaps the gathered answers with an empty vector, so that both keep their memory.
    pub(crate) fn swap(&self, empty: &mut Vec<(Tag, Outcome)>) {
        std::mem::swap(&mut *self.answers.borrow_mut(), empty);
    }

    pub(crate) fn set_waker(&self, waker: &Waker) {
        let mut own = self.waker.borrow_mut();
        if !own.as_ref().is_some_and(|own| own.will_wake(waker)) {
            *own = Some(waker.clone());
        }
    }

    fn waker(&self) -> Option<Waker> {
        self.waker.borrow().clone()
    }

    fn put(&self, tag: Tag, outcome: Outcome) {
        let mut answers = self.answers.borrow_mut();
        answers.push((tag, outcome));
        let is_first = answers.len() == 1;
        drop(answers);
        if is_first && let Some(waker) = self.waker() {
            waker.wake();
        }
    }
}

/// A request that has been taken and has no answer yet. The only way out is [`answer`](Self::answer); dropping it is a
/// bug that shouts, since a guest waits for the answer forever.
struct Unanswered {
    queue: Rc<DiskQueue>,
    outbox: Rc<Outbox>,
    generation: u64,
    is_answered: bool,
    tag: Tag,
    kind: RequestKind,
    slot: usize,
    came: Moment,
    began: Moment,
}

impl Unanswered {
    fn answer(mut self, outcome: Outcome) {
        self.is_answered = true;
        self.queue.count_end(self.kind, &outcome, self.came, self.began, self.queue.executor.now());
        if self.is_awaited() {
            self.outbox.running.set(self.outbox.running.get() - 1);
            self.outbox.put(self.tag, outcome);
        }
    }

    /// Whether somebody still wants the answer.
    fn is_awaited(&self) -> bool {
        !self.outbox.is_closed.get() && self.generation == self.queue.generation.get()
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        self.queue.in_flight.borrow_mut().remove(self.slot);
        let left = self.queue.in_flight();
        self.queue.recorder.set_in_flight(left);
        if left == 0 {
            self.queue.ended.notify();
        }
        if !self.is_answered && self.is_awaited() && !std::thread::panicking() {
            panic!("a {} request, {:?}, was dropped without an answer", self.kind.name(), self.tag);
        }
    }
}

/// The life of one request behind the door.
async fn run(chain: image_chain::Queue, operation: Operation, mut unanswered: Unanswered) {
    unanswered.began = unanswered.queue.executor.now();
    let outcome = carry_out(&chain, operation).await;
    // The chain's handle goes first: whoever waits for the answer may close the images next.
    drop(chain);
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

#[cfg(test)]
mod tests {
    use super::*;
    use block_core::ErrorKind;
    use storage_io::SimulatedClock;

    fn unanswered() -> (Rc<DiskQueue>, Rc<Outbox>, Unanswered) {
        let executor = Executor::simulated(1, SimulatedClock::new());
        let gate = Gate::Refusing(Error::new(ErrorKind::Closed, "closed"));
        let queue = DiskQueue::new(&executor, Arc::new(Status::new()), gate);
        let outbox = queue.new_outbox();
        let unanswered = queue.begin(&outbox, Tag(7), RequestKind::Flush, &Operation::Flush, executor.now());
        (queue, outbox, unanswered)
    }

    #[test]
    #[should_panic(expected = "a flush request, Tag(7), was dropped without an answer")]
    fn a_request_that_is_dropped_unanswered_shouts() {
        let (_queue, _outbox, unanswered) = unanswered();
        drop(unanswered);
    }

    #[test]
    fn a_request_that_nobody_waits_for_may_be_dropped() {
        let (queue, _outbox, unanswered) = unanswered();
        queue.abandon();
        drop(unanswered);
        assert_eq!(queue.in_flight(), 0);
    }

    #[test]
    fn sources_that_have_gone_leave_nothing_behind() {
        let (queue, outbox, unanswered) = unanswered();
        for _ in 0..1000 {
            drop(queue.new_outbox());
        }
        assert!(queue.outboxes.borrow().len() <= 2, "{} outboxes", queue.outboxes.borrow().len());
        unanswered.answer(Outcome::Done);
        assert!(!outbox.is_empty());
    }

    #[test]
    fn an_answer_ends_the_request_and_waits_in_the_outbox() {
        let (queue, outbox, unanswered) = unanswered();
        assert_eq!((queue.in_flight(), outbox.running()), (1, 1));
        unanswered.answer(Outcome::Done);
        let mut answers = Vec::new();
        outbox.swap(&mut answers);
        assert!(matches!(answers[..], [(Tag(7), Outcome::Done)]));
        assert_eq!((queue.in_flight(), outbox.running()), (0, 0));
    }
}
