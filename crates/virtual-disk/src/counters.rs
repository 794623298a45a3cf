//! How much a queue has done: written by its own thread only, read by any.
//!
//! Two queues never write to one cache line, so that counting does not slow down those who run side by side. And since
//! a counter has one writer, adding to it needs no locked instruction.

use std::{
    cell::Cell,
    marker::PhantomData,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use block_core::Error;

use crate::{
    RequestKind, RunningRequest, Status,
    histogram::{Histogram, Latencies},
    in_flight::InFlight,
};

/// Adds to a counter that only the calling thread writes.
pub(crate) fn add(counter: &AtomicU64, count: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(count), Relaxed);
}

pub(crate) fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// How much of one kind was done, at some instant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Requests that came, refused ones included.
    pub requests: u64,
    /// Requests that ended.
    pub completed: u64,
    /// Sectors that the requests touched, counted when they came.
    pub sectors: u64,
    /// Requests that ended with an error.
    pub errors: u64,
    /// Time between coming and beginning.
    pub queued_microseconds: u64,
    /// Time between beginning and end.
    pub served_microseconds: u64,
}

impl Count {
    /// Adds what was counted elsewhere.
    pub fn add(&mut self, other: &Count) {
        self.requests += other.requests;
        self.completed += other.completed;
        self.sectors += other.sectors;
        self.errors += other.errors;
        self.queued_microseconds += other.queued_microseconds;
        self.served_microseconds += other.served_microseconds;
    }
}

#[derive(Debug, Default)]
struct KindCounters {
    requests: AtomicU64,
    completed: AtomicU64,
    sectors: AtomicU64,
    errors: AtomicU64,
    queued_microseconds: AtomicU64,
    served_microseconds: AtomicU64,
}

impl KindCounters {
    fn read(&self) -> Count {
        Count {
            requests: self.requests.load(Relaxed),
            completed: self.completed.load(Relaxed),
            sectors: self.sectors.load(Relaxed),
            errors: self.errors.load(Relaxed),
            queued_microseconds: self.queued_microseconds.load(Relaxed),
            served_microseconds: self.served_microseconds.load(Relaxed),
        }
    }
}

/// Requests whose times are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LatencyClass {
    /// Reads.
    Read,
    /// Writes of bytes.
    Write,
    /// Flushes.
    Flush,
    /// Everything else.
    Other,
}

impl LatencyClass {
    /// Every class.
    pub const ALL: [LatencyClass; 4] =
        [LatencyClass::Read, LatencyClass::Write, LatencyClass::Flush, LatencyClass::Other];

    /// Where a request of this kind belongs.
    pub const fn of(kind: RequestKind) -> Self {
        match kind {
            RequestKind::Read => LatencyClass::Read,
            RequestKind::Write => LatencyClass::Write,
            RequestKind::Flush => LatencyClass::Flush,
            RequestKind::Discard | RequestKind::WriteZeroes | RequestKind::Cache | RequestKind::Extents => {
                LatencyClass::Other
            }
        }
    }

    /// Its name in statistics.
    pub const fn name(self) -> &'static str {
        match self {
            LatencyClass::Read => "read",
            LatencyClass::Write => "write",
            LatencyClass::Flush => "flush",
            LatencyClass::Other => "other",
        }
    }
}

/// What one queue of a disk publishes about itself. Any thread may look; cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct QueueStatus {
    number: u16,
    in_flight: InFlight,
    parked: InFlight,
    held: AtomicU64,
    kicks_in: AtomicU64,
    kicks_out: AtomicU64,
    retries: AtomicU64,
    stuck: AtomicU64,
    throttled: AtomicU64,
    throttled_microseconds: AtomicU64,
    kinds: [KindCounters; RequestKind::ALL.len()],
    queued: [Histogram; LatencyClass::ALL.len()],
    served: [Histogram; LatencyClass::ALL.len()],
}

impl QueueStatus {
    /// Its number within the disk; home's own queue is number 0.
    pub fn number(&self) -> u16 {
        self.number
    }

    /// Requests that are being carried out now.
    pub fn in_flight(&self) -> u64 {
        self.in_flight.count() as u64
    }

    /// Which these are.
    pub fn in_flight_requests(&self) -> Vec<RunningRequest> {
        self.in_flight.running()
    }

    /// Requests that have failed and wait to be attempted again.
    pub fn waiting(&self) -> u64 {
        self.parked.count() as u64
    }

    /// Which these are.
    pub fn waiting_requests(&self) -> Vec<RunningRequest> {
        self.parked.running()
    }

    /// Requests that wait because of limits.
    pub fn held(&self) -> u64 {
        self.held.load(Relaxed)
    }

