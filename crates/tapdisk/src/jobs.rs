//! The jobs of a process: whatever takes time is one, whichever protocol asked for it. It has a number, goes on when
//! whoever asked has gone, and is remembered for a while when it has ended.
//!
//! ```text
//!   Waiting --- its turn at its disk ---> Running ---> Ended
//!      |                                                 ^
//!      +------------ cancelled before its turn ----------+
//! ```

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
};

use block_core::{Error, ErrorKind, Result};
use control_api::{Minor, native::JobState};
use rustix::io::Errno;
use storage_io::{Moment, Signal};

use crate::{
    home::{Done, JobKind},
    rings::RingName,
};

/// Jobs that have not ended, of all disks. Beyond that somebody asks without ever looking at the answers.
const UNFINISHED_MAX: usize = 4096;
/// Jobs that have ended and are remembered.
const ENDED_MAX: usize = 64;

/// All jobs, by number.
#[derive(Default)]
pub(crate) struct Jobs {
    last: Cell<u64>,
    known: RefCell<BTreeMap<u64, Rc<JobRecord>>>,
}

/// What is known about a job.
#[derive(Debug)]
pub(crate) struct JobRecord {
    pub(crate) number: u64,
    pub(crate) minor: Minor,
    pub(crate) kind: JobKind,
    /// The guest's device that it connects.
    pub(crate) ring: Option<RingName>,
    pub(crate) asked: Moment,
    state: Cell<JobState>,
    is_cancelled: Cell<bool>,
    outcome: RefCell<Option<Done>>,
    /// State or outcome, or the wish to cancel it.
    pub(crate) changed: Signal,
}

impl Jobs {
    /// A new job, which waits for its turn.
    pub(crate) fn begin(
        &self,
        minor: Minor,
        kind: JobKind,
        ring: Option<RingName>,
        asked: Moment,
    ) -> Result<Rc<JobRecord>> {
        let unfinished = self.known.borrow().values().filter(|job| !job.has_ended()).count();
        if unfinished >= UNFINISHED_MAX {
            let words = format!("{unfinished} jobs have not ended yet");
            return Err(Error::from_os(words, Errno::BUSY.into()));
        }
        let number = self.last.get() + 1;
        self.last.set(number);
        let record = Rc::new(JobRecord {
            number,
            minor,
            kind,
            ring,
            asked,
            state: Cell::new(JobState::Waiting),
            is_cancelled: Cell::new(false),
            outcome: RefCell::default(),
            changed: Signal::new(),
        });
        self.known.borrow_mut().insert(number, record.clone());
        Ok(record)
    }

    /// A job has ended; one that ended long ago is forgotten instead.
    pub(crate) fn end(&self, job: &JobRecord, outcome: Done) {
        job.outcome.replace(Some(outcome));
        job.enter(JobState::Ended);
        let mut known = self.known.borrow_mut();
        let ended: Vec<u64> = known.values().filter(|job| job.has_ended()).map(|job| job.number).collect();
        let too_many = ended.len().saturating_sub(ENDED_MAX);
        for number in &ended[..too_many] {
            known.remove(number);
        }
    }

    pub(crate) fn find(&self, number: u64) -> Result<Rc<JobRecord>> {
        let unknown = || Error::from_os(format!("job {number} is not known"), Errno::SRCH.into());
        self.known.borrow().get(&number).cloned().ok_or_else(unknown)
    }

    /// By number.
    pub(crate) fn all(&self) -> Vec<Rc<JobRecord>> {
        self.known.borrow().values().cloned().collect()
    }

    /// Those of a disk that have not ended, by number.
    pub(crate) fn unfinished(&self, minor: Minor) -> Vec<Rc<JobRecord>> {
        let known = self.known.borrow();
        known.values().filter(|job| job.minor == minor && !job.has_ended()).cloned().collect()
    }

    /// What is being done to a disk, or will be next.
    pub(crate) fn current(&self, minor: Minor) -> Option<u64> {
        let known = self.known.borrow();
        let mut unfinished = known.values().filter(|job| job.minor == minor && !job.has_ended());
        let first = unfinished.next()?;
        let running = unfinished.find(|job| job.state() == JobState::Running && first.state() != JobState::Running);
        Some(running.unwrap_or(first).number)
    }
}

impl JobRecord {
    pub(crate) fn state(&self) -> JobState {
        self.state.get()
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.state() == JobState::Ended
    }

