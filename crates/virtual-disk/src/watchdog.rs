//! The watchdog of a queue: tells of each request that runs very long, once, with all that is known. It stops nothing:
//! what the kernel holds cannot be taken back.

use std::{
    pin::pin,
    rc::{Rc, Weak},
    time::Duration,
};

use futures_util::future::{Either, select};
use storage_io::{Executor, reply};

use crate::{Report, RunningRequest, StuckRequest, queue::Core};

/// How long home may take to say what it is doing.
const HOME_GRACE: Duration = Duration::from_secs(1);

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
        let in_flight = core.recorder.in_flight();
        let overdue = in_flight.take_overdue(core.executor.now(), stuck_after);
        if !overdue.is_empty() {
            core.recorder.stuck(overdue.len());
            let operations = operations(&core).await;
            let reports = overdue.into_iter().map(|request| story(&core, request, operations.clone()));
            reports.for_each(|story| core.reporter.report(Report::Stuck(story)));
        }
        if !in_flight.has_untold() {
            core.is_watched.set(false);
            return;
        }
    }
}

/// A request that was told of has ended after all.
pub(crate) fn tell_end(core: &Core, request: RunningRequest) {
    core.reporter.report(Report::Ended(story(core, request, Vec::new())));
}

fn story(core: &Core, request: RunningRequest, operations: Vec<String>) -> StuckRequest {
    StuckRequest {
        queue: core.recorder.status().number(),
        kind: request.kind,
        range: request.range,
        lasted: core.executor.now() - request.since,
        images: core.status.layers().into_iter().map(|layer| layer.name).collect(),
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
    if core.home.send(to).is_err() {
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
    let now = executor.now();
    let words = |operation: storage_io::RunningOperation| {
        format!("{} for {:.1} s", operation.what, (now - operation.since).as_secs_f64())
    };
    executor.operations().into_iter().map(words).collect()
}
