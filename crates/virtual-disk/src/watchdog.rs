//! The watchdog of a queue: tells of each request that does not end for very long, once, with all that is known. All its
//! attempts and the times between them count; what limits hold has not begun, and is not stuck. It stops nothing: what
//! the kernel holds cannot be taken back.

use std::{
    pin::pin,
    rc::{Rc, Weak},
    sync::Arc,
    time::Duration,
};

use futures_util::future::{Either, select};
use storage_io::{Executor, Moment, RunningOperation, reply};

use crate::{
    Report, RunningRequest, StuckRequest,
    in_flight::{InFlight, seconds},
    queue::{Core, ToDisk},
};

/// How long home may take to say what it is doing.
const HOME_GRACE: Duration = Duration::from_secs(1);
/// Operations that an executor names.
const NAMED_MAX: usize = 8;

/// Makes sure that somebody watches what runs on the queue.
pub(crate) fn begin(core: &Rc<Core>) {
    if !core.is_watched.get() && !core.settings.get().stuck_after.is_zero() {
        core.is_watched.set(true);
        core.executor.spawn(watch(Rc::downgrade(core), core.executor.clone())).detach();
    }
}

/// Looks now and then, as long as something runs that may have to be told of.
async fn watch(core: Weak<Core>, executor: Executor) {
    loop {
        let Some(stuck_after) = core.upgrade().map(|core| core.settings.get().stuck_after) else { return };
        executor.sleep(stuck_after / 4).await;
        let Some(core) = core.upgrade() else { return };
        // The disk may have been opened anew meanwhile, with nobody to watch it.
        if core.settings.get().stuck_after.is_zero() {
            core.is_watched.set(false);
            return;
        }
        if watched(&core).iter().any(|requests| requests.has_overdue(core.executor.now(), stuck_after)) {
            let operations = operations(&core).await;
            tell(&core, stuck_after, operations.into());
        }
        if !watched(&core).iter().any(|requests| requests.has_untold()) {
            core.is_watched.set(false);
            return;
        }
    }
}

/// What runs, and what waits for its next attempt.
fn watched(core: &Core) -> [&InFlight; 2] {
    [core.recorder.in_flight(), core.recorder.parked()]
}

/// Tells of those that are overdue now, oldest first; one that has ended while others were asked is not.
fn tell(core: &Core, stuck_after: Duration, operations: Arc<[String]>) {
    let now = core.executor.now();
    let overdue = watched(core).map(|requests| requests.take_overdue(now, stuck_after));
    let mut overdue = overdue.concat();
    overdue.sort_by_key(|request| request.began);
    core.recorder.stuck(overdue.len());
    let images: Arc<[String]> = core.status.layers().into_iter().map(|layer| layer.name).collect();
    for request in overdue {
        core.reporter.report(Report::Stuck(story(core, request, images.clone(), operations.clone())));
    }
}

/// A request that was told of has ended after all.
pub(crate) fn tell_end(core: &Core, request: RunningRequest) {
    core.reporter.report(Report::Ended(story(core, request, Arc::default(), Arc::default())));
}

fn story(core: &Core, request: RunningRequest, images: Arc<[String]>, operations: Arc<[String]>) -> StuckRequest {
    StuckRequest {
        queue: core.recorder.status().number(),
        kind: request.kind,
        range: request.range,
        lasted: core.executor.now() - request.began,
        images,
        operations,
    }
}

/// What the queue's executor has under way, and home's, whose jobs the request may be waiting for.
async fn operations(core: &Core) -> Vec<String> {
    let mut operations = words(&core.executor);
    if core.recorder.status().number() == 0 {
        return operations;
    }
    let (to, answer) = reply();
    if core.home.send(ToDisk::LookAt(to)).is_err() {
        return operations;
    }
    match select(answer, pin!(core.executor.sleep(HOME_GRACE))).await {
        Either::Left((answer, _)) => operations.extend(answer.unwrap_or_default()),
        Either::Right(_) => operations.push("home does not answer".to_owned()),
    }
    operations
}

