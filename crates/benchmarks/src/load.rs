//! Sources without a client: they ask for random blocks and only count the answers.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use block_core::{GuestRange, Tag};
use storage_io::{Buffer, BufferPool, Executor, Moment, Sleep};
use virtual_disk::{Operation, Outcome, Request, RequestSource};

/// What to ask for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pattern {
    /// Bytes of the disk that are used.
    pub(crate) bytes: u64,
    pub(crate) block: u32,
    pub(crate) is_write: bool,
}

impl Pattern {
    fn request(&self, tag: u64, position: u64, buffer: Buffer) -> Request {
        let block = u64::from(self.block);
        let offset = position % (self.bytes / block) * block;
        let range = GuestRange::checked(offset, block).expect("within the disk");
        let operation = match self.is_write {
            false => Operation::Read { range, buffer },
            true => Operation::Write { range, buffer, durable: false },
        };
        Request { tag: Tag(tag), operation }
    }
}

/// Numbers that look random: as many as anybody wants, the same for the same seed.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Always as many requests under way, until it is told to stop.
pub(crate) struct Saturating {
    pattern: Pattern,
    depth: u64,
    running: u64,
    random: Random,
    pool: BufferPool,
    spare: Vec<Buffer>,
    stop: Arc<AtomicBool>,
    pub(crate) answered: u64,
    pub(crate) failed: u64,
}

impl Saturating {
    pub(crate) fn new(pattern: Pattern, depth: u64, seed: u64, pool: BufferPool, stop: &Arc<AtomicBool>) -> Saturating {
        Saturating {
            pattern,
            depth,
            running: 0,
            random: Random::new(seed),
            pool,
            spare: Vec::new(),
            stop: stop.clone(),
            answered: 0,
            failed: 0,
        }
    }
}

impl RequestSource for Saturating {
    fn poll_next(&mut self, _: &mut Context<'_>) -> Poll<Option<Request>> {
        if self.stop.load(Ordering::Relaxed) {
            return Poll::Ready(None);
        }
        // Every answer is followed by a question: nobody has to be woken.
        if self.running == self.depth {
            return Poll::Pending;
        }
        self.running += 1;
        let buffer = self.spare.pop().unwrap_or_else(|| self.pool.take(self.pattern.block as usize));
        let number = self.random.next();
        Poll::Ready(Some(self.pattern.request(number, number >> 16, buffer)))
    }

    fn answer(&mut self, _: Tag, outcome: Outcome) {
        self.running -= 1;
        self.answered += 1;
        match outcome {
            Outcome::Read(buffer) => self.spare.push(buffer),
            Outcome::Failed(_) => self.failed += 1,
            _ => {}
        }
    }

    fn publish(&mut self) {}
}

/// One request at a time, at fixed instants: a light client. It notes how long each took from the instant at which it was
/// due, so that a late start counts too.
pub(crate) struct Paced {
    pattern: Pattern,
    every: Duration,
    executor: Executor,
    random: Random,
    pool: BufferPool,
    stop: Arc<AtomicBool>,
    due: Moment,
    timer: Option<Pin<Box<Sleep>>>,
    is_running: bool,
    /// Nanoseconds.
    pub(crate) latencies: Vec<u64>,
}

impl Paced {
    pub(crate) fn new(
        pattern: Pattern,
        every: Duration,
        executor: &Executor,
        pool: BufferPool,
        stop: &Arc<AtomicBool>,
    ) -> Paced {
        Paced {
            pattern,
            every,
            executor: executor.clone(),
            random: Random::new(7),
            pool,
            stop: stop.clone(),
            due: executor.now() + every,
            timer: None,
            is_running: false,
            latencies: Vec::new(),
        }
    }
}

impl RequestSource for Paced {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Request>> {
        if self.is_running {
            return Poll::Pending;
        }
        let timer = self.timer.get_or_insert_with(|| Box::pin(self.executor.sleep_until(self.due)));
        ready!(timer.as_mut().poll(cx));
        self.timer = None;
        if self.stop.load(Ordering::Relaxed) {
            return Poll::Ready(None);
        }
        self.is_running = true;
        let buffer = self.pool.take(self.pattern.block as usize);
        let number = self.random.next();
        Poll::Ready(Some(self.pattern.request(number, number >> 16, buffer)))
    }

    fn answer(&mut self, _: Tag, _: Outcome) {
        let now = self.executor.now();
        let took = now - self.due;
        self.latencies.push(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
        self.is_running = false;
        // Instants that have passed meanwhile are left out: one at a time.
        while self.due <= now {
            self.due = self.due + self.every;
        }
    }

    fn publish(&mut self) {}
}

/// The latency that so many per mille of `latencies` do not exceed, in microseconds.
pub(crate) fn percentile(latencies: &mut [u64], per_mille: usize) -> f64 {
    if latencies.is_empty() {
        return f64::NAN;
    }
    latencies.sort_unstable();
    let index = (latencies.len() * per_mille / 1000).min(latencies.len() - 1);
    Duration::from_nanos(latencies[index]).as_secs_f64() * 1e6
}
