//! The runs of a mixed granule: sorted by position, no two neighbours that could be one, found by binary search, so
//! that a granule scattered over thirty images answers as fast as one that two images share.
//!
//! ```text
//!   sector of the granule   0        16        24                 4096
//!                           +--------+---------+------------------+
//!                           | hole   | layer 3 | layer 1          |
//!                           +--------+---------+------------------+
//!   run.start               0        16        24
//! ```

use super::word::Word;

/// Where a run begins, in sectors of its granule, and whose it is. It ends where the next one begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) start: u32,
    pub(super) word: Word,
}

/// All runs of one granule; the first starts at sector zero.
#[derive(Debug)]
pub(super) struct Runs(Box<[Run]>);

impl Runs {
    /// Bytes that `count` runs take, with what the allocator and the reference count add.
    pub(super) const fn bytes(count: usize) -> usize {
        count * size_of::<Run>() + 64
    }

    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    pub(super) fn as_slice(&self) -> &[Run] {
        &self.0
    }

    /// The owner of `sector`, as a word that is already advanced to it, and the sector where its run ends (`None`: at
    /// the granule's end).
    pub(super) fn find(&self, sector: u32) -> (Word, Option<u32>) {
        let behind = self.0.partition_point(|run| run.start <= sector);
        let run = self.0[behind - 1];
        (run.word.advanced(u64::from(sector - run.start)), self.0.get(behind).map(|next| next.start))
    }
}

/// Collects runs in ascending order and joins neighbours.
#[derive(Debug, Default)]
pub(super) struct RunBuilder(Vec<Run>);

impl RunBuilder {
    pub(super) fn push(&mut self, run: Run) {
        let joins = self.0.last().is_some_and(|last| last.word.advanced(u64::from(run.start - last.start)) == run.word);
        if !joins {
            self.0.push(run);
        }
    }

    /// The granule's word, and its runs if it is mixed.
    pub(super) fn finish(self) -> (Word, Option<Runs>) {
        match self.0.as_slice() {
            [only] => (only.word, None),
            _ => (Word::MIXED, Some(Runs(self.0.into_boxed_slice()))),
        }
    }
}

/// The runs of a granule of `sectors` sectors, after `word` has taken the place of `start..end`.
pub(super) fn splice(old: &[Run], start: u32, end: u32, sectors: u32, word: Word) -> RunBuilder {
    let mut new = RunBuilder(Vec::with_capacity(old.len() + 2));
    old.iter().take_while(|run| run.start < start).for_each(|run| new.push(*run));
    new.push(Run { start, word });
    if end < sectors {
        let behind = old.partition_point(|run| run.start <= end);
        let cut = old[behind - 1];
        new.push(Run { start: end, word: cut.word.advanced(u64::from(end - cut.start)) });
        old[behind..].iter().for_each(|run| new.push(*run));
    }
    new
}
