//! A bucket of bytes that fills at a rate up to a cap, and from which more may be taken than is in it.

use std::{num::NonZeroU64, time::Duration};

use storage_io::Moment;

const NANOSECONDS: i128 = 1_000_000_000;

/// The bucket. Its level is kept in bytes times nanoseconds, so that nothing is lost by rounding.
#[derive(Clone, Debug)]
pub(super) struct Bucket {
    rate: NonZeroU64,
    cap: u64,
    level: i128,
    /// When the level was right; none before it was first looked at.
    filled: Option<Moment>,
}

impl Bucket {
    /// A full one.
    pub(super) fn new(rate: NonZeroU64, cap: u64) -> Bucket {
        Bucket { rate, cap, level: i128::from(cap) * NANOSECONDS, filled: None }
    }

    /// Bytes for each second.
    pub(super) fn rate(&self) -> u64 {
        self.rate.get()
    }

    /// How many are saved up at most.
    pub(super) fn cap(&self) -> u64 {
        self.cap
    }

    /// The level, in bytes; below zero after more was taken than there was.
    pub(super) fn credit(&self) -> i128 {
        self.level.div_euclid(NANOSECONDS)
    }

    /// Fills up to `now`. While somebody waits, time is not lost beyond the cap: it has come too late only because we
    /// were.
    pub(super) fn fill(&mut self, now: Moment, is_awaited: bool) {
        let passed = now - *self.filled.get_or_insert(now);
        self.filled = self.filled.max(Some(now));
        let more = i128::try_from(passed.as_nanos()).unwrap_or(i128::MAX / NANOSECONDS) * i128::from(self.rate.get());
        let cap = i128::from(self.cap) * NANOSECONDS;
        let full = if is_awaited { i128::MAX } else { cap.max(self.level.min(0)) };
        self.level = self.level.saturating_add(more).min(full);
    }

    /// Whether something may be taken.
    pub(super) fn is_open(&self) -> bool {
        self.level >= 0
    }

    /// How long until something may be taken, if nothing is taken before.
    pub(super) fn opens_in(&self) -> Duration {
        let missing = u128::try_from(-self.level).unwrap_or(0);
        let nanoseconds = missing.div_ceil(u128::from(self.rate.get()));
        Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
    }

    /// Takes bytes out.
    pub(super) fn take(&mut self, bytes: u64) {
        self.level -= i128::from(bytes) * NANOSECONDS;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use storage_io::SimulatedClock;

    const SECOND: Duration = Duration::from_secs(1);

    fn bucket(rate: u64, cap: u64) -> (Bucket, Moment) {
        let (mut bucket, start) = (Bucket::new(NonZeroU64::new(rate).unwrap(), cap), SimulatedClock::new().now());
        bucket.fill(start, false);
        (bucket, start)
    }

    #[test]
    fn it_is_full_at_first_and_never_fuller() {
        let (mut bucket, start) = bucket(100, 50);
        assert_eq!(bucket.credit(), 50);
        bucket.fill(start + 10 * SECOND, false);
        assert_eq!(bucket.credit(), 50);
    }

    #[test]
    fn more_may_be_taken_than_there_is_and_is_paid_for_with_time() {
        let (mut bucket, start) = bucket(100, 50);
        bucket.take(250);
        assert_eq!((bucket.is_open(), bucket.credit(), bucket.opens_in()), (false, -200, 2 * SECOND));
        bucket.fill(start + SECOND, true);
        assert_eq!((bucket.is_open(), bucket.opens_in()), (false, SECOND));
        bucket.fill(start + 2 * SECOND, true);
        assert_eq!((bucket.is_open(), bucket.credit()), (true, 0));
    }

    #[test]
    fn an_empty_one_without_a_cap_still_gives() {
        let (mut bucket, start) = bucket(100, 0);
        assert!(bucket.is_open());
        bucket.take(10);
        bucket.fill(start + SECOND, false);
        assert_eq!(bucket.credit(), 0);
    }

    #[test]
    fn what_came_too_late_is_not_lost_to_those_who_waited() {
        let (mut bucket, start) = bucket(1000, 0);
        bucket.take(1000);
        bucket.fill(start + SECOND + SECOND / 2, true);
        assert_eq!(bucket.credit(), 500);
        bucket.take(1000);
        bucket.fill(start + 2 * SECOND, true);
        assert_eq!(bucket.credit(), 0);
    }

    #[test]
    fn small_steps_lose_nothing() {
        let (mut bucket, start) = bucket(3, 1000);
        bucket.take(1000);
        for step in 1..=10_000u32 {
            bucket.fill(start + SECOND / 10_000 * step, false);
        }
        assert_eq!(bucket.credit(), 3);
    }
}
