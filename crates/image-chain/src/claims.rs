//! Claims: what is more than one in-place I/O holds its range alone.
//!
//! Each queue has one such table, and so has home for its own writes. A claim is asked of every table; it is held when
//! every table has acknowledged it. Reads have no place here: they do not conflict.
//!
//! ```text
//!   claim(range)   new writes that overlap must wait from now on
//!        |         running writes that overlap are counted
//!        v
//!   count == 0     acknowledged: nothing of this table writes there
//!        |
//!        v
//!   release(id)    those who wait may try again
//! ```
//!
//! Pure bookkeeping: the table neither waits nor sends. It gives the acknowledgement `A` back when it is due.

use block_core::GuestRange;
use slab::Slab;

/// Names a claim, over all tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ClaimId(pub(crate) u64);

/// Names a running write within its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WriteId(usize);

struct Claim<A> {
    id: ClaimId,
    range: GuestRange,
    /// Running writes that overlap; none joins them, since new ones wait.
    running: usize,
    /// Given back when `running` is zero.
    acknowledgement: Option<A>,
}

/// The running writes of one table, and the claims on it.
pub(crate) struct Claims<A> {
    running: Slab<GuestRange>,
    claims: Vec<Claim<A>>,
}

impl<A> Default for Claims<A> {
    fn default() -> Self {
        Claims { running: Slab::new(), claims: Vec::new() }
    }
}

impl<A> Claims<A> {
    /// Registers a write, unless a claim has its range: then it waits for a release and tries again.
    pub(crate) fn begin_write(&mut self, range: GuestRange) -> Option<WriteId> {
        let claimed = self.claims.iter().any(|claim| claim.range.overlaps(range));
        (!claimed).then(|| WriteId(self.running.insert(range)))
    }

    /// Ends a write; gives the acknowledgements that are due now.
    #[must_use]
    pub(crate) fn end_write(&mut self, id: WriteId) -> Vec<A> {
        let range = self.running.remove(id.0);
        let overlapping = self.claims.iter_mut().filter(|claim| claim.range.overlaps(range));
        overlapping
            .filter_map(|claim| {
                claim.running -= 1;
                if claim.running == 0 { claim.acknowledgement.take() } else { None }
            })
            .collect()
    }

    /// Claims a range; gives the acknowledgement back if it is due at once.
    #[must_use]
    pub(crate) fn claim(&mut self, id: ClaimId, range: GuestRange, acknowledgement: A) -> Option<A> {
        let running = self.running.iter().filter(|(_, running)| running.overlaps(range)).count();
        let (now, later) = if running == 0 { (Some(acknowledgement), None) } else { (None, Some(acknowledgement)) };
        self.claims.push(Claim { id, range, running, acknowledgement: later });
        now
    }

    /// Ends a claim. Who waits for it may try again.
    pub(crate) fn release(&mut self, id: ClaimId) {
        self.claims.retain(|claim| claim.id != id);
    }

    /// Whether no write runs.
    #[cfg(test)]
    pub(crate) fn is_idle(&self) -> bool {
        self.running.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use block_core::GuestOffset;

    fn range(start: u64, length: u64) -> GuestRange {
        GuestRange::new(GuestOffset::new(start), length)
    }

    #[test]
    fn a_claim_waits_for_the_writes_that_overlap_and_no_others() {
        let mut claims = Claims::default();
        let inside = claims.begin_write(range(0, 512)).unwrap();
        let beside = claims.begin_write(range(4096, 512)).unwrap();
        let across = claims.begin_write(range(512, 4096)).unwrap();
        assert_eq!(claims.claim(ClaimId(1), range(0, 1024), "held"), None);
        assert!(claims.end_write(beside).is_empty());
        assert!(claims.end_write(inside).is_empty());
        assert_eq!(claims.end_write(across), ["held"]);
        assert!(claims.is_idle());
    }

    #[test]
    fn a_write_waits_for_the_claim_until_its_release() {
        let mut claims = Claims::default();
        assert_eq!(claims.claim(ClaimId(1), range(0, 1024), ()), Some(()));
        assert_eq!(claims.begin_write(range(512, 1024)), None);
        assert!(claims.begin_write(range(1024, 512)).is_some(), "beside the claim nothing waits");
        claims.release(ClaimId(1));
        assert!(claims.begin_write(range(512, 1024)).is_some());
    }

    #[test]
    fn a_claim_released_before_its_acknowledgement_leaves_nothing_behind() {
        let mut claims = Claims::default();
        let write = claims.begin_write(range(0, 512)).unwrap();
        assert_eq!(claims.claim(ClaimId(1), range(0, 512), ()), None);
        claims.release(ClaimId(1));
        assert!(claims.end_write(write).is_empty());
    }

    #[test]
    fn one_write_may_end_the_wait_of_several_claims() {
        let mut claims = Claims::default();
        let write = claims.begin_write(range(0, 2048)).unwrap();
        assert_eq!(claims.claim(ClaimId(1), range(0, 512), 1), None);
        assert_eq!(claims.claim(ClaimId(2), range(1024, 512), 2), None);
        assert_eq!(claims.end_write(write), [1, 2]);
    }
}
