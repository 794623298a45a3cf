//! Where a write that failed may have left its bytes: sectors that are not present, and not zero either.
//!
//! Nobody sees them, until a later write of the same sector makes its bit and loses power before its data: then they
//! would come to light, over what was zeroed and flushed meanwhile. So they are zeroed before that write gets its place.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::Bitmap;

/// Such sectors, by block. There are as many as writes failed.
#[derive(Debug, Default)]
pub(super) struct Stale(BTreeMap<usize, Bitmap>);

impl Stale {
    /// A write to these sectors failed; but those that are present, or that somebody else is writing, are none of ours.
    pub(super) fn add(&mut self, block: usize, sectors: Range<usize>, decided: &Bitmap) {
        let mut open = decided.runs(sectors).filter(|(is_decided, _)| !is_decided).peekable();
        if open.peek().is_some() {
            let stale = self.0.entry(block).or_insert_with(|| Bitmap::new(decided.bits()));
            open.for_each(|(_, run)| stale.set_range(run));
        }
    }

    /// Which of these sectors they are.
    pub(super) fn within(&self, block: usize, sectors: Range<usize>) -> Vec<Range<usize>> {
        let stale = self.0.get(&block).into_iter().flat_map(|stale| stale.runs(sectors.clone()));
        stale.filter(|(is_stale, _)| *is_stale).map(|(_, run)| run).collect()
    }

    /// These sectors are zero.
    pub(super) fn remove(&mut self, block: usize, runs: &[Range<usize>]) {
        let Some(stale) = self.0.get_mut(&block) else { return };
        runs.iter().for_each(|run| stale.clear_range(run.clone()));
        if stale.is_empty() {
            self.0.remove(&block);
        }
    }

    /// The block has lost its room.
    pub(super) fn forget(&mut self, block: usize) {
        self.0.remove(&block);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_decided_otherwise_is_never_stale() {
        let mut decided = Bitmap::new(16);
        decided.set_range(2..4);
        let mut stale = Stale::default();
        stale.add(7, 0..6, &decided);
        assert_eq!(stale.within(7, 0..16), [0..2, 4..6]);
        assert_eq!(stale.within(7, 1..3), [Range { start: 1, end: 2 }]);
        stale.add(8, 2..4, &decided);
        assert!(stale.within(8, 0..16).is_empty());
    }

    #[test]
    fn what_is_zero_again_is_forgotten() {
        let mut stale = Stale::default();
        stale.add(7, 0..6, &Bitmap::new(16));
        stale.remove(7, &[Range { start: 0, end: 5 }]);
        assert_eq!(stale.within(7, 0..16), [Range { start: 5, end: 6 }]);
        stale.remove(7, &[Range { start: 5, end: 6 }]);
        assert!(stale.0.is_empty());
        stale.add(7, 0..6, &Bitmap::new(16));
        stale.forget(7);
        assert!(stale.0.is_empty());
    }
}
