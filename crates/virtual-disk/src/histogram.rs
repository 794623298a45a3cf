//! How long things took: counts of durations, four steps for each doubling, in microseconds.
//!
//! ```text
//!   index   0  1  2  3 | 4  5  6  7 | 8   10   12   14 | 16 ...
//!   from    0  1  2  3 | 4  5  6  7 | 8 ..10 ..12 ..14 | 16 ..20 ..24 ..28 | 32 ...   microseconds
//! ```
//!
//! A percentile is off by a quarter at most.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use crate::counters::{add, microseconds};

/// Steps for each doubling.
const STEPS: usize = 4;
/// What takes this many doublings of a microsecond, more than an hour, is counted with all that takes longer.
const OCTAVES: usize = 32;
/// How many steps there are.
const BUCKETS: usize = STEPS * (OCTAVES - 1);

/// The step that a duration belongs to.
fn index_of(microseconds: u64) -> usize {
    let Ok(microseconds) = usize::try_from(microseconds.min((1 << OCTAVES) - 1)) else { return BUCKETS - 1 };
    if microseconds < STEPS {
        return microseconds;
    }
    let octave = microseconds.ilog2() as usize;
    STEPS * (octave - 1) + (microseconds >> (octave - 2)) % STEPS
}

/// The first microsecond of a step.
fn start_of(index: usize) -> u64 {
    let octave = index / STEPS;
    if octave == 0 { index as u64 } else { ((STEPS + index % STEPS) as u64) << (octave - 1) }
}

/// The last microsecond of a step; the last step has none.
fn end_of(index: usize) -> u64 {
    if index == BUCKETS - 1 { u64::MAX } else { start_of(index + 1) - 1 }
}

/// Counts that one thread adds to and any thread reads.
pub(crate) struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    microseconds: AtomicU64,
    longest: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram {
            buckets: [const { AtomicU64::new(0) }; BUCKETS],
            microseconds: AtomicU64::new(0),
            longest: AtomicU64::new(0),
        }
    }
}

impl fmt::Debug for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.read().fmt(f)
    }
}

impl Histogram {
    /// Counts one duration. Only one thread may.
    pub(crate) fn record(&self, duration: Duration) {
        let microseconds = microseconds(duration);
        add(&self.buckets[index_of(microseconds)], 1);
        add(&self.microseconds, microseconds);
        if microseconds > self.longest.load(Relaxed) {
            self.longest.store(microseconds, Relaxed);
        }
    }

    /// What has been counted until now.
    pub(crate) fn read(&self) -> Latencies {
        let counts = self.buckets.each_ref().map(|bucket| bucket.load(Relaxed));
        let (microseconds, longest) = (self.microseconds.load(Relaxed), self.longest.load(Relaxed));
        Latencies { counts: Box::new(counts), microseconds, longest }
    }
}

/// How long the requests of one kind took, until some instant.
#[derive(Clone, PartialEq, Eq)]
pub struct Latencies {
    counts: Box<[u64; BUCKETS]>,
    microseconds: u64,
    longest: u64,
}

impl Default for Latencies {
    fn default() -> Self {
        Latencies { counts: Box::new([0; BUCKETS]), microseconds: 0, longest: 0 }
    }
}

impl Latencies {
    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// What they took together.
    pub fn total(&self) -> Duration {
        Duration::from_micros(self.microseconds)
    }

    /// The longest of all, exactly.
    pub fn longest(&self) -> Duration {
        Duration::from_micros(self.longest)
    }

