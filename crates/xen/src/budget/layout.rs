//! Where the words are in the file that processes share.
//!
//! ```text
//!   0      "oxgrants"
//!   64     limits: copies (bits 0 to 31) | mapped (32 to 63)
//!   128    tickets          192  total of copies          256  total of mapped
//!   320    waits that have ended, and (328) their nanoseconds
//!   512    waiting: 16 words of 64 disks
//!   4096   doorbells of processes, 4 bytes each
//!   8192   disks, 64 bytes each:
//!          owner | ticket | called | copies | copies wanted | mapped | mapped wanted | -
//! ```
//!
//! A file of zeroes is a table that nobody uses. Words that all write are in lines of their own.

use super::words::{OWNERS, SLOTS, Slot, Use, Word};

/// What the first word holds.
pub(super) const MAGIC: u64 = u64::from_le_bytes(*b"oxgrants");
pub(super) const MAGIC_AT: usize = 0;
pub(super) const LIMITS_AT: usize = 64;
pub(super) const WAITS_AT: usize = 320;
pub(super) const WAITED_NS_AT: usize = WAITS_AT + 8;
pub(super) const WAITING_WORDS: usize = SLOTS / 64;
pub(super) const BYTES: usize = SLOTS_AT + SLOTS * SLOT_BYTES;

const TICKETS_AT: usize = 128;
const TOTALS_AT: usize = 192;
const WAITING_AT: usize = 512;
const DOORBELLS_AT: usize = 4096;
const SLOTS_AT: usize = DOORBELLS_AT + OWNERS * 4;
const SLOT_BYTES: usize = 64;

const _: () = assert!(BYTES.is_multiple_of(crate::PAGE_BYTES) && WAITING_AT + WAITING_WORDS * 8 <= DOORBELLS_AT);

/// Where a word is.
pub(super) fn place(word: Word) -> usize {
    let of = |slot: Slot, word: usize| SLOTS_AT + slot.index() * SLOT_BYTES + word * 8;
    let number = |what| usize::from(what == Use::Mapped);
    match word {
        Word::Tickets => TICKETS_AT,
        Word::Total(what) => TOTALS_AT + number(what) * 64,
        Word::Waiting(word) => WAITING_AT + word * 8,
        Word::Owner(slot) => of(slot, 0),
        Word::Ticket(slot) => of(slot, 1),
        Word::Called(slot) => of(slot, 2),
        Word::Share(what, slot) => of(slot, 3 + number(what) * 2),
        Word::Wanted(what, slot) => of(slot, 4 + number(what) * 2),
    }
}

/// Where the doorbell of a process is.
pub(super) fn doorbell(owner: u16) -> usize {
    DOORBELLS_AT + usize::from(owner) * 4
}

/// All disks.
pub(super) fn slots() -> impl Iterator<Item = Slot> {
    (0..u16::try_from(SLOTS).expect("ten bits")).map(Slot)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_two_words_share_a_place() {
        let mut places = HashSet::from([MAGIC_AT, LIMITS_AT, WAITS_AT, WAITED_NS_AT]);
        let mut words = vec![Word::Tickets];
        words.extend((0..WAITING_WORDS).map(Word::Waiting));
        words.extend([Use::Copies, Use::Mapped].map(Word::Total));
        for slot in slots() {
            words.extend([Word::Owner(slot), Word::Ticket(slot), Word::Called(slot)]);
            for what in [Use::Copies, Use::Mapped] {
                words.extend([Word::Share(what, slot), Word::Wanted(what, slot)]);
            }
        }
        for word in words {
            assert!(places.insert(place(word)) && place(word) + 8 <= BYTES, "{word:?}");
        }
        for owner in (0..1024).step_by(2) {
            assert!(places.insert(doorbell(owner)) && doorbell(owner + 1) == doorbell(owner) + 4);
        }
    }
}
