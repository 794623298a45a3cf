//! How often a device is looked at: a guest that writes all the time costs a bounded amount of work.

use std::time::Duration;

use storage_io::Moment;

/// Looks that may follow each other at once.
const BURST: u32 = 64;
/// After that, one look in this time.
const INTERVAL: Duration = Duration::from_millis(5);

/// A bucket of looks.
#[derive(Debug)]
pub(crate) struct Pace {
    left: u32,
    /// When `left` was right.
    counted: Moment,
}

impl Pace {
    pub(crate) fn new(now: Moment) -> Pace {
        Pace { left: BURST, counted: now }
    }

    /// Takes a look, or says when there will be one.
    pub(crate) fn take(&mut self, now: Moment) -> Result<(), Moment> {
        let gained = (now - self.counted).as_nanos() / INTERVAL.as_nanos();
        let gained = u32::try_from(gained).unwrap_or(u32::MAX);
        if gained >= BURST - self.left {
            (self.left, self.counted) = (BURST, now);
        } else {
            self.left += gained;
            self.counted = self.counted + INTERVAL * gained;
        }
        if self.left == 0 {
            return Err(self.counted + INTERVAL);
        }
        self.left -= 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use storage_io::{Executor, SimulatedClock};

    use super::*;

    #[test]
    fn a_burst_is_free_and_then_time_gives_looks_back() {
        let start = Executor::simulated(1, SimulatedClock::new()).now();
        let mut pace = Pace::new(start);
        assert_eq!((0..BURST).filter(|_| pace.take(start).is_ok()).count(), 64);
        let due = pace.take(start).unwrap_err();
        assert_eq!(due - start, INTERVAL);
        assert!(pace.take(due).is_ok());
        assert_eq!(pace.take(due).unwrap_err() - due, INTERVAL);
        let later = due + INTERVAL * 1000;
        assert_eq!((0..1000).filter(|_| pace.take(later).is_ok()).count(), 64, "a bucket holds only so many");
    }
}
