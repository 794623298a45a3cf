//! Which requests run now: for drain, and for people who ask what a disk waits for.

use std::fmt::Write;

use block_core::GuestRange;
use storage_io::Moment;

use crate::RequestKind;

/// One request that runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Running {
    pub(crate) kind: RequestKind,
    pub(crate) range: Option<GuestRange>,
    pub(crate) since: Moment,
}

/// The requests that run, in slots that are used again.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    slots: Vec<Option<Running>>,
    free: Vec<usize>,
}

/// How many requests a description names.
const NAMED_MAX: usize = 4;

impl InFlight {
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// The slot of a request that begins to run.
    pub(crate) fn insert(&mut self, running: Running) -> usize {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[slot] = Some(running);
        slot
    }

    pub(crate) fn remove(&mut self, slot: usize) {
        let removed = self.slots[slot].take();
        assert!(removed.is_some(), "a request ends once");
        self.free.push(slot);
    }

    /// How many requests run, and the oldest of them: `2 requests in flight: write 0x0+0x200 for 3.0 s, flush for 0.1 s`.
    pub(crate) fn describe(&self, now: Moment) -> String {
        let mut running: Vec<_> = self.slots.iter().flatten().collect();
        running.sort_by_key(|request| request.since);
        let mut words = match running.len() {
            1 => "1 request in flight".to_owned(),
            count => format!("{count} requests in flight"),
        };
        for (index, request) in running.iter().take(NAMED_MAX).enumerate() {
            words.push_str(if index == 0 { ": " } else { ", " });
            words.push_str(request.kind.name());
            if let Some(range) = request.range {
                write!(words, " {range}").expect("a string takes everything");
            }
            write!(words, " for {:.1} s", (now - request.since).as_secs_f64()).expect("a string takes everything");
        }
        if running.len() > NAMED_MAX {
            words.push_str(", ...");
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use storage_io::SimulatedClock;

    #[test]
    fn slots_are_used_again_and_the_oldest_is_named_first() {
        let start = SimulatedClock::new().now();
        let request = |kind, since| Running { kind, range: None, since: start + Duration::from_secs(since) };
        let mut in_flight = InFlight::default();
        let first = in_flight.insert(request(RequestKind::Read, 0));
        in_flight.insert(request(RequestKind::Flush, 2));
        in_flight.remove(first);
        let range = GuestRange::checked(512, 1024);
        let again = in_flight.insert(Running { range, ..request(RequestKind::Write, 1) });
        assert_eq!((again, in_flight.len()), (first, 2));
        let words = in_flight.describe(start + Duration::from_secs(3));
        assert_eq!(words, "2 requests in flight: write 0x200+0x400 for 2.0 s, flush for 1.0 s");
    }

    #[test]
    fn many_requests_are_named_by_the_oldest_few() {
        let since = SimulatedClock::new().now();
        let mut in_flight = InFlight::default();
        for _ in 0..9 {
            in_flight.insert(Running { kind: RequestKind::Flush, range: None, since });
        }
        let words = in_flight.describe(since);
        assert!(words.starts_with("9 requests in flight: flush for 0.0 s, "), "{words}");
        assert!(words.ends_with(", ...") && words.matches("flush").count() == NAMED_MAX, "{words}");
    }
}
