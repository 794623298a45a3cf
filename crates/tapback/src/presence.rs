//! Whether a directory that is missing was removed, or has gone with a store that has lost what it held.
//!
//! ```text
//!   seen, on a connection --- missing, on the same one ------------> removed
//!     ^    |
//!     |    +--- missing, after the connection was lost ---> missed --- not back in time ---> removed
//!     |         or with all that there was                     |
//!     +--------------------- there again ----------------------+
//! ```
//!
//! A server that crashes takes its tree along, and the next one knows nothing of guests that go on. Only what vanishes
//! from a server that was seen to have it was certainly removed by somebody.

use std::time::Duration;

use storage_io::Moment;

/// What is known of a directory's being there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Presence {
    /// How often the connection had been lost when it was seen last; none if the store has lost it since.
    seen: Option<u64>,
    /// Since when it is missed.
    missed: Option<Moment>,
}

impl Presence {
    /// It was seen, after the connection was lost so often.
    pub(crate) fn new(losses: u64) -> Presence {
        Presence { seen: Some(losses), missed: None }
    }

    /// The store has lost everything: nobody knows yet what will be there.
    pub(crate) fn lose(&mut self) {
        *self = Presence { seen: None, missed: None };
    }

    /// It is missing. Says whether it may come back.
    pub(crate) fn miss(&mut self, losses: u64, now: Moment, grace: Duration) -> bool {
        if self.seen == Some(losses) {
            return false;
        }
        let is_in_time = now < *self.missed.get_or_insert(now) + grace;
        if !is_in_time {
            *self = Presence::new(losses);
        }
        is_in_time
    }

    /// Whether it is waited for.
    pub(crate) fn is_missing(&self) -> bool {
        self.missed.is_some()
    }

    /// Until when it is waited for.
    pub(crate) fn end_of_grace(&self, grace: Duration) -> Option<Moment> {
        self.missed.map(|since| since + grace)
    }
}

#[cfg(test)]
mod tests {
    use storage_io::{Executor, SimulatedClock};

    use super::*;

    const GRACE: Duration = Duration::from_secs(10);

    #[test]
    fn what_vanishes_on_a_connection_on_which_it_was_seen_was_removed() {
        let now = Executor::simulated(1, SimulatedClock::new()).now();
        assert!(!Presence::new(3).miss(3, now, GRACE));
    }

    #[test]
    fn what_vanishes_with_the_connection_or_with_everything_is_waited_for() {
        let now = Executor::simulated(1, SimulatedClock::new()).now();
        let mut lost = Presence::new(3);
        lost.lose();
        for mut presence in [Presence::new(2), lost] {
            assert!(presence.miss(3, now, GRACE) && presence.is_missing());
            assert_eq!(presence.end_of_grace(GRACE), Some(now + GRACE));
            assert!(presence.miss(4, now + GRACE / 2, GRACE), "since it was missed first");
            assert!(!presence.miss(4, now + GRACE, GRACE) && !presence.is_missing());
        }
    }
}
