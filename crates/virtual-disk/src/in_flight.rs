//! Which requests run now: for drain, for the watchdog, and for people who ask what a disk waits for.

use std::{
    fmt::Write,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use block_core::GuestRange;
use storage_io::Moment;

use crate::RequestKind;

/// One request that is being carried out, or waits for its next attempt.
#[derive(Clone, Copy, Debug)]
pub struct RunningRequest {
    /// What it asks.
    pub kind: RequestKind,
    /// Which bytes; a flush is about none.
    pub range: Option<GuestRange>,
    /// How many attempts have begun.
    pub attempts: u32,
    /// Since when this one runs, or the request waits for the next.
    pub since: Moment,
    /// When the first began.
    pub began: Moment,
}

/// The requests that run on one queue, in slots that are used again. Its own thread writes; others look when somebody
/// asks, also while that thread hangs.
#[derive(Debug, Default)]
pub(crate) struct InFlight(Mutex<Slots>);

#[derive(Debug, Default)]
struct Slots {
    slots: Vec<Option<Slot>>,
    free: Vec<usize>,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    request: RunningRequest,
    /// It was reported as stuck.
    is_told: bool,
}

impl Slot {
    fn is_overdue(&self, now: Moment, stuck_after: Duration) -> bool {
        !self.is_told && now - self.request.began >= stuck_after
    }
}

/// How many requests a description names.
const NAMED_MAX: usize = 4;

impl InFlight {
    /// The lock guards a few words; it is contended only while somebody looks, and nobody waits while holding it.
    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn count(&self) -> usize {
        self.slots().count()
    }

    /// The slot of a request that begins to run; `is_told` if it was reported as stuck before.
    pub(crate) fn insert(&self, request: RunningRequest, is_told: bool) -> usize {
        let mut slots = self.slots();
        let slot = slots.free.pop().unwrap_or_else(|| {
            slots.slots.push(None);
            slots.slots.len() - 1
        });
        slots.slots[slot] = Some(Slot { request, is_told });
        slot
    }

    /// A request leaves. Says whether it was reported as stuck, and how many are left.
    pub(crate) fn remove(&self, slot: usize) -> (bool, usize) {
        let mut slots = self.slots();
        let Slot { is_told, .. } = slots.slots[slot].take().expect("a request ends once");
        slots.free.push(slot);
        (is_told, slots.count())
    }

    /// What runs.
    pub(crate) fn running(&self) -> Vec<RunningRequest> {
        self.slots().slots.iter().flatten().map(|slot| slot.request).collect()
    }

    /// Whether there is something for [`take_overdue`](Self::take_overdue).
    pub(crate) fn has_overdue(&self, now: Moment, stuck_after: Duration) -> bool {
        self.slots().slots.iter().flatten().any(|slot| slot.is_overdue(now, stuck_after))
    }

    /// What has not ended for as long as `stuck_after`, over all its attempts, and was not reported yet. From now on it
    /// was.
    pub(crate) fn take_overdue(&self, now: Moment, stuck_after: Duration) -> Vec<RunningRequest> {
        let mut slots = self.slots();
        let overdue = slots.slots.iter_mut().flatten().filter(|slot| slot.is_overdue(now, stuck_after));
        overdue
            .map(|slot| {
                slot.is_told = true;
                slot.request
            })
            .collect()
    }

    /// Whether something runs that was not reported.
    pub(crate) fn has_untold(&self) -> bool {
        self.slots().slots.iter().flatten().any(|slot| !slot.is_told)
    }
}

impl Slots {
    fn count(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}

/// How many requests run, and the oldest of them: `2 requests in flight: write 0x0+0x200 for 3.0 s, flush for 0.1 s`.
pub(crate) fn describe(mut running: Vec<RunningRequest>, now: Moment) -> String {
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
        write!(words, " for {}", seconds(now - request.since)).expect("a string takes everything");
    }
    if running.len() > NAMED_MAX {
        words.push_str(", ...");
    }
    words
}

/// `3.9 s`: cut, never rounded, so that no time is shown that has not passed yet.
pub(crate) fn seconds(duration: Duration) -> String {
    format!("{}.{} s", duration.as_secs(), duration.subsec_millis() / 100)
}

#[cfg(test)]
mod tests {
    use super::*;
    use storage_io::SimulatedClock;

    #[test]
    fn slots_are_used_again_and_the_oldest_is_named_first() {
        let start = SimulatedClock::new().now();
        let request =
            |kind, since| RunningRequest { kind, range: None, attempts: 1, since: start + since, began: start };
        let in_flight = InFlight::default();
        let first = in_flight.insert(request(RequestKind::Read, Duration::ZERO), false);
        in_flight.insert(request(RequestKind::Flush, Duration::from_millis(2040)), false);
        in_flight.remove(first);
        let range = GuestRange::checked(512, 1024);
        let again =
            in_flight.insert(RunningRequest { range, ..request(RequestKind::Write, Duration::from_secs(1)) }, false);
        assert_eq!((again, in_flight.count()), (first, 2));
        let words = describe(in_flight.running(), start + Duration::from_secs(3));
        assert_eq!(words, "2 requests in flight: write 0x200+0x400 for 2.0 s, flush for 0.9 s");
    }

    #[test]
    fn many_requests_are_named_by_the_oldest_few() {
        let since = SimulatedClock::new().now();
        let in_flight = InFlight::default();
        for _ in 0..9 {
            let request = RunningRequest { kind: RequestKind::Flush, range: None, attempts: 1, since, began: since };
            in_flight.insert(request, false);
        }
        let words = describe(in_flight.running(), since);
        assert!(words.starts_with("9 requests in flight: flush for 0.0 s, "), "{words}");
        assert!(words.ends_with(", ...") && words.matches("flush").count() == NAMED_MAX, "{words}");
    }
}
