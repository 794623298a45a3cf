//! When something may be granted: always by a bucket, or by one only while the host has much to write back.

use std::{fmt, fs, io, time::Duration};

use storage_io::Moment;

use super::bucket::Bucket;

/// Says when to grant.
#[derive(Debug)]
pub(super) enum Limiter {
    /// At a rate.
    Token(Bucket),
    /// Freely while the host keeps up with writing, else at a rate.
    Meminfo(Meminfo),
}

impl Limiter {
    /// What is now.
    pub(super) fn look(&mut self, now: Moment, is_awaited: bool) {
        match self {
            Limiter::Token(bucket) => bucket.fill(now, is_awaited),
            Limiter::Meminfo(meminfo) => {
                meminfo.look(now, || fs::read_to_string(MEMINFO));
                meminfo.inner.fill(now, is_awaited && meminfo.is_congested);
            }
        }
    }

    /// Whether something may be granted.
    pub(super) fn is_open(&self) -> bool {
        match self {
            Limiter::Token(bucket) => bucket.is_open(),
            Limiter::Meminfo(meminfo) => !meminfo.is_congested || meminfo.inner.is_open(),
        }
    }

    /// Something was granted.
    pub(super) fn take(&mut self, bytes: u64) {
        match self {
            Limiter::Token(bucket) => bucket.take(bytes),
            Limiter::Meminfo(meminfo) if meminfo.is_congested => meminfo.inner.take(bytes),
            Limiter::Meminfo(_) => {}
        }
    }

    /// When to look again for those who wait now.
    pub(super) fn next_look(&self) -> Duration {
        match self {
            Limiter::Token(bucket) => bucket.opens_in(),
            Limiter::Meminfo(meminfo) => meminfo.inner.opens_in().min(meminfo.period),
        }
    }
}

impl fmt::Display for Limiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let token =
            |bucket: &Bucket| format!("token: rate={} cap={} credit={}", bucket.rate(), bucket.cap(), bucket.credit());
        match self {
            Limiter::Token(bucket) => f.write_str(&token(bucket)),
            Limiter::Meminfo(meminfo) => write!(f, "meminfo: {}; {}", meminfo.describe(), token(&meminfo.inner)),
        }
    }
}

const MEMINFO: &str = "/proc/meminfo";

/// Watches how much of the host's memory waits to be written to storage.
#[derive(Debug)]
pub(super) struct Meminfo {
    /// In percent of all memory: from there on the host is congested...
    high: u64,
    /// ... until it is below this.
    low: u64,
    /// How often to look.
    period: Duration,
    is_congested: bool,
    looked: Option<Moment>,
    inner: Bucket,
}

impl Meminfo {
    pub(super) fn new(high: u64, low: u64, period: Duration, inner: Bucket) -> Meminfo {
        Meminfo { high, low, period, is_congested: false, looked: None, inner }
    }

    pub(super) fn describe(&self) -> String {
        let congested = if self.is_congested { "yes" } else { "no" };
        format!("high={}% low={}% period={}ms congested={congested}", self.high, self.low, self.period.as_millis())
    }

    /// Looks, if it is time to.
    fn look(&mut self, now: Moment, read: impl FnOnce() -> io::Result<String>) {
        if self.looked.is_some_and(|looked| now - looked < self.period) {
            return;
        }
        self.looked = Some(now);
        // What cannot be read limits nobody.
        let Some((waiting, all)) = read().ok().as_deref().and_then(waiting_of_all) else {
            self.is_congested = false;
            return;
        };
        let limit = if self.is_congested { self.low } else { self.high };
        self.is_congested = u128::from(waiting) * 100 >= u128::from(all) * u128::from(limit);
    }
}

/// How much waits to be written, and how much memory there is, in one unit.
fn waiting_of_all(text: &str) -> Option<(u64, u64)> {
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    Some((field("Dirty")?.checked_add(field("Writeback")?)?, field("MemTotal")?))
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use super::*;
    use storage_io::SimulatedClock;

    fn text(dirty: u64, writeback: u64) -> io::Result<String> {
        let lines =
            format!("MemTotal:     1000 kB\nDirty: {dirty} kB\nWriteback:  {writeback} kB\nWritebackTmp: 999 kB\n");
        Ok(lines)
    }

    #[test]
    fn fields_are_found_by_their_whole_names() {
        assert_eq!(waiting_of_all(&text(30, 12).unwrap()), Some((42, 1000)));
        assert_eq!(waiting_of_all("MemTotal: 1 kB\nDirty: x kB\nWriteback: 0 kB\n"), None);
        assert!(waiting_of_all(&fs::read_to_string(MEMINFO).unwrap()).is_some());
    }

    #[test]
    fn congestion_begins_at_high_and_ends_below_low() {
        let bucket = Bucket::new(NonZeroU64::MIN, 0);
        let mut meminfo = Meminfo::new(20, 10, Duration::from_millis(100), bucket);
        let mut now = SimulatedClock::new().now();
        for (waiting, expected) in [(199, false), (200, true), (150, true), (100, true), (99, false), (150, false)] {
            meminfo.look(now, || text(waiting - 9, 9));
            assert_eq!(meminfo.is_congested, expected, "{waiting} of 1000");
            now = now + Duration::from_millis(99);
            meminfo.look(now, || panic!("it is not time yet"));
            now = now + Duration::from_millis(1);
        }
    }

    #[test]
    fn what_cannot_be_read_limits_nobody() {
        let mut meminfo = Meminfo::new(0, 0, Duration::from_millis(100), Bucket::new(NonZeroU64::MIN, 0));
        let now = SimulatedClock::new().now();
        meminfo.look(now, || text(0, 0));
        assert!(meminfo.is_congested, "nothing is not below nothing");
        meminfo.look(now + Duration::from_secs(1), || Err(io::ErrorKind::NotFound.into()));
        assert!(!meminfo.is_congested);
    }

    #[test]
    fn only_congestion_costs() {
        let mut limiter = Limiter::Meminfo(Meminfo::new(1, 1, Duration::from_secs(1), Bucket::new(NonZeroU64::MIN, 0)));
        limiter.take(5);
        assert!(limiter.is_open());
        if let Limiter::Meminfo(meminfo) = &mut limiter {
            assert_eq!(meminfo.inner.credit(), 0);
            meminfo.is_congested = true;
        }
        limiter.take(5);
        assert!(!limiter.is_open());
        assert_eq!(limiter.next_look(), Duration::from_secs(1));
    }
}
