//! The owner map: who owns each granule of the disk, over all images of the chain. A lookup costs the same with thirty
//! images as with one, on any thread, without a lock.
//!
//! ```text
//!   directory      page (512 words)          runs of a mixed granule
//!   +------+       +---------------------+
//!   |   o--+-----> | layer 2 @ 0x801200  |
//!   +------+       | hole                |      +------+---------+---------+
//!   | none |       | mixed  o------------+----> | hole | layer 3 | layer 1 |
//!   +------+       | unknown             |      +------+---------+---------+
//!   |   o--+-->    +---------------------+
//!   +------+
//! ```
//!
//! It is a cache, never the truth: any page may go at any time, `unknown` (for a granule, or for a run of a mixed one)
//! means "ask home", and the chain gives the same bytes with a map of zero bytes. [`OwnerMap`] is the readers' side; [`OwnerWriter`] is the one writer's, held by home,
//! which keeps the byte bound by giving up pages that nobody has used lately.

mod page;
mod runs;
mod word;
mod writer;

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use block_core::{GuestOffset, GuestRange, SECTOR};

use crate::piece::Piece;
use page::{PAGE_WORDS, Page};
use word::Meaning;

pub(crate) use writer::OwnerWriter;

/// The directory has at most this many entries; on a disk with more pages a word covers several granules.
const DIRECTORY_ENTRIES_MAX: u64 = 1 << 18;

/// The readers' side: who owns a range.
pub(crate) struct OwnerMap {
    size: u64,
    /// Bytes that one word is about, a power of two.
    unit: u64,
    directory: Box<[ArcSwapOption<Page>]>,
}

impl OwnerMap {
    fn new(size: u64, granule: u64) -> OwnerMap {
        assert!(granule.is_power_of_two() && granule >= SECTOR, "a granule is a power of two of sectors");
        let mut unit = granule;
        while size.div_ceil(unit).div_ceil(PAGE_WORDS as u64) > DIRECTORY_ENTRIES_MAX {
            unit *= 2;
        }
        let pages = size.div_ceil(unit).div_ceil(PAGE_WORDS as u64);
        OwnerMap { size, unit, directory: (0..pages).map(|_| ArcSwapOption::empty()).collect() }
    }

    /// The first piece of `range`, a range of whole sectors on the disk; `None` when only home knows.
    pub(crate) fn lookup(&self, range: GuestRange) -> Option<Piece> {
        let (page, slot) = self.position(range.start());
        let page = self.directory[page].load();
        let page = page.as_ref()?;
        page.mark_used();
        let unit = self.unit_at(range.start());
        let part = unit.intersection(range)?;
        match page.word(slot).meaning() {
            Meaning::Unknown => None,
            Meaning::Whole(owner) => Some(Piece { range: part, owner: owner.advanced(part.start() - unit.start()) }),
            Meaning::Mixed => {
                let runs = page.runs(slot)?;
                let runs = Option::as_ref(&runs)?;
                let (word, end) = runs.find(sectors(part.start() - unit.start()));
                let Meaning::Whole(owner) = word.meaning() else { return None };
                let end = end.map_or(part.end(), |end| part.end().min(unit.start() + u64::from(end) * SECTOR));
                Some(Piece { range: GuestRange::new(part.start(), end - part.start()), owner })
            }
        }
    }

    /// The part of the disk that one word is about: the one that holds `position`.
    pub(crate) fn unit_at(&self, position: GuestOffset) -> GuestRange {
        let start = position.align_down(self.unit);
        GuestRange::new(start, self.unit.min(self.size - start.get()))
    }

    /// The page and the slot on it of the unit at `position`.
    fn position(&self, position: GuestOffset) -> (usize, usize) {
        let unit = usize::try_from(position.get() / self.unit).expect("a disk's units fit its directory");
        (unit / PAGE_WORDS, unit % PAGE_WORDS)
    }

    fn page(&self, index: usize) -> Option<Arc<Page>> {
        self.directory[index].load_full()
    }
}

impl std::fmt::Debug for OwnerMap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "OwnerMap({} bytes in units of {})", self.size, self.unit)
    }
}

/// Bytes inside a unit, in sectors.
fn sectors(bytes: u64) -> u32 {
    u32::try_from(bytes / SECTOR).expect("a unit is far smaller than 2 TiB")
}
