//! How fast a disk may be: buckets of requests and of bytes, which fill at a rate and from which every request takes.
//! All queues of a disk share them.
//!
//! ```text
//!   request --> Pass: charged at once, and told when it may go --(time)--> go --> [Budget, if there is one] --> go
//!
//!   bucket: one word, the instant at which it will be full again     now      full      a request goes while the bucket
//!                                                        ------------|---------|------> is not below empty, and takes
//!                                                        in debt if further away than its size lasts all it needs
//! ```
//!
//! A request that finds its bucket empty has its turn reserved when it asks: queues that wait get theirs in the order in
//! which they came, and nobody has to be woken to look again. Since a large request takes more than there is, and the
//! next one waits for it, any size passes at the rate. Flushes, hints and questions are free.

use std::{
    num::NonZeroU64,
    sync::{
        Arc,
        atomic::{
            AtomicU64,
            Ordering::{AcqRel, Acquire, Relaxed},
        },
    },
    task::{Context, Poll},
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use storage_io::Moment;

use crate::{
    RequestKind,
    budget::{Budget, Claim},
    waiting::{Place, Waiting},
};

/// A rate, and how much may come at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Requests, or bytes, in a second.
    pub per_second: NonZeroU64,
    /// How many may come at once after a pause. A request always may, however large.
    pub burst: u64,
}

impl Rate {
    /// This rate, with as much at once as a tenth of a second brings. `None` for zero.
    pub fn new(per_second: u64) -> Option<Rate> {
        NonZeroU64::new(per_second).map(|per_second| Rate { per_second, burst: per_second.get() / 10 })
    }

    /// This rate, with another burst.
    #[must_use]
    pub fn with_burst(self, burst: u64) -> Rate {
        Rate { burst, ..self }
    }

    /// The time in which `count` come by.
    fn duration_of(self, count: u64) -> u64 {
        let nanoseconds = u128::from(count) * 1_000_000_000 / u128::from(self.per_second.get());
        // A century: sums of a few of these still fit.
        u64::try_from(nanoseconds).unwrap_or(u64::MAX).min(CENTURY)
    }
}

const CENTURY: u64 = 100 * 365 * 24 * 3600 * 1_000_000_000;

/// The limits of one kind of requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateLimits {
    /// In requests.
    pub requests: Option<Rate>,
    /// In bytes.
    pub bytes: Option<Rate>,
}

/// The limits of a disk. What is `None` is without limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Of reads and writes together.
    pub total: RateLimits,
    /// Of reads.
    pub read: RateLimits,
    /// Of what changes the disk: writes, discards and writes of zeroes. (Those two count no bytes: they move none.)
    pub write: RateLimits,
}

impl Limits {
    /// No limit at all.
    pub const NONE: Limits = Limits {
        total: RateLimits { requests: None, bytes: None },
        read: RateLimits { requests: None, bytes: None },
        write: RateLimits { requests: None, bytes: None },
    };
}

/// A bucket: the instant, in nanoseconds of the clock, at which it will be full again.
#[derive(Debug)]
struct Bucket {
    rate: Rate,
    full_at: AtomicU64,
}

impl Bucket {
    fn new(rate: Rate) -> Bucket {
        Bucket { rate, full_at: AtomicU64::new(0) }
    }

    /// Takes `count` out, below empty if need be. Says when that may be used: as soon as the bucket is not below empty
    /// from what was taken before.
    fn take(&self, count: u64, now: u64) -> u64 {
        let (cost, size) = (self.rate.duration_of(count), self.rate.duration_of(self.rate.burst));
        let take = |full_at: u64| Some(full_at.max(now).saturating_add(cost));
        let full_at = self.full_at.fetch_update(Relaxed, Relaxed, take).expect("it always takes");
        full_at.saturating_sub(size).max(now)
    }

    /// Puts back what was taken and not used. Turns that others have reserved meanwhile stay where they are.
    fn give_back(&self, count: u64) {
        let cost = self.rate.duration_of(count);
        let give = |full_at: u64| Some(full_at.saturating_sub(cost));
        self.full_at.fetch_update(Relaxed, Relaxed, give).expect("it always gives");
    }
}

