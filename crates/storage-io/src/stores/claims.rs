//! Who may write to which bytes now: claims and shares of ranges, served in the order of their arrival.
//!
//! ```text
//!   conflict:  share | claim        an entry waits for every earlier entry that it overlaps and conflicts with,
//!     share      no  |  yes         also for those that wait themselves: so none is overtaken for ever
//!     claim     yes  |  yes
//! ```

use std::{
    future::poll_fn,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use block_core::FileRange;

/// Whether others may be on the same range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// With other shares.
    Share,
    /// Alone.
    Claim,
}

/// The entries of one storage. Clones are the same table; entries may come from any thread.
#[derive(Clone, Default)]
pub(super) struct Claims(Arc<Mutex<Table>>);

#[derive(Default)]
struct Table {
    /// In the order of arrival.
    entries: Vec<Entry>,
    next: u64,
}

struct Entry {
    id: u64,
    range: FileRange,
    kind: Kind,
    granted: bool,
    waiter: Option<Waker>,
}

impl Entry {
    fn conflicts_with(&self, other: &Entry) -> bool {
        (self.kind == Kind::Claim || other.kind == Kind::Claim) && self.range.overlaps(other.range)
    }
}

impl Claims {
    /// Enters a range. It is held until what is returned is dropped.
    pub(super) fn enter(&self, range: FileRange, kind: Kind) -> Claim {
        let mut table = self.table();
        table.next += 1;
        let mut entry = Entry { id: table.next, range, kind, granted: false, waiter: None };
        entry.granted = !table.entries.iter().any(|earlier| earlier.conflicts_with(&entry));
        let id = entry.id;
        table.entries.push(entry);
        Claim { claims: self.clone(), id }
    }

    /// The lock guards the list; nothing waits while it is held.
    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn entry(&mut self, id: u64) -> &mut Entry {
        self.entries.iter_mut().find(|entry| entry.id == id).expect("an entry stays until it is dropped")
    }

    /// Grants what nothing stands before any more; gives who waits for it.
    fn grant(&mut self) -> Vec<Waker> {
        let mut wakers = Vec::new();
        for index in 0..self.entries.len() {
            let (earlier, rest) = self.entries.split_at_mut(index);
            let entry = &mut rest[0];
            if !entry.granted && !earlier.iter().any(|earlier| earlier.conflicts_with(entry)) {
                entry.granted = true;
                wakers.extend(entry.waiter.take());
            }
        }
        wakers
    }
}

/// An entry: dropping it lets others in.
#[must_use = "an entry that is dropped protects nothing"]
pub(super) struct Claim {
    claims: Claims,
    id: u64,
}

impl Claim {
    /// Whether its turn has come.
    pub(super) fn is_granted(&self) -> bool {
        self.claims.table().entry(self.id).granted
    }

    /// Ends when its turn has come.
    pub(super) async fn granted(&self) {
        poll_fn(|cx| self.poll(cx)).await;
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut table = self.claims.table();
        let entry = table.entry(self.id);
        if entry.granted {
            return Poll::Ready(());
        }
        entry.waiter = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut table = self.claims.table();
        table.entries.retain(|entry| entry.id != self.id);
        let wakers = table.grant();
        drop(table);
        wakers.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use block_core::FileOffset;

    use super::*;

    fn range(start: u64, length: u64) -> FileRange {
        FileRange::new(FileOffset::new(start), length)
    }

    #[test]
    fn a_claim_waits_for_the_shares_before_it_and_shares_wait_for_it() {
        let claims = Claims::default();
        let first = claims.enter(range(0, 8), Kind::Share);
        let second = claims.enter(range(4, 8), Kind::Share);
        let claim = claims.enter(range(4, 4), Kind::Claim);
        let behind = claims.enter(range(0, 5), Kind::Share);
        let beside = claims.enter(range(8, 4), Kind::Share);
        assert!(first.is_granted() && second.is_granted() && beside.is_granted());
        assert!(!claim.is_granted() && !behind.is_granted(), "a share does not overtake a claim that waits");
        drop(first);
        assert!(!claim.is_granted());
        drop(second);
        assert!(claim.is_granted() && !behind.is_granted());
        drop(claim);
        assert!(behind.is_granted());
    }

    #[test]
    fn an_entry_that_gives_up_waiting_lets_those_behind_it_pass() {
        let claims = Claims::default();
        let _held = claims.enter(range(0, 8), Kind::Share);
        let waiting = claims.enter(range(0, 8), Kind::Claim);
        let behind = claims.enter(range(0, 8), Kind::Share);
        drop(waiting);
        assert!(behind.is_granted());
    }
}