/// What an executor has under way, in words.
pub(crate) fn words(executor: &Executor) -> Vec<String> {
    named(executor.operations(), executor.now())
}

/// The first few, and the number of the rest: when storage hangs, there are as many as requests.
fn named(operations: Vec<RunningOperation>, now: Moment) -> Vec<String> {
    let rest = operations.len().saturating_sub(NAMED_MAX);
    let words = |operation: RunningOperation| format!("{} for {}", operation.what, seconds(now - operation.since));
    let named = operations.into_iter().take(NAMED_MAX).map(words);
    named.chain((rest > 0).then(|| format!("{rest} more"))).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use storage_io::{Receiver, SimulatedClock, mailbox};

    use super::*;
    use crate::{
        Reporter, RequestKind, Settings, Status,
        queue::{QueueSeed, ToDisk, tests::started},
    };

    #[derive(Default)]
    struct Told(Mutex<Vec<Report>>);

    impl Reporter for Told {
        fn report(&self, report: Report) {
            self.0.lock().unwrap().push(report);
        }
    }

    /// A queue that is not home's, whose home reads its questions and answers none.
    fn queue(clock: &SimulatedClock, told: &Arc<Told>) -> (Rc<Core>, Receiver<ToDisk>, Executor) {
        let executor = Executor::simulated(1, clock.clone());
        let status = Arc::new(Status::new());
        let _home = status.add_queue();
        let (home, questions) = mailbox();
        let seed = QueueSeed {
            mail: mailbox().1,
            recorder: status.add_queue(),
            status,
            reporter: told.clone(),
            limiter: Arc::default(),
            home,
            writers: Arc::default(),
        };
        let core = started(seed, &executor);
        core.settings.set(Settings::default());
        (core, questions, executor)
    }

    #[test]
    fn what_ends_while_home_is_asked_is_neither_told_as_stuck_nor_as_ended() {
        let (clock, told) = (SimulatedClock::new(), Arc::new(Told::default()));
        let (core, _questions, executor) = queue(&clock, &told);
        let now = executor.now();
        let request = RunningRequest { kind: RequestKind::Flush, range: None, attempts: 1, since: now, began: now };
        let [ends, stays] = [(); 2].map(|()| core.recorder.in_flight().insert(request, false));
        begin(&core);
        let pass = |duration| {
            let end = clock.now() + duration;
            while {
                while executor.step() {}
                executor.next_timer().is_some_and(|next| next <= end)
            } {
                clock.advance_to(executor.next_timer().expect("there is one"));
            }
            clock.advance_to(end);
            while executor.step() {}
        };
        pass(Duration::from_millis(10_100));
        assert!(told.0.lock().unwrap().is_empty(), "home is being asked");
        assert!(!core.recorder.in_flight().remove(ends).0);
        pass(HOME_GRACE);
        {
            let told = told.0.lock().unwrap();
            let [Report::Stuck(stuck)] = &told[..] else { panic!("{told:?}") };
            assert_eq!(stuck.operations.last().unwrap(), "home does not answer");
        }
        assert!(core.recorder.in_flight().remove(stays).0);
    }

    #[test]
    fn a_few_operations_are_named_and_the_rest_is_counted() {
        let since = SimulatedClock::new().now();
        let operation = |number| RunningOperation { what: format!("sync /{number}"), since };
        let named = |count| named((0..count).map(operation).collect(), since + Duration::from_millis(1999));
        assert!(named(0).is_empty());
        assert_eq!(named(1), ["sync /0 for 1.9 s"]);
        assert_eq!(named(8).last().unwrap(), "sync /7 for 1.9 s");
        assert_eq!(named(99)[7..], ["sync /7 for 1.9 s", "91 more"]);
    }
}
