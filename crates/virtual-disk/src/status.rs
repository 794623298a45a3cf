//! What a disk tells other threads about itself, without asking its own.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU8, AtomicU64, Ordering::Relaxed},
};

use block_core::{Error, ErrorKind, SECTOR};
use image_chain::{ChainStatistics, ImageName, LayerStatus};

use crate::{Count, DiskState, QueueStatus, RequestKind, RunningRequest, Totals, WriteAccess, counters::Recorder};

/// What a disk looks like to its users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Its size, in sectors of 512 bytes.
    pub sectors: u64,
    /// The smallest unit that storage moves, in bytes. Requests may be smaller.
    pub logical_block_size: u32,
    /// The unit that storage likes, in bytes.
    pub physical_block_size: u32,
    /// Whether changes are refused.
    pub read_only: bool,
    /// Whether discarding gives room back.
    pub can_discard: bool,
}

impl Geometry {
    /// Its size in bytes.
    pub fn bytes(&self) -> u64 {
        self.sectors * SECTOR
    }
}

/// How many requests failed with one error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailureCount {
    /// The operating system's number; none if we found the error ourselves.
    pub os_error: Option<i32>,
    /// Its class.
    pub kind: ErrorKind,
    /// How many requests failed with it.
    pub count: u64,
}

/// What a disk publishes about itself. Any thread may look, also while the disk's own thread hangs.
#[derive(Debug)]
pub struct Status {
    state: AtomicU8,
    resized: AtomicU64,
    /// Guards the list, not the counters in it.
    queues: Mutex<Queues>,
    /// Guards a few small values that are replaced together; nobody waits for I/O while holding it.
    published: Mutex<Published>,
    failures: Mutex<Vec<FailureCount>>,
}

#[derive(Debug, Default)]
struct Queues {
    /// Ascending by number.
    list: Vec<Arc<QueueStatus>>,
    /// What those have done that have gone.
    gone: Totals,
}

#[derive(Debug, Default)]
struct Published {
    geometry: Option<Geometry>,
    image: Option<ImageName>,
    chain: Option<ChainStatistics>,
    step: &'static str,
    trouble: Option<Error>,
    write_access: WriteAccess,
}

impl Default for Status {
    fn default() -> Self {
        Status::new()
    }
}

impl Status {
    /// Of a disk that has nothing open and has done nothing.
    pub fn new() -> Self {
        Status {
            state: AtomicU8::new(DiskState::Attached as u8),
            resized: AtomicU64::new(0),
            queues: Mutex::default(),
            published: Mutex::default(),
            failures: Mutex::default(),
        }
    }

    fn published(&self) -> MutexGuard<'_, Published> {
        self.published.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn locked_queues(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn locked_failures(&self) -> MutexGuard<'_, Vec<FailureCount>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the disk is in its life.
    pub fn state(&self) -> DiskState {
        DiskState::ALL[usize::from(self.state.load(Relaxed))]
    }

    /// The queues that are there, by their numbers.
    pub fn queues(&self) -> Vec<Arc<QueueStatus>> {
        self.locked_queues().list.clone()
    }

    fn sum(&self, what: impl Fn(&QueueStatus) -> u64) -> u64 {
        self.locked_queues().list.iter().map(|queue| what(queue)).sum()
    }

    /// Requests that are being carried out now.
    pub fn in_flight(&self) -> u64 {
        self.sum(QueueStatus::in_flight)
    }

    /// The requests that are being carried out now.
    pub fn in_flight_requests(&self) -> Vec<RunningRequest> {
        self.locked_queues().list.iter().flat_map(|queue| queue.in_flight_requests()).collect()
    }

    /// Requests that have failed and wait to be attempted again.
    pub fn waiting(&self) -> u64 {
        self.sum(QueueStatus::waiting)
    }

    /// Requests that wait because of limits.
    pub fn held(&self) -> u64 {
        self.sum(QueueStatus::held)
    }

    /// How much of one kind was done, by all queues that there ever were.
    pub fn count(&self, kind: RequestKind) -> Count {
        let queues = self.locked_queues();
        let mut count = *queues.gone.count(kind);
        queues.list.iter().for_each(|queue| count.add(&queue.count(kind)));
        count
    }

    /// All that was done, by all queues that there ever were.
    pub fn totals(&self) -> Totals {
        let queues = self.locked_queues();
        let mut totals = queues.gone.clone();
        queues.list.iter().for_each(|queue| totals.add(&queue.totals()));
        totals
    }

    /// With what requests have failed, and how many; in the order in which it first happened.
    pub fn failures(&self) -> Vec<FailureCount> {
        self.locked_failures().clone()
    }

    /// How often the disk's size has changed since it was made.
    pub fn resized(&self) -> u64 {
        self.resized.load(Relaxed)
    }

    /// The size and shape that the disk had when it was last opened; it stays when the disk is paused or closed.
    pub fn geometry(&self) -> Option<Geometry> {
        self.published().geometry
    }

    /// The image that is open, or that a paused disk will open again.
    pub fn image(&self) -> Option<ImageName> {
        self.published().image.clone()
    }

    /// The images of the chain, leaf first, with their counters; empty when they are closed.
    pub fn layers(&self) -> Vec<LayerStatus> {
        self.published().chain.as_ref().map(ChainStatistics::layers).unwrap_or_default()
    }

    /// What is being done, or waited for, in words for people; nothing in a state that lasts.
    pub fn step(&self) -> Option<&'static str> {
        use DiskState::*;
        let is_passing =
            matches!(self.state(), Opening | Pausing | Resuming | Quiescing | Growing | Switching | Closing | Stuck);
        Some(self.published().step).filter(|step| is_passing && !step.is_empty())
    }

