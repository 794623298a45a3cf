//! A page of the owner map: the words of neighbouring granules, and the runs of those that are mixed. Any thread reads
//! it; one writer changes it.
//!
//! The runs are stored before the word that points to them, and taken away after the word has changed. A reader who saw
//! the word `mixed` and finds no runs has met a change, and asks home.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use arc_swap::ArcSwapOption;

use super::{runs::Runs, word::Word};

/// Granules on a page: with 2 MiB granules it covers 1 GiB of disk.
pub(super) const PAGE_WORDS: usize = 512;
/// Bytes of a page without mixed granules.
pub(super) const PAGE_BYTES: usize = PAGE_WORDS * size_of::<AtomicU64>() + 64;
/// Bytes that a page's first mixed granule adds, without its runs.
pub(super) const RUN_TABLE_BYTES: usize = PAGE_WORDS * size_of::<ArcSwapOption<Runs>>() + 64;

type RunTable = Box<[ArcSwapOption<Runs>]>;

pub(super) struct Page {
    words: [AtomicU64; PAGE_WORDS],
    runs: OnceLock<RunTable>,
    /// Set by readers, cleared by the writer when it looks for pages to give up.
    used: AtomicBool,
}

impl Page {
    pub(super) fn new() -> Page {
        let words = [const { AtomicU64::new(Word::UNKNOWN.bits()) }; PAGE_WORDS];
        Page { words, runs: OnceLock::new(), used: AtomicBool::new(true) }
    }

    pub(super) fn word(&self, slot: usize) -> Word {
        Word::from_bits(self.words[slot].load(Ordering::Acquire))
    }

    pub(super) fn runs(&self, slot: usize) -> Option<arc_swap::Guard<Option<Arc<Runs>>>> {
        Some(self.runs.get()?[slot].load())
    }

    /// Bytes of the runs that a slot holds.
    pub(super) fn run_bytes(&self, slot: usize) -> usize {
        let runs = self.runs(slot);
        runs.and_then(|runs| runs.as_ref().map(|runs| Runs::bytes(runs.count()))).unwrap_or(0)
    }

    pub(super) fn has_run_table(&self) -> bool {
        self.runs.get().is_some()
    }

    /// The writer's way to change a slot.
    pub(super) fn set(&self, slot: usize, word: Word, runs: Option<Runs>) {
        if let Some(runs) = runs {
            self.run_table()[slot].store(Some(Arc::new(runs)));
            self.words[slot].store(word.bits(), Ordering::Release);
        } else {
            self.words[slot].store(word.bits(), Ordering::Release);
            if let Some(table) = self.runs.get() {
                table[slot].store(None);
            }
        }
    }

    fn run_table(&self) -> &RunTable {
        self.runs.get_or_init(|| (0..PAGE_WORDS).map(|_| ArcSwapOption::empty()).collect())
    }

    /// Written only when it changes something: readers of many threads share the line.
    pub(super) fn mark_used(&self) {
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
    }

    pub(super) fn take_used(&self) -> bool {
        self.used.swap(false, Ordering::Relaxed)
    }
}
