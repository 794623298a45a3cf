//! The event loops of the process, by the names of their threads, for whoever asks what they do and why they do not
//! answer.
//!
//! ```text
//!   asker -- question --> loop: what is under way? -- answer -->
//!      '---- its trace, read from here ------------------------> also if it hangs
//! ```

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use control_api::Minor;
use futures_util::future::{Either, join_all, select};
use storage_io::{Executor, LoopTrace, Reply, ReplyTo, Sender, Task, Turn, mailbox, reply};

use crate::log::seconds;

/// How long loops have to answer before they count as hanging.
const ANSWER_MAX: Duration = Duration::from_secs(1);

/// What a loop works for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Sockets of the process.
    Control,
    /// A queue of a disk; 0 is its home.
    Queue(Minor, u16),
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Purpose::Control => f.write_str("control"),
            Purpose::Queue(minor, queue) => write!(f, "minor={minor} queue={queue}"),
        }
    }
}

/// All loops of the process; clones know the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Loops(Arc<Mutex<Vec<Known>>>);

#[derive(Clone, Debug)]
struct Known {
    purpose: Purpose,
    trace: Arc<LoopTrace>,
    asking: Arc<Asking>,
    questions: Sender<Arc<Asking>>,
}

/// Those who wait for the answer of a loop. While it hangs there is one question in its mailbox, whoever else asks.
#[derive(Debug, Default)]
struct Asking(Mutex<Askers>);

#[derive(Debug, Default)]
struct Askers {
    next: u64,
    waiting: BTreeMap<u64, ReplyTo<Vec<Operation>>>,
    is_asked: bool,
}

/// Somebody who asks; forgotten when this is dropped.
struct Asker {
    asking: Arc<Asking>,
    number: u64,
}

impl Asking {
    /// Guards a small table; nobody waits while it is locked.
    fn askers(&self) -> MutexGuard<'_, Askers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, operations: &[Operation]) {
        let waiting = {
            let mut askers = self.askers();
            askers.is_asked = false;
            std::mem::take(&mut askers.waiting)
        };
        for asker in waiting.into_values() {
            // Whoever asked may have lost patience.
            let _ = asker.answer(operations.to_vec());
        }
    }
}

impl Known {
    fn ask(&self) -> (Asker, Reply<Vec<Operation>>) {
        let (to, answered) = reply();
        let mut askers = self.asking.askers();
        let number = askers.next;
        askers.next += 1;
        askers.waiting.insert(number, to);
        let was_asked = std::mem::replace(&mut askers.is_asked, true);
        drop(askers);
        if !was_asked && self.questions.send(self.asking.clone()).is_err() {
            // The loop has gone: nobody will answer.
            self.asking.askers().waiting.clear();
        }
        (Asker { asking: self.asking.clone(), number }, answered)
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        let unanswered = self.asking.askers().waiting.remove(&self.number);
        drop(unanswered);
    }
}

/// Something that storage has under way.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    pub(crate) what: String,
    pub(crate) age: Duration,
}

/// What a loop does.
#[derive(Clone, Debug)]
pub(crate) struct LoopState {
    pub(crate) purpose: Purpose,
    /// How long the turn lasts that it is in; none if it waits.
    pub(crate) running: Option<Duration>,
    /// Since its last turn ended.
    pub(crate) idle: Duration,
    /// Its last turns, oldest first.
    pub(crate) turns: Vec<Turn>,
    /// What it has under way, oldest first; nothing is known of a loop that does not answer.
    pub(crate) operations: Option<Vec<Operation>>,
}

/// A loop that is known. It is forgotten when this is dropped.
pub(crate) struct Registration {
    loops: Loops,
    trace: Arc<LoopTrace>,
    _answering: Task<()>,
}

impl Loops {
    /// Makes a loop known.
    pub(crate) fn register(&self, executor: &Executor, purpose: Purpose) -> Registration {
        let (questions, mut asked) = mailbox::<Arc<Asking>>();
        let asking = executor.clone();
        let answering = executor.spawn(async move {
            while let Some(askers) = asked.recv().await {
                let now = asking.now();
                let operations = asking.operations().into_iter();
                let operations = operations.map(|running| Operation { what: running.what, age: now - running.since });
                askers.answer(&operations.collect::<Vec<_>>());
            }
        });
        let trace = executor.trace();
        self.known().push(Known { purpose, trace: trace.clone(), asking: Arc::default(), questions });
        Registration { loops: self.clone(), trace, _answering: answering }
    }