    /// Whether the disk may change its images.
    pub fn write_access(&self) -> WriteAccess {
        self.published().write_access
    }

    /// Why the disk is where it is, if something went wrong: why it could not be resumed, or what it is stuck in.
    pub fn trouble(&self) -> Option<Error> {
        self.published().trouble.clone()
    }

    pub(crate) fn set_state(&self, state: DiskState) {
        self.state.store(state as u8, Relaxed);
    }

    /// Makes room for one more queue; what is returned counts for it, and takes it out when it is dropped.
    pub(crate) fn add_queue(self: &Arc<Self>) -> Recorder {
        let mut queues = self.locked_queues();
        let index = queues.list.iter().zip(0..).position(|(queue, number)| queue.number() != number);
        let index = index.unwrap_or(queues.list.len());
        let number = u16::try_from(index).expect("each queue has a thread, and there are fewer of those");
        let recorder = Recorder::new(self.clone(), number);
        queues.list.insert(index, recorder.status().clone());
        recorder
    }

    /// The queue's counters stay.
    pub(crate) fn remove_queue(&self, queue: &Arc<QueueStatus>) {
        let mut queues = self.locked_queues();
        queues.list.retain(|listed| !Arc::ptr_eq(listed, queue));
        queues.gone.add(&queue.totals());
    }

    /// Errors are rare; they may take a lock.
    pub(crate) fn count_failure(&self, error: &Error) {
        let (os_error, kind) = (error.os_error(), error.kind());
        let mut failures = self.locked_failures();
        match failures.iter_mut().find(|failure| failure.os_error == os_error && failure.kind == kind) {
            Some(failure) => failure.count += 1,
            None => failures.push(FailureCount { os_error, kind, count: 1 }),
        }
    }

    pub(crate) fn set_geometry(&self, geometry: Geometry) {
        let before = self.published().geometry.replace(geometry);
        if before.is_some_and(|before| before.sectors != geometry.sectors) {
            self.resized.fetch_add(1, Relaxed);
        }
    }

    pub(crate) fn set_image(&self, image: Option<ImageName>) {
        self.published().image = image;
    }

    pub(crate) fn set_chain(&self, chain: Option<ChainStatistics>) {
        self.published().chain = chain;
    }

    pub(crate) fn set_step(&self, step: &'static str) {
        self.published().step = step;
    }

    pub(crate) fn set_write_access(&self, access: WriteAccess) {
        self.published().write_access = access;
    }

    pub(crate) fn set_trouble(&self, trouble: Option<Error>) {
        self.published().trouble = trouble;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_counted_by_their_error() {
        let status = Status::new();
        let os = |number| Error::from_os("write", std::io::Error::from_raw_os_error(number));
        let own = Error::new(ErrorKind::Closed, "the disk was closed");
        [os(5), os(28), own.clone(), os(5).context("/a"), own].iter().for_each(|error| status.count_failure(error));
        let failure = |os_error, kind, count| FailureCount { os_error, kind, count };
        let expected = [
            failure(Some(5), ErrorKind::Io, 2),
            failure(Some(28), ErrorKind::NoSpace, 1),
            failure(None, ErrorKind::Closed, 2),
        ];
        assert_eq!(status.failures(), expected);
    }

    #[test]
    fn a_new_size_is_an_event() {
        let status = Status::new();
        let geometry = |sectors| Geometry {
            sectors,
            logical_block_size: 512,
            physical_block_size: 4096,
            read_only: false,
            can_discard: true,
        };
        for (sectors, events) in [(8, 0), (8, 0), (16, 1), (16, 1), (24, 2)] {
            status.set_geometry(geometry(sectors));
            assert_eq!(status.resized(), events, "{sectors} sectors");
        }
    }
}
