//! Clients that keep requests under way with as little effort as they can, each in a thread, and count the answers.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use block_core::Result;

use crate::load::Random;

/// Until both sides are at it.
const WARM_UP: Duration = Duration::from_millis(50);

/// What each client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Workload {
    /// Where the part of the disk that is used begins.
    pub(crate) start: u64,
    /// Its bytes.
    pub(crate) bytes: u64,
    /// Bytes of each request.
    pub(crate) block: u32,
    /// Requests that each client keeps under way.
    pub(crate) depth: usize,
    pub(crate) is_write: bool,
    /// One block behind the other; else at random places.
    pub(crate) is_sequential: bool,
}

impl Workload {
    /// Where the requests of a client go.
    pub(crate) fn offsets(&self, client: u64) -> Offsets {
        Offsets { workload: *self, random: Random::new(client + 1), next: 0 }
    }
}

/// Where the requests of a client go, without end.
#[derive(Clone, Debug)]
pub(crate) struct Offsets {
    workload: Workload,
    random: Random,
    next: u64,
}

impl Offsets {
    pub(crate) fn next(&mut self) -> u64 {
        let block = u64::from(self.workload.block);
        let number = if self.workload.is_sequential { self.next } else { self.random.next() };
        self.next += 1;
        self.workload.start + number % (self.workload.bytes / block) * block
    }
}

/// Answers, and those that were errors. (Counts; floating, since they are divided.)
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answers {
    pub(crate) all: f64,
    pub(crate) failed: f64,
}

/// What clients tell and are told.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    stop: AtomicBool,
    answered: AtomicU64,
    failed: AtomicU64,
}

impl Shared {
    /// Whether no more is to be asked.
    pub(crate) fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    pub(crate) fn answered(&self, all: u64, failed: u64) {
        self.answered.fetch_add(all, Ordering::Relaxed);
        if failed > 0 {
            self.failed.fetch_add(failed, Ordering::Relaxed);
        }
    }
}

/// Clients at work.
pub(crate) struct Load {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<Result<()>>>,
}

impl Load {
    /// Lets clients work, each in a thread, until they are told that it is over.
    pub(crate) fn start<C>(clients: impl IntoIterator<Item = C>) -> Load
    where
        C: FnOnce(&Shared) -> Result<()> + Send + 'static,
    {
        let shared = Arc::<Shared>::default();
        let start = |client: C| {
            let shared = shared.clone();
            thread::spawn(move || client(&shared))
        };
        let clients = clients.into_iter().map(start).collect();
        Load { shared, clients }
    }

    /// Waits until both sides are at it.
    pub(crate) fn warm_up(&self) {
        thread::sleep(WARM_UP);
    }

    /// The answers that come in so much time.
    pub(crate) fn count(&self, duration: Duration) -> Answers {
        let counters = [&self.shared.answered, &self.shared.failed];
        let before = counters.map(|counter| counter.load(Ordering::Relaxed));
        thread::sleep(duration);
        let now = counters.map(|counter| counter.load(Ordering::Relaxed));
        #[allow(clippy::cast_precision_loss, reason = "counts of answers of some seconds")]
        let [all, failed] = [0, 1].map(|index| (now[index] - before[index]) as f64);
        Answers { all, failed }
    }

    /// The answers that have come by the end of so much time, those while warming up included.
    pub(crate) fn count_from_start(&self, duration: Duration) -> Answers {
        thread::sleep(duration.saturating_sub(WARM_UP));
        let counters = [&self.shared.answered, &self.shared.failed];
        #[allow(clippy::cast_precision_loss, reason = "counts of answers of some seconds")]
        let [all, failed] = counters.map(|counter| counter.load(Ordering::Relaxed) as f64);
        Answers { all, failed }
    }

    /// No more is to be asked.
    pub(crate) fn stop(&self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }

    /// Lets the clients fetch their last answers; how many answers have been errors since they started.
    pub(crate) fn end(self) -> Result<u64> {
        self.stop();
        self.clients.into_iter().try_for_each(|client| client.join().expect("a client does not panic"))?;
        Ok(self.shared.failed.load(Ordering::Relaxed))
    }
}