    /// The `numerator` of `denominator` fastest took no longer, to the precision of the steps: `percentile(99, 100)`.
    /// Zero if nothing was counted.
    ///
    /// # Panics
    /// When the denominator is zero.
    pub fn percentile(&self, numerator: u64, denominator: u64) -> Duration {
        let wanted = u128::from(self.count()) * u128::from(numerator);
        let wanted = u64::try_from(wanted.div_ceil(u128::from(denominator))).unwrap_or(u64::MAX);
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if *count > 0 && seen >= wanted {
                return Duration::from_micros(end_of(index).min(self.longest));
            }
        }
        Duration::ZERO
    }

    /// The steps that are not empty, shortest first: the longest that belongs to each, and how many do.
    pub fn steps(&self) -> impl Iterator<Item = (Duration, u64)> {
        let steps = self.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        steps.map(|(index, count)| (Duration::from_micros(end_of(index)), *count))
    }

    /// Adds what was counted elsewhere.
    pub fn add(&mut self, other: &Latencies) {
        self.counts.iter_mut().zip(&other.counts[..]).for_each(|(count, more)| *count += more);
        self.microseconds += other.microseconds;
        self.longest = self.longest.max(other.longest);
    }

    /// What was counted since `earlier`; the longest stays the longest of all.
    #[must_use]
    pub fn since(&self, earlier: &Latencies) -> Latencies {
        let mut since = self.clone();
        since.counts.iter_mut().zip(&earlier.counts[..]).for_each(|(count, less)| *count = count.saturating_sub(*less));
        since.microseconds = since.microseconds.saturating_sub(earlier.microseconds);
        since
    }
}

impl fmt::Debug for Latencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.steps()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(durations: impl IntoIterator<Item = u64>) -> Latencies {
        let histogram = Histogram::default();
        durations.into_iter().for_each(|microseconds| histogram.record(Duration::from_micros(microseconds)));
        histogram.read()
    }

    #[test]
    fn steps_follow_each_other_without_gap() {
        assert_eq!(start_of(0), 0);
        for index in 0..BUCKETS - 1 {
            let (start, end) = (start_of(index), end_of(index));
            assert!(start <= end, "step {index}");
            assert_eq!((index_of(start), index_of(end), index_of(end + 1)), (index, index, index + 1));
        }
    }

    #[test]
    fn a_step_is_a_quarter_of_its_start_at_most() {
        for index in 4..BUCKETS {
            let (start, next) = (start_of(index), start_of(index + 1));
            assert!((next - start) * 4 <= start, "step {index}");
        }
    }

    #[test]
    fn what_takes_forever_is_counted_last() {
        assert_eq!(index_of(u64::MAX), BUCKETS - 1);
        assert_eq!(of([u64::MAX]).percentile(1, 2), Duration::from_micros(u64::MAX));
    }

    #[test]
    fn percentiles_are_off_by_a_quarter_at_most() {
        let latencies = of(1..=1000);
        assert_eq!((latencies.count(), latencies.total()), (1000, Duration::from_micros(500_500)));
        for (numerator, exact) in [(50, 500), (90, 900), (99, 990)] {
            let found = u64::try_from(latencies.percentile(numerator, 100).as_micros()).unwrap();
            assert!(found >= exact && found * 4 <= exact * 5, "{numerator} %: {found} us instead of {exact} us");
        }
        assert_eq!(latencies.percentile(100, 100), latencies.longest());
        assert_eq!(latencies.longest(), Duration::from_micros(1000));
    }

    #[test]
    fn nothing_counted_is_zero() {
        assert_eq!(Latencies::default().percentile(99, 100), Duration::ZERO);
        assert_eq!(of([0, 9]).percentile(0, 100), Duration::ZERO);
    }

    #[test]
    fn steps_that_are_empty_are_not_told() {
        let steps: Vec<_> = of([1, 9, 8, 12]).steps().map(|(end, count)| (end.as_micros(), count)).collect();
        assert_eq!(steps, [(1, 1), (9, 2), (13, 1)]);
    }

    #[test]
    fn sums_and_differences_fit() {
        let (first, second) = (of([1, 5, 90]), of([5, 7000]));
        let mut both = first.clone();
        both.add(&second);
        assert_eq!(both, of([1, 5, 5, 90, 7000]));
        assert_eq!(both.since(&first), second);
    }
}
