//! The writer's side of the owner map: it remembers what a walk found and what a commit changed, forgets what was freed,
//! and stays under its bound of bytes.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use block_core::{GuestOffset, GuestRange};

use super::{
    OwnerMap,
    page::{PAGE_BYTES, Page, RUN_TABLE_BYTES},
    runs::{Run, RunBuilder, Runs, splice},
    sectors,
    word::{Meaning, Word},
};
use crate::piece::{Owner, Piece};

/// The one writer of an owner map.
#[derive(Debug)]
pub(crate) struct OwnerWriter {
    map: Arc<OwnerMap>,
    bytes_max: usize,
    bytes: usize,
    /// Bytes of each page that exists.
    pages: HashMap<usize, usize>,
    /// The same pages in the order in which they are looked at when room is needed.
    hand: VecDeque<usize>,
}

impl OwnerWriter {
    /// An empty map of a disk of `size` bytes that takes at most `bytes_max` bytes for its pages. (The directory comes
    /// on top: 8 bytes for each GiB of a disk with 2 MiB granules.)
    pub(crate) fn new(size: u64, granule: u64, bytes_max: usize) -> OwnerWriter {
        let map = Arc::new(OwnerMap::new(size, granule));
        OwnerWriter { map, bytes_max, bytes: 0, pages: HashMap::new(), hand: VecDeque::new() }
    }

    /// The readers' side.
    pub(crate) fn map(&self) -> &Arc<OwnerMap> {
        &self.map
    }

    /// Whether it can remember anything at all: filling a map without room is a walk for nothing.
    pub(crate) fn has_room(&self) -> bool {
        self.bytes_max >= PAGE_BYTES
    }

    /// Whether the unit that holds `position` is remembered.
    pub(crate) fn knows(&self, position: GuestOffset) -> bool {
        let (page, slot) = self.map.position(position);
        self.map.page(page).is_some_and(|page| page.word(slot) != Word::UNKNOWN)
    }

    /// Remembers a unit: where its runs start, from its own start on, and who owns them, if that is known.
    pub(crate) fn store(&mut self, unit: GuestRange, runs: impl IntoIterator<Item = (GuestOffset, Option<Owner>)>) {
        let mut builder = RunBuilder::default();
        for (start, owner) in runs {
            let word = owner.and_then(Word::of).unwrap_or(Word::UNKNOWN);
            builder.push(Run { start: sectors(start - unit.start()), word });
        }
        let (word, runs) = builder.finish();
        self.set(unit, word, runs);
    }

    /// Remembers that `range` now has `owner`, where the rest of its unit is known or the range fills the unit.
    pub(crate) fn overlay(&mut self, range: GuestRange, owner: Owner) {
        let mut rest = range;
        while !rest.is_empty() {
            let unit = self.map.unit_at(rest.start());
            let (part, behind) = rest.split_at(unit.end() - rest.start());
            self.overlay_unit(unit, Piece { range: part, owner: owner.advanced(part.start() - range.start()) });
            rest = behind;
        }
    }

    fn overlay_unit(&mut self, unit: GuestRange, piece: Piece) {
        if piece.range == unit {
            return self.store(unit, [(unit.start(), Some(piece.owner))]);
        }
        let (page, slot) = self.map.position(unit.start());
        let Some(page) = self.map.page(page) else { return };
        let word = Word::of(piece.owner).unwrap_or(Word::UNKNOWN);
        let (start, end) = (piece.range.start() - unit.start(), piece.range.end() - unit.start());
        let (start, end, length) = (sectors(start), sectors(end), sectors(unit.length()));
        let old = page.word(slot);
        let builder = match old.meaning() {
            Meaning::Unknown => return,
            Meaning::Whole(_) => splice(&[Run { start: 0, word: old }], start, end, length, word),
            Meaning::Mixed => {
                let runs = page.runs(slot).expect("a mixed word has runs: the writer stored them first");
                let runs = Option::as_ref(&runs).expect("a mixed word has runs: the writer stored them first");
                splice(runs.as_slice(), start, end, length, word)
            }
        };
        let (word, runs) = builder.finish();
        self.set(unit, word, runs);
    }

    /// Forgets every unit that `range` touches.
    pub(crate) fn forget(&mut self, range: GuestRange) {
        let mut rest = range;
        while !rest.is_empty() {
            let unit = self.map.unit_at(rest.start());
            let (page, slot) = self.map.position(unit.start());
            if let Some(page_now) = self.map.page(page) {
                self.account(page, page_now.run_bytes(slot), 0);
                page_now.set(slot, Word::UNKNOWN, None);
            }
            rest = rest.split_at(unit.end() - rest.start()).1;
        }
    }

    /// Changes a unit, if there is or can be room for what it needs; forgets it otherwise.
    fn set(&mut self, unit: GuestRange, word: Word, runs: Option<Runs>) {
        let (index, slot) = self.map.position(unit.start());
        let existing = self.map.page(index);
        let old = existing.as_ref().map_or(0, |page| page.run_bytes(slot));
        let new = runs.as_ref().map_or(0, |runs| Runs::bytes(runs.count()));
        let table = match &existing {
            Some(page) if runs.is_none() || page.has_run_table() => 0,
            None if runs.is_none() => 0,
            _ => RUN_TABLE_BYTES,
        };
        let page_bytes = if existing.is_some() { 0 } else { PAGE_BYTES };
        if !self.make_room(index, (new + table + page_bytes).saturating_sub(old)) {
            return self.forget(unit);
        }
        let page = existing.unwrap_or_else(|| self.add_page(index));
        self.account(index, old, new + table);
        page.set(slot, word, runs);
    }

    fn add_page(&mut self, index: usize) -> Arc<Page> {
        let page = Arc::new(Page::new());
        self.map.directory[index].store(Some(page.clone()));
        self.pages.insert(index, PAGE_BYTES);
        self.bytes += PAGE_BYTES;
        self.hand.push_back(index);
        page
    }

    fn account(&mut self, page: usize, less: usize, more: usize) {
        self.bytes = self.bytes + more - less;
        let bytes = self.pages.get_mut(&page).expect("a page that changes exists");
        *bytes = *bytes + more - less;
    }

    /// Gives up pages that were not used since they were last looked at, never `keep`, until `bytes` more fit.
    fn make_room(&mut self, keep: usize, bytes: usize) -> bool {
        // Each page is looked at twice at most: once to clear its mark, once to go.
        let mut looks = 2 * self.hand.len();
        while self.bytes + bytes > self.bytes_max {
            if looks == 0 {
                return false;
            }
            looks -= 1;
            let Some(index) = self.hand.pop_front() else { return false };
            let used = self.map.page(index).is_some_and(|page| page.take_used());
            if used || index == keep {
                self.hand.push_back(index);
            } else {
                self.map.directory[index].store(None);
                self.bytes -= self.pages.remove(&index).expect("each page has its count of bytes");
            }
        }
        true
    }
}

#[cfg(test)]
mod tests;
