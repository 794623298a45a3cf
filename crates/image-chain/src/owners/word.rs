//! One word says who owns a granule, or a run inside one.
//!
//! ```text
//!   63        48 47                                      2 1   0
//!  +------------+----------------------------------------+-----+
//!  |  layer id  |  first sector in that layer's storage  | tag |    tag: unknown | hole | data | mixed
//!  +------------+----------------------------------------+-----+
//! ```

use block_core::{FileOffset, SECTOR};

use crate::piece::{LayerId, Owner};

const TAG_BITS: u32 = 2;
const LAYER_SHIFT: u32 = 48;
/// The first sector that does not fit: 2^46, that is 32 PiB into a file.
const SECTORS_END: u64 = 1 << (LAYER_SHIFT - TAG_BITS);

const TAG_UNKNOWN: u64 = 0;
const TAG_HOLE: u64 = 1;
const TAG_DATA: u64 = 2;
const TAG_MIXED: u64 = 3;

/// An owner in 64 bits, or the word that there is none to tell here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word(u64);

/// What a granule's word says.
pub(super) enum Meaning {
    /// Ask home.
    Unknown,
    /// One owner for the whole granule.
    Whole(Owner),
    /// Several; the runs tell.
    Mixed,
}

impl Word {
    pub(super) const UNKNOWN: Word = Word(TAG_UNKNOWN);
    pub(super) const MIXED: Word = Word(TAG_MIXED);

    /// The word of an owner; `None` for a place that has no word (not on a sector, or too far into its file), which then
    /// is simply not remembered.
    pub(super) fn of(owner: Owner) -> Option<Word> {
        match owner {
            Owner::Hole => Some(Word(TAG_HOLE)),
            Owner::Data { layer, offset } => {
                let sector = offset.get() / SECTOR;
                let fits = offset.is_aligned(SECTOR) && sector < SECTORS_END;
                fits.then(|| Word(u64::from(layer.0) << LAYER_SHIFT | sector << TAG_BITS | TAG_DATA))
            }
        }
    }

    pub(super) fn meaning(self) -> Meaning {
        match self.0 & ((1 << TAG_BITS) - 1) {
            TAG_HOLE => Meaning::Whole(Owner::Hole),
            TAG_DATA => {
                let layer = LayerId(u16::try_from(self.0 >> LAYER_SHIFT).expect("sixteen bits are left"));
                let sector = (self.0 >> TAG_BITS) & (SECTORS_END - 1);
                Meaning::Whole(Owner::Data { layer, offset: FileOffset::new(sector * SECTOR) })
            }
            TAG_MIXED => Meaning::Mixed,
            _ => Meaning::Unknown,
        }
    }

    pub(super) const fn from_bits(bits: u64) -> Word {
        Word(bits)
    }

    pub(super) const fn bits(self) -> u64 {
        self.0
    }

    /// The word of what lies `sectors` behind the start of this word's run, in the same run.
    pub(super) fn advanced(self, sectors: u64) -> Word {
        if self.0 & ((1 << TAG_BITS) - 1) == TAG_DATA { Word(self.0 + (sectors << TAG_BITS)) } else { self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(owner: Owner) -> Option<Owner> {
        match Word::of(owner)?.meaning() {
            Meaning::Whole(owner) => Some(owner),
            _ => None,
        }
    }

    #[test]
    fn every_owner_survives_its_word() {
        let last = FileOffset::new((SECTORS_END - 1) * SECTOR);
        for owner in [
            Owner::Hole,
            Owner::Data { layer: LayerId(0), offset: FileOffset::new(0) },
            Owner::Data { layer: LayerId(u16::MAX), offset: last },
        ] {
            assert_eq!(round_trip(owner), Some(owner));
        }
    }

    #[test]
    fn places_without_a_word_are_not_remembered() {
        let layer = LayerId(1);
        assert_eq!(Word::of(Owner::Data { layer, offset: FileOffset::new(100) }), None);
        assert_eq!(Word::of(Owner::Data { layer, offset: FileOffset::new(SECTORS_END * SECTOR) }), None);
    }

    #[test]
    fn advancing_a_word_advances_its_owner() {
        let owner = Owner::Data { layer: LayerId(7), offset: FileOffset::new(4096) };
        let word = Word::of(owner).unwrap();
        assert_eq!(Some(word.advanced(3)), Word::of(owner.advanced(3 * SECTOR)));
        assert_eq!(Word::of(Owner::Hole).map(|word| word.advanced(3)), Word::of(Owner::Hole));
    }
}
