//! A ring whose disk has gone with the process that served it: everything that its guest has asked, and asks, fails. A
//! guest's kernel waits for answers without end, whatever its backend shows in XenStore.
//!
//! Where the ring is, its record says. Whoever answers needs neither disk nor image, and so waits for nothing.

use std::{cell::RefCell, fmt, rc::Rc, time::Duration};

use block_core::{Error, ErrorKind, Result, ResultExt};
use storage_io::{Executor, Moment, Task};
use wire::blkif::{RawRequest, Refusal, Request, Response, Status};
use xen::{EventChannel, EventChannels, Grants, Mapping, SharedMemory};

use super::{
    record::{Record, Unanswered},
    ring::{BrokenRing, Ring},
    table::{ANYTHING, Table, ring_index},
};

/// A guest that asks nothing for so long asks nothing more.
const SILENCE: Duration = Duration::from_millis(200);
/// A guest that never stops asking is answered so much longer, once it shall be let go of.
const ANSWERS_MAX: Duration = Duration::from_secs(2);
/// Requests taken at once.
const TAKEN_AT_ONCE_MAX: usize = 64;

/// A ring in which everything fails. Dropping it lets go of the ring at once.
pub struct FailingRing {
    // Dropped in this order: the event channel before the pages.
    serving: Task<()>,
    shared: Rc<Shared>,
    executor: Executor,
    answered: usize,
}

struct Shared {
    channel: Box<dyn EventChannel>,
    ring: RefCell<Answering>,
    executor: Executor,
}

struct Answering {
    ring: Ring<Mapping>,
    table: Table,
    last: Moment,
}

impl FailingRing {
    /// Maps the ring that a record is about, binds its event channel, answers all that is in it, and goes on so.
    ///
    /// # Errors
    /// `NotFound` if it is no record, `Invalid` if the ring makes no sense, or what the platform says.
    pub fn adopt(
        executor: &Executor,
        grants: &dyn Grants,
        channels: &dyn EventChannels,
        record: SharedMemory,
    ) -> Result<FailingRing> {
        let no_record = || Error::new(ErrorKind::NotFound, "what is left of it is no record of a ring");
        let place = Record::place(&record).ok_or_else(no_record)?;
        let (record, remembered) = Record::adopt(record).map_err(|_| no_record())?;
        let memory = grants.map_ring(place.domain, &place.pages).context("the ring")?;
        let [taken, given] = [remembered.taken, remembered.given].map(ring_index);
        let ring = Ring::adopt(memory, place.abi, taken, given);
        let ring = ring.map_err(|broken| Error::new(ErrorKind::Invalid, broken.to_string()))?;
        let channel = channels.bind(executor, place.domain, place.port)?;
        let now = executor.now();
        let table = Table::adopted(ring.slots(), record, &remembered, now);
        let mut answering = Answering { ring, table, last: now };
        let unanswered = remembered.unanswered.iter();
        answering.fail(unanswered.map(|Unanswered { place, request, .. }| (*place, *request)).collect());
        let shared = Rc::new(Shared { channel, ring: RefCell::new(answering), executor: executor.clone() });
        // Also of answers that were given before.
        shared.channel.notify();
        let serving = executor.spawn(serve(shared.clone()));
        Ok(FailingRing { serving, shared, executor: executor.clone(), answered: remembered.unanswered.len() })
    }

    /// How many requests were found without an answer.
    pub fn answered(&self) -> usize {
        self.answered
    }

    /// Lets go of the ring, when its guest asks nothing more. A guest whose kernel has stopped asking since its disk is
    /// closed goes on when there is an event: what waited there is answered, too.
    pub async fn let_go(self) {
        let FailingRing { serving, shared, executor, .. } = self;
        shared.channel.notify();
        let begun = executor.now();
        loop {
            executor.sleep(SILENCE).await;
            let last = shared.ring.borrow().last;
            if executor.now() - last >= SILENCE || executor.now() - begun >= ANSWERS_MAX {
                break;
            }
        }
        drop(serving);
    }
}

impl fmt::Debug for FailingRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FailingRing({} answered)", self.answered)
    }
}

/// Answers to the end; a ring that makes no sense is not looked at any more.
async fn serve(shared: Rc<Shared>) {
    loop {
        if shared.answer_all().is_err() || shared.channel.wait().await.is_err() {
            return;
        }
        shared.channel.unmask();
    }
}

impl Shared {
    /// Until nothing is in the ring, and its guest tells of the next request.
    fn answer_all(&self) -> std::result::Result<(), BrokenRing> {
        let mut answering = self.ring.borrow_mut();
        loop {
            let wants_to_know = answering.answer(self.executor.now())?;
            if wants_to_know == Some(true) {
                self.channel.notify();
            }
            if wants_to_know.is_none() && !answering.ring.arm()? {
                return Ok(());
            }
        }
    }
}

impl Answering {
    /// Takes some requests and answers them; says whether the guest wants to be told. None: there were none.
    fn answer(&mut self, now: Moment) -> std::result::Result<Option<bool>, BrokenRing> {
        let mut taken = Vec::new();
        self.ring.take(TAKEN_AT_ONCE_MAX, |raw| {
            taken.push(raw);
            true
        })?;
        if taken.is_empty() {
            return Ok(None);
        }
        self.last = now;
        let mut places = Vec::new();
        self.table.take(&taken, now, |place| places.push(place));
        Ok(Some(self.fail(places.into_iter().zip(taken).collect())))
    }

    fn fail(&mut self, requests: Vec<(usize, RawRequest)>) -> bool {
        for (place, raw) in &requests {
            let (id, operation) = match raw.check(&ANYTHING) {
                Ok(Request { id, operation, .. }) | Err(Refusal { id, operation, .. }) => (id, operation),
            };
            let response = Response { id, operation, status: Status::Error };
            self.table.answering(*place, response);
            self.ring.put(response);
        }
        self.table.answered(requests.iter().map(|(place, _)| *place));
        self.ring.push()
    }
}
