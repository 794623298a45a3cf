//! A slot: a minor that this process holds, with its home thread, as the control thread sees it.

use std::{
    cell::{OnceCell, RefCell},
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use block_core::{Error, ErrorKind, Result};
use control_api::{
    HeldMinor, Minor, native,
    protocol::{ImageInformation, ListEntry, Text, VbdState},
};
use export::blkif::RingPages;
use storage_io::{FaultScript, Moment, ReplyTo, Sender, Signal, reply};
use virtual_disk::{DiskState, Geometry, Limiter, QueueStatus, Status};

use crate::{
    home::{Done, Job, Name, Order, Up, Urgent},
    jobs::JobRecord,
    layers::ValveName,
    log::seconds,
    native::report,
    rings::{Parting, RingName, ShownDevice},
    statistics,
    valve::Shown,
};

/// A slot of this process.
pub(crate) struct Slot {
    held: HeldMinor,
    published: Arc<Published>,
    /// Known as soon as the home thread is up.
    up: OnceCell<Up>,
    /// Jobs, one after the other.
    orders: Sender<Order>,
    /// What waits for nothing.
    urgent: Sender<Urgent>,
    /// The jobs that are done or wait for their turn, in this order.
    line: RefCell<VecDeque<u64>>,
    moved: Signal,
}

impl Slot {
    pub(crate) fn new(
        held: HeldMinor,
        published: Arc<Published>,
        orders: Sender<Order>,
        urgent: Sender<Urgent>,
    ) -> Slot {
        let (line, moved) = (RefCell::default(), Signal::new());
        Slot { held, published, up: OnceCell::new(), orders, urgent, line, moved }
    }

    /// This guest's device, if it is connected here.
    pub(crate) fn ring(&self, name: RingName) -> Option<Arc<ShownDevice>> {
        self.published.words().rings.iter().find(|device| device.name() == name).cloned()
    }

    /// Guests' devices that are connected, and what those have left that were.
    pub(crate) fn rings(&self) -> (Vec<Arc<ShownDevice>>, RingPages) {
        let words = self.published.words();
        (words.rings.clone(), words.ring_pages)
    }

    /// Has home let a guest go.
    pub(crate) async fn disconnect_ring(&self, name: RingName, parting: Parting) -> Done {
        self.ask(|to| Urgent::DisconnectRing(name, parting, to)).await?
    }

    /// Has home do nothing more for a guest until it asks.
    pub(crate) async fn settle_ring(&self, name: RingName) -> Done {
        self.ask(|to| Urgent::SettleRing(name, to)).await?
    }

    pub(crate) fn minor(&self) -> Minor {
        self.held.minor()
    }

    /// The home thread is up.
    pub(crate) fn is_up(&self, up: Up) {
        // It comes up once.
        let _ = self.up.set(up);
    }

    /// Puts a job at the end of the line.
    pub(crate) fn line_up(&self, job: &JobRecord) {
        self.line.borrow_mut().push_back(job.number);
    }

    /// Ends when those before it have left the line; false: it was cancelled before that.
    pub(crate) async fn turn_of(&self, job: &JobRecord) -> bool {
        let is_first = || self.line.borrow().front() == Some(&job.number);
        self.moved.until(|| job.is_cancelled() || is_first()).await;
        !job.is_cancelled()
    }

    /// Whoever waits for a turn looks again.
    pub(crate) fn look_again(&self) {
        self.moved.notify();
    }

    /// A job leaves the line.
    pub(crate) fn leave(&self, job: &JobRecord) {
        self.line.borrow_mut().retain(|number| *number != job.number);
        self.moved.notify();
    }

    /// Has home do `job`, whose turn it is.
    pub(crate) async fn order(&self, number: u64, job: Job) -> Done {
        let (done, result) = reply();
        let sent = self.orders.send(Order { number, job, done });
        let result = if sent.is_ok() { result.await } else { None };
        result.unwrap_or_else(|| Err(self.gone()))
    }

    /// Closes by force, whatever else is being done.
    pub(crate) async fn force(&self) -> Done {
        self.ask(Urgent::ForceClose).await?
    }

    /// Has home turn back the job that it does, if it is this one. Says whether it could.
    pub(crate) async fn turn_back(&self, number: u64) -> bool {
        self.ask(|to| Urgent::TurnBack(number, to)).await.unwrap_or(false)
    }

    /// Asks home something that waits for nothing.
    async fn ask<T>(&self, question: impl FnOnce(ReplyTo<T>) -> Urgent) -> Result<T> {
        let (to, answer) = reply();
        let sent = self.urgent.send(question(to));
        let answer = if sent.is_ok() { answer.await } else { None };
        answer.ok_or_else(|| self.gone())
    }

    fn gone(&self) -> Error {
        Error::new(ErrorKind::Closed, format!("minor {}: its thread has ended", self.minor()))
    }

    /// The line in the list of slots; `count` slots are left with this one.
    pub(crate) fn list_entry(&self, count: u32) -> ListEntry {
        let minor = i32::from(self.minor().number());
        ListEntry { count, minor, state: self.state(), path: Text::truncated(self.name().as_bytes()) }
    }

    /// What its disk publishes, once its thread is up.
    pub(crate) fn status(&self) -> Option<&Status> {
        self.up.get().map(|up| &*up.status)
    }

    /// What its disk is limited by, once its thread is up.
    pub(crate) fn limiter(&self) -> Result<&Limiter> {
        self.up.get().map(|up| &*up.limiter).ok_or_else(|| self.gone())
    }

    /// Puts rules in the place of those by which its storage fails.
    pub(crate) fn replace_faults(&self, rules: &str) -> Result<()> {
        let script = self.published.words().faults.clone();
        let words = || format!("minor {}: its storage was not opened so that it could fail", self.minor());
        script.ok_or_else(|| Error::new(ErrorKind::Invalid, words()))?.replace(rules)
    }

    /// Has home draw on the budget of a rate limiter, or of none.
    pub(crate) async fn draw_on(&self, valve: Option<ValveName>) -> Result<()> {
        if self.name().is_empty() {
            return Err(Error::new(ErrorKind::Invalid, format!("minor {} is not open", self.minor())));
        }
        self.ask(|to| Urgent::DrawOn(valve, to)).await
    }

    /// Where its disk is in its life.
    pub(crate) fn life(&self) -> native::State {
        match self.published.words().empty_pause {
            Some(EmptyPause::Paused) => native::State::Paused,
            Some(EmptyPause::ResumeFailed) => native::State::ResumeFailed,
            None => report::state(self.disk_state()),
        }
    }

    pub(crate) fn is_shared(&self) -> bool {
        self.published.words().is_shared
    }

    pub(crate) fn is_buffered(&self) -> bool {
        self.published.words().is_buffered
    }

    pub(crate) fn valve(&self) -> Option<Shown> {
        self.published.words().valve.clone()
    }

    fn disk_state(&self) -> DiskState {
        self.status().map_or(DiskState::Attached, |status| status.state())
    }

    pub(crate) fn state(&self) -> VbdState {
        match self.published.words().empty_pause {
            Some(EmptyPause::Paused) => VbdState::PAUSED_NORMALLY,
            Some(EmptyPause::ResumeFailed) => VbdState::PAUSED_NORMALLY | VbdState::RESUME_FAILED,
            None => state_bits(self.disk_state()),
        }
    }

    /// `type:path` as it was given; empty if nothing is open.
    pub(crate) fn name(&self) -> Name {
        match self.disk_state() {
            DiskState::Attached | DiskState::Closed => Name::default(),
            _ => self.published.words().name.clone(),
        }
    }

    pub(crate) fn statistics(&self) -> String {
        let (is_buffered, valve) = (self.is_buffered(), self.valve());
        statistics::json(self.name().as_bytes(), self.status(), is_buffered, valve.as_ref())
    }

    /// The size when it was last opened; zeroes before that.
    pub(crate) fn information(&self) -> ImageInformation {
        self.status().and_then(|status| status.geometry()).map(information).unwrap_or_default()
    }

    /// All that is known, for people.
    pub(crate) fn describe(&self, now: Moment) -> Vec<String> {
        let status = self.status();
        let minor = self.minor();
        let step = status.and_then(|status| status.step()).map(|step| format!(" doing: {step}"));
        let trouble = status.and_then(|status| status.trouble()).map(|error| format!(" trouble: {error}"));
        let mut lines = vec![
            format!(
                "minor={minor} image={} state={} ({:?}) in flight: {}{}{}",
                self.name(),
                self.state(),
                self.disk_state(),
                status.map_or(0, |status| status.in_flight()),
                step.unwrap_or_default(),
                trouble.unwrap_or_default(),
            ),
            format!("minor={minor} {}", self.statistics()),
        ];
        for queue in status.map(|status| status.queues()).unwrap_or_default() {
            lines.extend(describe_queue(&queue, now).into_iter().map(|line| format!("minor={minor} {line}")));
        }
        lines
    }
}

/// A queue, and the requests that have not ended.
fn describe_queue(queue: &QueueStatus, now: Moment) -> Vec<String> {
    let number = queue.number();
    let head = format!(
        "queue={number} in flight: {} waiting for retry: {} held by limits: {} requests: {} kicks: {} in {} out",
        queue.in_flight(),
        queue.waiting(),
        queue.held(),
        queue.requests(),
        queue.kicks_in(),
        queue.kicks_out(),
    );
    let running = queue.in_flight_requests();
    let requests = running.iter().map(|request| {
        let range = request.range.map(|range| format!(" {range}")).unwrap_or_default();
        format!("queue={number} {}{range} for {}", request.kind.name(), seconds(now - request.since))
    });
    [head].into_iter().chain(requests).collect()
}

/// Sizes as the protocol tells them: always in sectors of 512 bytes.
pub(crate) fn information(geometry: Geometry) -> ImageInformation {
    ImageInformation { sectors: geometry.sectors, sector_size: geometry.logical_block_size, information: 0 }
}

/// A disk's state as storage managers know it.
///
/// A disk that is stuck (closed by force while storage hangs) shows two bits that no other state has together.
fn state_bits(state: DiskState) -> VbdState {
    match state {
        DiskState::Attached | DiskState::Opening | DiskState::Running => VbdState::EMPTY,
        DiskState::Pausing => VbdState::PAUSING,
        DiskState::Paused | DiskState::Resuming => VbdState::PAUSED_NORMALLY,
        DiskState::ResumeFailed => VbdState::PAUSED_NORMALLY | VbdState::RESUME_FAILED,
        DiskState::Quiescing | DiskState::Growing | DiskState::Switching => VbdState::QUIESCE_REQUESTED,
        DiskState::Quiesced => VbdState::QUIESCED,
        DiskState::Closing => VbdState::SHUTDOWN_REQUESTED,
        DiskState::Stuck => VbdState::SHUTDOWN_REQUESTED | VbdState::DEAD,
        DiskState::Closed => VbdState::CLOSED,
    }
}

/// A slot without images may be paused; it can only be closed again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EmptyPause {
    Paused,
    ResumeFailed,
}