    /// Guards a small list; nobody waits while it is locked.
    fn known(&self) -> MutexGuard<'_, Vec<Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What every loop does, in bounded time. `executor` is the asker's.
    pub(crate) async fn look(&self, executor: &Executor) -> Vec<LoopState> {
        let known = self.known().clone();
        let end = executor.now() + ANSWER_MAX;
        join_all(known.into_iter().map(async |known| {
            let (_asker, answered) = known.ask();
            let operations = match select(answered, Box::pin(executor.sleep_until(end))).await {
                Either::Left((operations, _)) => operations,
                Either::Right(_) => None,
            };
            let turns = known.trace.turns();
            let idle = turns.last().map_or(Duration::ZERO, |turn| executor.now() - (turn.began + turn.took));
            LoopState { purpose: known.purpose, running: known.trace.running(), idle, turns, operations }
        }))
        .await
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.loops.known().retain(|known| !Arc::ptr_eq(&known.trace, &self.trace));
    }
}

impl LoopState {
    /// Lines for people: what it does, then its turns.
    pub(crate) fn lines(&self) -> Vec<String> {
        let LoopState { purpose, running, idle, turns, operations } = self;
        let doing = match (operations, running) {
            (Some(_), _) => "answers".to_owned(),
            (None, None) => format!("does not answer, last turn {} ago", seconds(*idle)),
            (None, Some(running)) => format!("does not answer, in a turn for {}", seconds(*running)),
        };
        let head = format!("loop: {purpose}: {doing}; its last {} turns:", turns.len());
        let operations = operations.iter().flatten();
        let operations = operations
            .map(|Operation { what, age }| format!("loop: {purpose}: under way for {}: {what}", seconds(*age)));
        let turns = turns.iter().map(|turn| format!("loop: {purpose}: {turn}"));
        operations.chain([head]).chain(turns).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread};

    use storage_io::EngineChoice;

    use super::*;

    #[test]
    fn a_loop_that_hangs_is_told_by_its_trace_and_one_that_has_gone_is_not() {
        let loops = Loops::default();
        let (hang, hanging) = mpsc::channel::<()>();
        let (up, is_up) = mpsc::channel();
        let theirs = loops.clone();
        let thread = thread::spawn(move || {
            let executor = Executor::new(EngineChoice::Inline).unwrap();
            let _known = theirs.register(&executor, Purpose::Queue(Minor::new(4).unwrap(), 1));
            executor.block_on(async {
                executor.sleep(Duration::from_millis(1)).await;
                up.send(()).unwrap();
                // A task that waits where it must not.
                let _ = hanging.recv();
            });
        });
        is_up.recv().unwrap();
        let executor = Executor::new(EngineChoice::Inline).unwrap();
        let _known = loops.register(&executor, Purpose::Control);
        let look = || executor.block_on(loops.look(&executor));
        let [hung, control] = &look()[..] else { panic!("two loops") };
        assert_eq!(hung.purpose.to_string(), "minor=4 queue=1");
        assert!(hung.operations.is_none() && hung.running >= Some(ANSWER_MAX), "{hung:?}");
        assert!(hung.lines()[0].contains("minor=4 queue=1: does not answer, in a turn for "), "{hung:?}");
        assert!(hung.lines().last().unwrap().contains(" turn "), "{hung:?}");
        assert!(control.operations.is_some());
        drop(hang);
        thread.join().unwrap();
        assert_eq!(look().len(), 1);
    }

    #[test]
    fn a_loop_that_hangs_has_one_question_and_answers_all_who_wait_when_it_gets_on() {
        let loops = Loops::default();
        let hanging = Executor::new(EngineChoice::Inline).unwrap();
        let _known = loops.register(&hanging, Purpose::Control);
        let executor = Executor::new(EngineChoice::Inline).unwrap();
        let looks = executor.block_on(join_all((0..100).map(|_| loops.look(&executor))));
        assert!(looks.iter().flatten().all(|state| state.operations.is_none()));
        let known = loops.known()[0].clone();
        assert!(known.asking.askers().waiting.is_empty(), "those have lost patience");
        let questions = || Arc::strong_count(&known.asking) - 2;
        assert_eq!(questions(), 1);
        let (asker, mut others) = (known.ask(), known.ask());
        while hanging.step() {}
        assert_eq!(questions(), 2, "the two who ask");
        assert!(executor.block_on(asker.1).is_some() && executor.block_on(&mut others.1).is_some());
        drop((asker.0, others.0));
        let again = known.ask();
        assert_eq!(questions(), 2, "who asks, and the question");
        drop(again);
    }
}
