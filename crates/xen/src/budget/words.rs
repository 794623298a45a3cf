//! The words of the table: what they mean, and how they are reached. Everything in it fits into single words, since a
//! process may be killed between any two of its accesses.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// Pages that one kind of use can count, at most.
pub(super) const PAGES_MAX: u32 = (1 << PAGE_BITS) - 1;
/// Disks that a table has room for.
pub(super) const SLOTS: usize = 1 << SLOT_BITS;
/// Processes that a table has room for.
pub(super) const OWNERS: usize = 1024;

const PAGE_BITS: u32 = 20;
const SLOT_BITS: u32 = 10;
const TURN_BITS: u32 = 64 - PAGE_BITS - SLOT_BITS;

/// What pages are used for. Each has a limit of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Use {
    /// They are being copied.
    Copies,
    /// They are mapped.
    Mapped,
}

/// The disk whose entry in the table is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Slot(pub(super) u16);

impl Slot {
    pub(super) fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// A word of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Word {
    /// How many tickets were given to those who wait.
    Tickets,
    /// A [`Total`]: what all use together, and who changed it last.
    Total(Use),
    /// One bit for each of 64 disks: it waits in line.
    Waiting(usize),
    /// Whose the disk is: a process, or 0.
    Owner(Slot),
    /// A place in the line; the smallest is the first.
    Ticket(Slot),
    /// It shall look again whether there is room for it.
    Called(Slot),
    /// A [`Share`]: what the disk uses.
    Share(Use, Slot),
    /// A [`Share`]: what it shall become by the change that is under way.
    Wanted(Use, Slot),
}

/// Where the words are. All accesses are in one order that everybody agrees about.
pub(super) trait Words {
    fn word(&self, word: Word) -> &AtomicU64;

    /// How many words the line of those who wait has.
    fn waiting_words(&self) -> usize;

    /// Tells whoever sleeps for this disk to look again.
    fn call(&self, slot: Slot);

    fn load(&self, word: Word) -> u64 {
        self.word(word).load(SeqCst)
    }

    fn store(&self, word: Word, value: u64) {
        self.word(word).store(value, SeqCst);
    }

    /// Puts `new` in if it is still as it was; says whether.
    fn exchange(&self, word: Word, current: u64, new: u64) -> bool {
        self.word(word).compare_exchange(current, new, SeqCst, SeqCst).is_ok()
    }

    /// Adds one; gives what it was.
    fn count(&self, word: Word) -> u64 {
        self.word(word).fetch_add(1, SeqCst)
    }

    fn set(&self, word: Word, bits: u64) {
        self.word(word).fetch_or(bits, SeqCst);
    }

    fn clear(&self, word: Word, bits: u64) {
        self.word(word).fetch_and(!bits, SeqCst);
    }
}

/// The word and the bit that say that a disk waits.
pub(super) fn waiting_bit(slot: Slot) -> (Word, u64) {
    (Word::Waiting(slot.index() / 64), 1 << (slot.0 % 64))
}

/// What all use together. It names the disk that changed it last: whose share may still have to follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Total {
    pub(super) pages: u32,
    pub(super) slot: Slot,
    /// Counts the changes.
    pub(super) turn: u64,
}

/// What one disk uses, and since which change of the total.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Share {
    pub(super) pages: u32,
    pub(super) turn: u64,
}

fn low(value: u64, bits: u32) -> u64 {
    value & ((1 << bits) - 1)
}

fn pages_of(word: u64) -> u32 {
    u32::try_from(low(word, PAGE_BITS)).expect("twenty bits")
}

impl Total {
    pub(super) fn decode(word: u64) -> Total {
        let slot = u16::try_from(low(word >> PAGE_BITS, SLOT_BITS)).expect("ten bits");
        Total { pages: pages_of(word), slot: Slot(slot), turn: word >> (PAGE_BITS + SLOT_BITS) }
    }

    pub(super) fn encode(self) -> u64 {
        let slot = u64::from(self.slot.0) << PAGE_BITS;
        u64::from(self.pages) | slot | self.turn << (PAGE_BITS + SLOT_BITS)
    }

    /// After a change by `slot`, of which another share of it comes.
    pub(super) fn changed(self, slot: Slot, before: Share, after: u32) -> (Total, Share) {
        let turn = low(self.turn + 1, TURN_BITS);
        // A table that somebody has written to at random is not to end us.
        let pages = (self.pages + after).saturating_sub(before.pages).min(PAGES_MAX);
        (Total { pages, slot, turn }, Share { pages: after, turn })
    }
}

impl Share {
    pub(super) fn decode(word: u64) -> Share {
        Share { pages: pages_of(word), turn: low(word >> PAGE_BITS, TURN_BITS) }
    }

    pub(super) fn encode(self) -> u64 {
        u64::from(self.pages) | self.turn << PAGE_BITS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_and_shares_are_words() {
        let total = Total { pages: PAGES_MAX, slot: Slot(1023), turn: low(u64::MAX, TURN_BITS) };
        assert_eq!(Total::decode(total.encode()), total);
        let share = Share { pages: 7, turn: low(u64::MAX, TURN_BITS) };
        assert_eq!(Share::decode(share.encode()), share);
        assert_eq!((Total::decode(0).turn, Share::decode(0).turn), (0, 0), "an empty table has nothing under way");
    }

    #[test]
    fn turns_begin_again_at_zero() {
        let total = Total { pages: 5, slot: Slot(3), turn: low(u64::MAX, TURN_BITS) };
        let (total, share) = total.changed(Slot(9), Share { pages: 1, turn: 77 }, 4);
        assert_eq!(total, Total { pages: 8, slot: Slot(9), turn: 0 });
        assert_eq!(share, Share { pages: 4, turn: 0 });
    }
}