    /// Its turn has come.
    pub(crate) fn run(&self) {
        self.enter(JobState::Running);
    }

    fn enter(&self, next: JobState) {
        let state = self.state.replace(next);
        assert!(may_become(state, next), "a job that is {state:?} does not become {next:?}");
        self.changed.notify();
    }

    /// Whether somebody wants it not to begin.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.is_cancelled.get()
    }

    /// It shall not begin. Says whether it had not.
    pub(crate) fn cancel(&self) -> bool {
        let has_not_begun = self.state() == JobState::Waiting;
        if has_not_begun {
            self.is_cancelled.set(true);
            self.changed.notify();
        }
        has_not_begun
    }

    /// How it ended, if it has.
    pub(crate) fn outcome(&self) -> Option<Done> {
        self.outcome.borrow().clone()
    }

    /// Waits for its end.
    pub(crate) async fn ended(&self) -> Done {
        self.changed.find(|| self.outcome().filter(|_| self.has_ended())).await
    }
}

fn may_become(state: JobState, next: JobState) -> bool {
    use JobState::*;
    matches!((state, next), (Waiting, Running | Ended) | (Running, Ended))
}

/// How a job ends that was cancelled before it began.
pub(crate) fn cancelled() -> Done {
    Err(Error::new(ErrorKind::Cancelled, "cancelled before it began"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::home::Gave;
    use storage_io::{Executor, SimulatedClock};

    fn begin(jobs: &Jobs, minor: u16) -> Result<Rc<JobRecord>> {
        let now = Executor::simulated(1, SimulatedClock::new()).now();
        jobs.begin(Minor::new(minor).unwrap(), JobKind::Pause, None, now)
    }

    #[test]
    fn jobs_that_have_ended_are_remembered_for_a_while() {
        let jobs = Jobs::default();
        let waiting = begin(&jobs, 1).unwrap();
        for _ in 0..ENDED_MAX + 3 {
            let job = begin(&jobs, 0).unwrap();
            job.run();
            jobs.end(&job, Ok(Gave::Nothing));
        }
        let numbers: Vec<u64> = jobs.all().iter().map(|job| job.number).collect();
        assert_eq!(numbers.len(), ENDED_MAX + 1);
        assert_eq!(numbers[..2], [waiting.number, 5]);
        assert!(jobs.find(4).is_err() && jobs.find(5).unwrap().has_ended());
    }

    #[test]
    fn nobody_may_ask_for_ever() {
        let jobs = Jobs::default();
        let first = begin(&jobs, 0).unwrap();
        (1..UNFINISHED_MAX).for_each(|_| drop(begin(&jobs, 0).unwrap()));
        assert_eq!(begin(&jobs, 0).unwrap_err().os_error(), Some(Errno::BUSY.raw_os_error()));
        jobs.end(&first, cancelled());
        assert!(begin(&jobs, 0).is_ok());
    }

    #[test]
    fn the_current_job_is_the_one_that_runs_or_the_next() {
        let jobs = Jobs::default();
        assert_eq!(jobs.current(Minor::new(3).unwrap()), None);
        let [first, second] = [(); 2].map(|()| begin(&jobs, 3).unwrap());
        assert_eq!(jobs.current(first.minor), Some(1));
        // By force: it did not wait.
        second.run();
        assert_eq!(jobs.current(first.minor), Some(2));
        first.run();
        jobs.end(&first, Ok(Gave::Nothing));
        jobs.end(&second, Ok(Gave::Nothing));
        assert_eq!(jobs.current(first.minor), None);
    }

    #[test]
    fn a_job_may_be_cancelled_until_it_begins() {
        let jobs = Jobs::default();
        let [early, late] = [(); 2].map(|()| begin(&jobs, 3).unwrap());
        assert!(early.cancel() && early.is_cancelled());
        late.run();
        assert!(!late.cancel() && !late.is_cancelled());
    }

    #[test]
    fn the_life_of_a_job_is_the_drawing() {
        use JobState::*;
        let all = [Waiting, Running, Ended];
        let allowed: Vec<_> = all.iter().flat_map(|state| all.map(|next| (*state, next))).collect();
        let allowed: Vec<_> = allowed.into_iter().filter(|(state, next)| may_become(*state, *next)).collect();
        assert_eq!(allowed, [(Waiting, Running), (Waiting, Ended), (Running, Ended)]);
    }
}