    /// How often it was told of requests.
    pub fn kicks_in(&self) -> u64 {
        self.kicks_in.load(Relaxed)
    }

    /// How often it told of answers.
    pub fn kicks_out(&self) -> u64 {
        self.kicks_out.load(Relaxed)
    }

    /// How much of one kind it has done.
    pub fn count(&self, kind: RequestKind) -> Count {
        self.kinds[kind as usize].read()
    }

    /// How many requests it has taken.
    pub fn requests(&self) -> u64 {
        RequestKind::ALL.iter().map(|kind| self.kinds[*kind as usize].requests.load(Relaxed)).sum()
    }

    /// All that it has done.
    pub fn totals(&self) -> Totals {
        Totals {
            kicks_in: self.kicks_in(),
            kicks_out: self.kicks_out(),
            retries: self.retries.load(Relaxed),
            stuck: self.stuck.load(Relaxed),
            throttled: self.throttled.load(Relaxed),
            throttled_microseconds: self.throttled_microseconds.load(Relaxed),
            kinds: self.kinds.each_ref().map(KindCounters::read),
            queued: self.queued.each_ref().map(Histogram::read),
            served: self.served.each_ref().map(Histogram::read),
        }
    }
}

/// What queues have done until some instant. It only grows, also over close and re-open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// How often queues were told of requests.
    pub kicks_in: u64,
    /// How often queues told of answers.
    pub kicks_out: u64,
    /// Attempts after the first.
    pub retries: u64,
    /// Requests that were reported because they took very long.
    pub stuck: u64,
    /// Requests that had to wait because of limits.
    pub throttled: u64,
    /// How long they waited for that, together.
    pub throttled_microseconds: u64,
    kinds: [Count; RequestKind::ALL.len()],
    queued: [Latencies; LatencyClass::ALL.len()],
    served: [Latencies; LatencyClass::ALL.len()],
}

impl Totals {
    /// How much of one kind was done.
    pub fn count(&self, kind: RequestKind) -> &Count {
        &self.kinds[kind as usize]
    }

    /// How many requests were taken.
    pub fn requests(&self) -> u64 {
        self.kinds.iter().map(|count| count.requests).sum()
    }

    /// How many requests failed.
    pub fn failures(&self) -> u64 {
        self.kinds.iter().map(|count| count.errors).sum()
    }

    /// How long requests waited before they began.
    pub fn queued(&self, class: LatencyClass) -> &Latencies {
        &self.queued[class as usize]
    }

    /// How long requests took from there to their end.
    pub fn served(&self, class: LatencyClass) -> &Latencies {
        &self.served[class as usize]
    }

    /// Adds what another queue has done.
    pub fn add(&mut self, other: &Totals) {
        self.kicks_in += other.kicks_in;
        self.kicks_out += other.kicks_out;
        self.retries += other.retries;
        self.stuck += other.stuck;
        self.throttled += other.throttled;
        self.throttled_microseconds += other.throttled_microseconds;
        self.kinds.iter_mut().zip(&other.kinds).for_each(|(count, more)| count.add(more));
        self.queued.iter_mut().zip(&other.queued).for_each(|(latencies, more)| latencies.add(more));
        self.served.iter_mut().zip(&other.served).for_each(|(latencies, more)| latencies.add(more));
    }
}

/// The one who writes a queue's counters: it may move to the queue's thread, but never be shared. When it goes, so does
/// the queue; what it has done stays with the disk.
#[derive(Debug)]
pub(crate) struct Recorder {
    disk: Arc<Status>,
    queue: Arc<QueueStatus>,
    /// Not `Sync`: counters have one writer.
    _one_thread: PhantomData<Cell<()>>,
}

impl Recorder {
    /// Counts for a new queue of this disk.
    pub(crate) fn new(disk: Arc<Status>, number: u16) -> Recorder {
        let queue = Arc::new(QueueStatus { number, ..QueueStatus::default() });
        Recorder { disk, queue, _one_thread: PhantomData }
    }

    /// What others see.
    pub(crate) fn status(&self) -> &Arc<QueueStatus> {
        &self.queue
    }

    /// A request has come.
    pub(crate) fn came(&self, kind: RequestKind, sectors: u64) {
        let counters = &self.queue.kinds[kind as usize];
        add(&counters.requests, 1);
        add(&counters.sectors, sectors);
    }

    /// A request has ended; `failure` is why, if it failed. It waited for `queued` and then took `served`.
    pub(crate) fn ended(&self, kind: RequestKind, failure: Option<&Error>, queued: Duration, served: Duration) {
        let counters = &self.queue.kinds[kind as usize];
        add(&counters.completed, 1);
        add(&counters.queued_microseconds, microseconds(queued));
        add(&counters.served_microseconds, microseconds(served));
        let class = LatencyClass::of(kind) as usize;
        self.queue.queued[class].record(queued);
        self.queue.served[class].record(served);
        if let Some(error) = failure {
            add(&counters.errors, 1);
            self.disk.count_failure(error);
        }
    }

