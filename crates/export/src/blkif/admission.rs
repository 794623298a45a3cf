//! Asking the host's budget before pages of a guest are copied.
//!
//! A ring that has to wait is not advanced: what it has taken stays where it is, and the thread goes on with other rings.

use std::task::{Poll, Waker};

use storage_io::{Executor, Moment};
use xen::budget::{Permit, Share, Waiter};

use super::controls::RingCounters;

/// One of a ring's two ways to copy: from the guest, or to it. Both may wait at the same time.
#[derive(Debug)]
pub(super) struct Admission {
    /// None: nothing is limited.
    waiter: Option<Waiter>,
    share: Option<Share>,
    since: Option<Moment>,
    waits: u64,
    waited_ns: u64,
}

/// Leave to copy; dropping it lets others.
#[derive(Debug)]
pub(super) struct Admitted {
    permit: Option<Permit>,
}

impl Admitted {
    /// Pages that may be copied in one call.
    pub(super) fn at_once(&self) -> usize {
        self.permit.as_ref().map_or(usize::MAX, |permit| permit.pages() as usize)
    }
}

impl Admission {
    pub(super) fn new(share: Option<&Share>) -> Admission {
        Admission { waiter: share.map(Share::waiter), share: share.cloned(), since: None, waits: 0, waited_ns: 0 }
    }

    /// Whether it was asked and had no room.
    pub(super) fn is_waiting(&self) -> bool {
        self.since.is_some()
    }

    /// How many of these, from the first on, are admitted together, and their pages: at least one, and then as many as fit
    /// into one batch.
    pub(super) fn batch(&self, needs: impl Iterator<Item = u32>) -> (usize, u32) {
        let most = self.share.as_ref().map_or(u32::MAX, Share::batch_pages);
        let (mut count, mut pages) = (0, 0_u32);
        for need in needs {
            let all = pages.saturating_add(need);
            if count > 0 && all > most {
                break;
            }
            (count, pages) = (count + 1, all);
        }
        (count, pages)
    }

    /// Asks for so many pages; `waker` is woken when it is worth while to ask again.
    pub(super) fn poll(&mut self, pages: u32, executor: &Executor, waker: &Waker) -> Poll<Admitted> {
        let Some(waiter) = self.waiter.as_mut().filter(|_| pages > 0) else {
            return Poll::Ready(Admitted { permit: None });
        };
        let Poll::Ready(permit) = waiter.poll(pages, waker) else {
            if self.since.is_none() {
                self.since = Some(executor.now());
                self.waits += 1;
            }
            return Poll::Pending;
        };
        self.has_waited(executor);
        Poll::Ready(Admitted { permit: Some(permit) })
    }

    /// Does not wait any more, and is in nobody's way: of the rings of a disk only the first takes, so one that is not
    /// asked for would hold up all. Who polls again stands behind the others.
    pub(super) fn leave(&mut self, executor: &Executor) {
        if self.is_waiting() {
            self.waiter = self.share.as_ref().map(Share::waiter);
            self.has_waited(executor);
        }
    }

    fn has_waited(&mut self, executor: &Executor) {
        if let Some(since) = self.since.take() {
            let waited = executor.now() - since;
            self.waited_ns += u64::try_from(waited.as_nanos()).unwrap_or(u64::MAX);
            self.share.iter().for_each(|share| share.count_wait(waited));
        }
    }

    /// Adds what was waited.
    pub(super) fn count(&self, counters: &mut RingCounters) {
        counters.throttled += self.waits;
        counters.throttled_ns += self.waited_ns;
    }
}