/// The buckets of one setting of the limits. A new setting has new ones, full: nobody pays for a limit that has gone.
#[derive(Debug, Default)]
struct Buckets {
    limits: Limits,
    /// Of [total, read, write].
    requests: [Option<Bucket>; 3],
    bytes: [Option<Bucket>; 3],
}

impl Buckets {
    fn new(limits: Limits) -> Buckets {
        let of = |rate: fn(&RateLimits) -> Option<Rate>| {
            [limits.total, limits.read, limits.write].map(|limits| rate(&limits).map(Bucket::new))
        };
        Buckets { limits, requests: of(|limits| limits.requests), bytes: of(|limits| limits.bytes) }
    }

    fn take(&self, direction: Direction, bytes: u64, now: Moment) -> Moment {
        let start = nanoseconds(now.since_start());
        let turns = self.of(direction, bytes).map(|(bucket, count)| bucket.take(count, start));
        let go = turns.max().unwrap_or(start);
        now + Duration::from_nanos(go - start)
    }

    fn give_back(&self, direction: Direction, bytes: u64) {
        self.of(direction, bytes).for_each(|(bucket, count)| bucket.give_back(count));
    }

    /// The buckets that a request falls under, each with what it takes.
    fn of(&self, direction: Direction, bytes: u64) -> impl Iterator<Item = (&Bucket, u64)> {
        let in_both = move |scope: usize| {
            let requests = self.requests[scope].as_ref().map(|bucket| (bucket, 1));
            requests.into_iter().chain(self.bytes[scope].as_ref().map(|bucket| (bucket, bytes)))
        };
        [0, direction as usize].into_iter().flat_map(in_both)
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Which limits a request falls under; the index of their buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// Reads.
    Read = 1,
    /// What changes the disk.
    Write = 2,
}

impl Direction {
    pub(crate) fn of(kind: RequestKind) -> Option<Direction> {
        match kind {
            RequestKind::Read => Some(Direction::Read),
            RequestKind::Write | RequestKind::Discard | RequestKind::WriteZeroes => Some(Direction::Write),
            RequestKind::Flush | RequestKind::Cache | RequestKind::Extents => None,
        }
    }
}

/// The limits of one disk, as its queues ask them. Any thread may change them at any time.
#[derive(Debug, Default)]
pub struct Limiter {
    buckets: ArcSwap<Buckets>,
    budget: ArcSwapOption<Budget>,
    /// Raised with every change; zero as long as nothing was ever set, and then nothing else is looked at.
    changes: AtomicU64,
    /// Those who wait for their turn, to be told of a change.
    waiting: Arc<Waiting>,
}

impl Limiter {
    /// Without limits.
    pub fn new() -> Limiter {
        Limiter::default()
    }

    /// The limits that hold now.
    pub fn limits(&self) -> Limits {
        self.buckets.load().limits
    }

    /// Changes the limits. Requests that wait are measured by the new ones, as if they came now.
    pub fn set(&self, limits: Limits) {
        // The same again would fill the buckets for nothing.
        if limits != self.limits() {
            self.buckets.store(Arc::new(Buckets::new(limits)));
            self.changed();
        }
    }

    /// The budget that the disk draws on.
    pub fn budget(&self) -> Option<Arc<Budget>> {
        self.budget.load_full()
    }

    /// Makes the disk draw on this budget, beside its limits; `None`: on none. Requests that wait keep their turns within
    /// the limits.
    pub fn set_budget(&self, budget: Option<Arc<Budget>>) {
        self.budget.store(budget);
        self.changed();
    }

    fn changed(&self) {
        self.changes.fetch_add(1, AcqRel);
        self.waiting.wake_all();
    }