    /// A request is attempted once more.
    pub(crate) fn retried(&self) {
        add(&self.queue.retries, 1);
    }

    /// A request had to wait because of limits.
    pub(crate) fn throttled(&self, waited: Duration) {
        add(&self.queue.throttled, 1);
        add(&self.queue.throttled_microseconds, microseconds(waited));
    }

    /// The queue was told of requests.
    pub(crate) fn kicked_in(&self) {
        add(&self.queue.kicks_in, 1);
    }

    /// The queue told of answers.
    pub(crate) fn kicked_out(&self) {
        add(&self.queue.kicks_out, 1);
    }

    /// The requests that are being carried out.
    pub(crate) fn in_flight(&self) -> &InFlight {
        &self.queue.in_flight
    }

    /// The requests that wait to be attempted again.
    pub(crate) fn parked(&self) -> &InFlight {
        &self.queue.parked
    }

    /// So many requests were reported because they take very long.
    pub(crate) fn stuck(&self, count: usize) {
        add(&self.queue.stuck, count as u64);
    }

    /// So many requests wait because of limits.
    pub(crate) fn set_held(&self, count: usize) {
        self.queue.held.store(count as u64, Relaxed);
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.disk.remove_queue(&self.queue);
    }
}

#[cfg(test)]
mod tests {
    use storage_io::SimulatedClock;

    use super::*;

    fn disk() -> Arc<Status> {
        Arc::new(Status::new())
    }

    #[test]
    fn queues_have_cache_lines_of_their_own() {
        assert_eq!(align_of::<QueueStatus>() % 128, 0);
        assert_eq!(size_of::<QueueStatus>() % 128, 0);
    }

    #[test]
    fn counts_add_up() {
        let recorder = disk().add_queue();
        recorder.came(RequestKind::Write, 8);
        recorder.came(RequestKind::Write, 1);
        let error = Error::from_os("write", std::io::Error::from_raw_os_error(5));
        recorder.ended(RequestKind::Write, Some(&error), Duration::from_micros(3), Duration::from_micros(40));
        let expected =
            Count { requests: 2, completed: 1, sectors: 9, errors: 1, queued_microseconds: 3, served_microseconds: 40 };
        assert_eq!(recorder.status().count(RequestKind::Write), expected);
        assert_eq!(recorder.status().count(RequestKind::Read), Count::default());
        let totals = recorder.status().totals();
        assert_eq!((totals.requests(), totals.failures()), (2, 1));
        assert_eq!(totals.queued(LatencyClass::Write).percentile(1, 1), Duration::from_micros(3));
        assert_eq!(totals.served(LatencyClass::Write).count(), 1);
        assert_eq!(totals.served(LatencyClass::Read).count(), 0);
    }

    #[test]
    fn what_a_queue_has_done_stays_when_it_goes() {
        let disk = disk();
        let (first, second) = (disk.add_queue(), disk.add_queue());
        assert_eq!((first.status().number(), second.status().number()), (0, 1));
        for recorder in [&first, &second] {
            recorder.came(RequestKind::Read, 8);
            recorder.ended(RequestKind::Read, None, Duration::ZERO, Duration::from_micros(100));
            recorder.kicked_in();
            recorder.retried();
            recorder.throttled(Duration::from_micros(7));
        }
        let both = disk.totals();
        assert_eq!((both.requests(), both.kicks_in, both.retries, both.throttled_microseconds), (2, 2, 2, 14));
        drop(second);
        assert_eq!(disk.queues().len(), 1);
        assert_eq!(disk.totals(), both);
        assert_eq!(disk.count(RequestKind::Read), *both.count(RequestKind::Read));
        assert_eq!(disk.add_queue().status().number(), 1, "numbers are used again");
    }

    #[test]
    fn what_waits_now_is_summed_over_queues() {
        let disk = disk();
        let (first, second) = (disk.add_queue(), disk.add_queue());
        let since = SimulatedClock::new().now();
        let running = RunningRequest { kind: RequestKind::Flush, range: None, attempts: 1, since, began: since };
        (0..2).for_each(|_| _ = first.in_flight().insert(running, false));
        (0..3).for_each(|_| _ = second.in_flight().insert(running, false));
        second.parked().insert(running, false);
        first.set_held(1);
        assert_eq!((disk.in_flight(), disk.waiting(), disk.held()), (5, 1, 1));
        drop(second);
        assert_eq!((disk.in_flight(), disk.waiting()), (2, 0));
    }
}