/// What home says about a slot beyond what the disk itself publishes.
#[derive(Debug, Default)]
pub(crate) struct Published(Mutex<Words>);

/// See [`Published`].
#[derive(Debug, Default)]
pub(crate) struct Words {
    /// Guests' devices that are connected.
    pub(crate) rings: Vec<Arc<ShownDevice>>,
    /// What those have left that were.
    pub(crate) ring_pages: RingPages,
    /// `type:path` as it was given last.
    pub(crate) name: Name,
    /// Whether a slot without images is paused.
    pub(crate) empty_pause: Option<EmptyPause>,
    /// Whether the page cache is used.
    pub(crate) is_buffered: bool,
    /// Whether others write to the images, too.
    pub(crate) is_shared: bool,
    /// The rate limiter that it asks.
    pub(crate) valve: Option<Shown>,
    /// By what its storage fails, if it was opened so.
    pub(crate) faults: Option<FaultScript>,
}

impl Published {
    /// Guards a few words; nothing waits while they are locked.
    pub(crate) fn words(&self) -> MutexGuard<'_, Words> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_told_as_storage_managers_know_them() {
        let shown = |state| state_bits(state).to_string();
        let all = DiskState::ALL.map(shown);
        assert_eq!(
            all,
            ["0", "0", "0", "0x14", "0x2a", "0x2a", "0x22a", "0x4", "0x8", "0x4", "0x4", "0x40", "0x41", "0x2"]
        );
    }
}