    /// The way of one request past the limits; `bytes` is what it moves. `None`: it has none.
    pub fn pass(&self, kind: RequestKind, bytes: u64, now: Moment) -> Option<Pass> {
        if self.changes.load(Acquire) == 0 {
            return None;
        }
        let direction = Direction::of(kind)?;
        let bytes = if matches!(kind, RequestKind::Read | RequestKind::Write) { bytes } else { 0 };
        let mut pass = Pass {
            direction,
            bytes,
            came: now,
            change: 0,
            buckets: None,
            go_at: now,
            claim: None,
            place: None,
            has_gone: false,
        };
        pass.measure(self, now);
        Some(pass)
    }
}

/// What a request still has to wait for. The caller sleeps until then, and asks again earlier if it is woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Its bucket has it at this instant.
    At(Moment),
    /// The budget has not granted it yet.
    WhenWoken,
}

/// The way of one request past the limits: keep it until the request has ended. What a request takes from a budget is
/// given account of when this is dropped; what it took from the limits is put back if it has not gone by then.
#[derive(Debug)]
pub struct Pass {
    direction: Direction,
    bytes: u64,
    came: Moment,
    /// Of the limiter, when it was measured.
    change: u64,
    /// From which it has taken.
    buckets: Option<Arc<Buckets>>,
    go_at: Moment,
    claim: Option<Claim>,
    place: Option<Place>,
    has_gone: bool,
}

impl Pass {
    fn measure(&mut self, limiter: &Limiter, now: Moment) {
        // Before the buckets: a change that comes in between is then seen as one.
        self.change = limiter.changes.load(Acquire);
        let buckets = limiter.buckets.load_full();
        if !self.buckets.as_ref().is_some_and(|taken| Arc::ptr_eq(taken, &buckets)) {
            self.go_at = buckets.take(self.direction, self.bytes, now);
            self.buckets = Some(buckets);
        }
        let budget = limiter.budget.load_full();
        let budget = budget.filter(|budget| self.bytes > 0 && budget.covers(self.direction));
        self.claim = budget.map(|budget| Claim::new(budget, self.bytes));
    }

    /// Whether the request may go: ready with how long it has waited. Until then `cx` is woken when limits change or the
    /// budget grants it; the caller adds a timer of its own as long as [`turn`](Self::turn) names an instant.
    pub fn poll_go(&mut self, limiter: &Limiter, now: Moment, cx: &mut Context<'_>) -> Poll<Duration> {
        if self.has_gone || self.may_go(limiter, now, cx) {
            return self.go(now);
        }
        let place = self.place.get_or_insert_with(|| Place::new(&limiter.waiting));
        place.set(cx.waker());
        // Limits that changed after the first look woke nobody.
        if self.change != limiter.changes.load(Acquire) && self.may_go(limiter, now, cx) {
            return self.go(now);
        }
        Poll::Pending
    }

    fn may_go(&mut self, limiter: &Limiter, now: Moment, cx: &mut Context<'_>) -> bool {
        if self.change != limiter.changes.load(Acquire) {
            self.measure(limiter, now);
        }
        now >= self.go_at && self.claim.as_mut().is_none_or(|claim| claim.poll_granted(cx).is_ready())
    }

    fn go(&mut self, now: Moment) -> Poll<Duration> {
        self.has_gone = true;
        self.place = None;
        Poll::Ready(now - self.came)
    }

    /// What it waits for.
    pub fn turn(&self, now: Moment) -> Turn {
        if now < self.go_at { Turn::At(self.go_at) } else { Turn::WhenWoken }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if let Some(buckets) = self.buckets.as_ref().filter(|_| !self.has_gone) {
            buckets.give_back(self.direction, self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering::SeqCst},
        task::{Wake, Waker},
    };

    use storage_io::SimulatedClock;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn bytes(per_second: u64, burst: u64) -> RateLimits {
        RateLimits { requests: None, bytes: Rate::new(per_second).map(|rate| rate.with_burst(burst)) }
    }

    fn requests(per_second: u64, burst: u64) -> RateLimits {
        RateLimits { requests: Rate::new(per_second).map(|rate| rate.with_burst(burst)), bytes: None }
    }

    fn limiter(limits: Limits) -> Limiter {
        let limiter = Limiter::new();
        limiter.set(limits);
        limiter
    }

    /// A second after the clock began.
    fn start() -> Moment {
        SimulatedClock::new().now() + SECOND
    }

    fn go(pass: &mut Pass, limiter: &Limiter, now: Moment) -> bool {
        pass.poll_go(limiter, now, &mut Context::from_waker(Waker::noop())).is_ready()
    }

    /// Takes requests of this size one after the other, each as soon as it may go; how many went within `time`.
    fn count(limiter: &Limiter, kind: RequestKind, size: u64, time: Duration) -> u64 {
        let (mut now, mut count) = (start(), 0);
        loop {
            let mut pass = limiter.pass(kind, size, now).unwrap();
            while !go(&mut pass, limiter, now) {
                let Turn::At(turn) = pass.turn(now) else { panic!("nobody will wake us") };
                now = turn;
            }
            if now > start() + time {
                return count;
            }
            count += 1;
        }
    }

    #[test]
    fn without_limits_nothing_is_measured() {
        assert!(Limiter::new().pass(RequestKind::Write, 4096, start()).is_none());
    }

    #[test]
    fn flushes_hints_and_questions_are_free() {
        let limiter = limiter(Limits { total: requests(1, 0), ..Limits::NONE });
        for kind in [RequestKind::Flush, RequestKind::Cache, RequestKind::Extents] {
            assert!(limiter.pass(kind, 4096, start()).is_none(), "{kind}");
        }
    }

    #[test]
    fn a_rate_is_kept_whatever_the_size_of_requests() {
        let limits = Limits { total: bytes(1_000_000, 0), ..Limits::NONE };
        for size in [512, 4096, 100_000, 3_000_000] {
            let moved = count(&limiter(limits), RequestKind::Read, size, 30 * SECOND) * size;
            let most = 30_000_000 + size;
            assert!(moved <= most && moved >= 30_000_000 - size, "{moved} bytes by {size}");
        }
    }

    #[test]
    fn a_burst_comes_on_top_once() {
        let limits = Limits { write: requests(100, 50), ..Limits::NONE };
        let went = count(&limiter(limits), RequestKind::Write, 4096, 10 * SECOND);
        assert!((1050..=1052).contains(&went), "{went}");
    }

    #[test]
    fn reads_and_writes_have_limits_of_their_own_and_one_together() {
        let limits = Limits { total: requests(100, 0), read: requests(10, 0), write: requests(1000, 0) };
        let shared = limiter(limits);
        assert!((100..=102).contains(&count(&shared, RequestKind::Read, 1, 10 * SECOND)));
        assert!((1000..=1002).contains(&count(&limiter(limits), RequestKind::Discard, 1, 10 * SECOND)));
    }

    #[test]
    fn what_changes_the_disk_without_moving_bytes_counts_none() {
        let limits = limiter(Limits { write: bytes(1, 0), ..Limits::NONE });
        for _ in 0..100 {
            let mut pass = limits.pass(RequestKind::WriteZeroes, 1 << 30, start()).unwrap();
            assert!(go(&mut pass, &limits, start()));
        }
    }

    #[test]
    fn those_who_wait_get_their_turns_in_the_order_in_which_they_asked() {
        let limiter = limiter(Limits { total: requests(10, 0), ..Limits::NONE });
        let now = start();
        let passes: Vec<Pass> = (0..5).map(|_| limiter.pass(RequestKind::Read, 512, now).unwrap()).collect();
        let turns: Vec<Turn> = passes.iter().map(|pass| pass.turn(now)).collect();
        let at = |tenths| Turn::At(now + SECOND / 10 * tenths);
        assert_eq!(turns, [Turn::WhenWoken, at(1), at(2), at(3), at(4)]);
    }

    #[test]
    fn queues_share_a_limit() {
        let limiter = limiter(Limits { total: requests(1000, 0), ..Limits::NONE });
        let now = start();
        let latest = std::thread::scope(|scope| {
            let queue = || {
                let passes: Vec<_> = (0..1000).map(|_| limiter.pass(RequestKind::Read, 512, now).unwrap()).collect();
                let latest = passes.iter().map(|pass| pass.go_at).max();
                (passes, latest)
            };
            let queues = [scope.spawn(queue), scope.spawn(queue)];
            let ended = queues.map(|queue| queue.join().unwrap());
            ended.iter().filter_map(|(_, latest)| *latest).max()
        });
        assert_eq!(latest, Some(now + Duration::from_millis(1999)));
    }

    /// What a bucket is meant to be: a level that rises with time, up to its size, and falls below zero.
    struct PlainBucket {
        rate: i128,
        size: i128,
        level: i128,
        filled: i128,
    }

    impl PlainBucket {
        fn take(&mut self, count: u64, now: u64) -> u64 {
            let (count, now) = (i128::from(count), i128::from(now));
            let billion = 1_000_000_000;
            self.level = (self.level + (now - self.filled) * self.rate).min(self.size * billion);
            self.filled = now;
            let wait = if self.level < 0 { (-self.level + self.rate - 1) / self.rate } else { 0 };
            self.level -= count * billion;
            u64::try_from(now + wait).unwrap()
        }
    }

    #[test]
    fn a_bucket_of_one_word_does_what_a_plain_one_does() {
        let executor = storage_io::Executor::simulated(7, SimulatedClock::new());
        let below = |limit: u64| executor.random() % limit;
        for _ in 0..200 {
            // Rates that divide a second, so that both are exact.
            let rate = 10_u64.pow(u32::try_from(below(10)).unwrap());
            let burst = below(3) * below(rate + 2);
            let bucket = Bucket::new(Rate::new(rate).unwrap().with_burst(burst));
            let (size, mut now) = (i128::from(burst), 1_000_000_000_000);
            let mut plain =
                PlainBucket { rate: i128::from(rate), size, level: size * 1_000_000_000, filled: i128::from(now) };
            for _ in 0..200 {
                let count = below(4) * below(1 + rate / 50);
                assert_eq!(bucket.take(count, now), plain.take(count, now), "rate {rate}, burst {burst}");
                now += below(3) * below(100_000_000);
            }
        }
    }

    #[derive(Default)]
    struct Counter(AtomicUsize);

    impl Wake for Counter {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    #[test]
    fn a_change_wakes_those_who_wait_and_measures_them_anew() {
        let limiter = limiter(Limits { total: bytes(1, 0), ..Limits::NONE });
        let now = start();
        assert!(go(&mut limiter.pass(RequestKind::Write, 1 << 20, now).unwrap(), &limiter, now));
        let mut pass = limiter.pass(RequestKind::Write, 1 << 20, now).unwrap();
        let woken = Arc::new(Counter::default());
        let waker = Waker::from(woken.clone());
        assert!(pass.poll_go(&limiter, now, &mut Context::from_waker(&waker)).is_pending());
        limiter.set(Limits { total: bytes(1, 0), ..Limits::NONE });
        assert_eq!(woken.0.load(SeqCst), 0, "nothing has changed");
        limiter.set(Limits::NONE);
        assert_eq!(woken.0.load(SeqCst), 1);
        assert_eq!(pass.poll_go(&limiter, now + SECOND, &mut Context::from_waker(&waker)), Poll::Ready(SECOND));
    }

    #[test]
    fn another_budget_moves_no_turn_within_the_limits() {
        let limiter = limiter(Limits { total: requests(10, 0), ..Limits::NONE });
        let now = start();
        let mut passes: Vec<Pass> = (0..5).map(|_| limiter.pass(RequestKind::Write, 512, now).unwrap()).collect();
        assert!(go(&mut passes[0], &limiter, now));
        let turns = |passes: &[Pass]| -> Vec<Turn> { passes.iter().map(|pass| pass.turn(now)).collect() };
        let before = turns(&passes);
        for budget in [Some(Budget::new(false)), Some(Budget::new(true)), None] {
            limiter.set_budget(budget);
            assert!(passes[1..].iter_mut().all(|pass| !go(pass, &limiter, now)));
            assert_eq!(turns(&passes), before);
        }
        let next = limiter.pass(RequestKind::Write, 512, now).unwrap();
        assert_eq!(next.turn(now), Turn::At(now + SECOND / 2), "nobody has paid twice");
    }

    #[test]
    fn a_turn_that_is_not_used_costs_nothing() {
        let limits = Limits { total: requests(10, 0), write: bytes(1000, 0), ..Limits::NONE };
        let limiter = limiter(limits);
        let now = start();
        assert!(go(&mut limiter.pass(RequestKind::Write, 100, now).unwrap(), &limiter, now));
        let waits = limiter.pass(RequestKind::Write, 1 << 30, now).unwrap();
        assert_eq!(waits.turn(now), Turn::At(now + SECOND / 10));
        drop(waits);
        assert_eq!(limiter.pass(RequestKind::Write, 1, now).unwrap().turn(now), Turn::At(now + SECOND / 10));
        assert!(go(
            &mut limiter.pass(RequestKind::Write, 1 << 20, now + SECOND / 10).unwrap(),
            &limiter,
            now + SECOND / 10
        ));
        let after = limiter.pass(RequestKind::Write, 1, now + SECOND).unwrap();
        assert!(matches!(after.turn(now + SECOND), Turn::At(_)), "what has gone is paid for");
    }

    #[test]
    fn who_has_gone_is_not_woken() {
        let limiter = limiter(Limits { total: bytes(1, 0), ..Limits::NONE });
        let woken = Arc::new(Counter::default());
        let waker = Waker::from(woken.clone());
        for _ in 0..100 {
            let mut pass = limiter.pass(RequestKind::Write, 1 << 20, start()).unwrap();
            let _ = pass.poll_go(&limiter, start(), &mut Context::from_waker(&waker));
        }
        limiter.set(Limits::NONE);
        assert_eq!(woken.0.load(SeqCst), 0);
    }

    #[test]
    fn an_absurd_limit_makes_wait_but_does_not_overflow() {
        let limiter = limiter(Limits { total: bytes(1, u64::MAX), read: bytes(1, 0), ..Limits::NONE });
        for _ in 0..1000 {
            let pass = limiter.pass(RequestKind::Read, u64::MAX, start()).unwrap();
            assert!(matches!(pass.turn(start()), Turn::At(_) | Turn::WhenWoken));
        }
        let fast = Limiter::new();
        fast.set(Limits { total: bytes(u64::MAX, u64::MAX), ..Limits::NONE });
        let mut pass = fast.pass(RequestKind::Read, 1 << 40, start()).unwrap();
        assert!(go(&mut pass, &fast, start()));
    }

    #[test]
    fn a_budget_covers_writes_and_reads_if_asked() {
        let now = start();
        for (covers_reads, kind, waits) in [
            (false, RequestKind::Read, false),
            (true, RequestKind::Read, true),
            (false, RequestKind::Write, true),
            (false, RequestKind::Discard, false),
        ] {
            let (limiter, budget) = (Limiter::new(), Budget::new(covers_reads));
            budget.connected();
            limiter.set_budget(Some(budget));
            let mut pass = limiter.pass(kind, 4096, now).unwrap();
            assert_eq!(!go(&mut pass, &limiter, now), waits, "{kind}");
        }
    }

    #[test]
    fn a_budget_that_is_taken_away_keeps_nobody() {
        let (limiter, budget) = (Limiter::new(), Budget::new(false));
        budget.connected();
        limiter.set_budget(Some(budget.clone()));
        let mut pass = limiter.pass(RequestKind::Write, 4096, start()).unwrap();
        assert!(!go(&mut pass, &limiter, start()));
        limiter.set_budget(None);
        assert!(go(&mut pass, &limiter, start()));
        assert_eq!(budget.status().waiting, 0);
    }
}
