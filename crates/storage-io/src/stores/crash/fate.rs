//! Who survives a crash.

use super::journal::Phase;

/// Decides about each volatile sector and each change of the length, in the order in which they were made.
pub(super) enum Fate {
    /// All survive.
    Spared,
    /// The power fails: any sectors, and the file system's changes of the length up to some point.
    PowerCut { pattern: Pattern, random: Random, lengths: usize },
    /// The process dies: what has completed is the kernel's, and survives; of the rest any part.
    Killed(Random),
    /// The power fails, with a storage that keeps the order: the first few.
    Prefix(usize),
    /// One of all ways in which the power can fail: the sectors whose bit is set.
    Chosen { sectors: u64, lengths: usize },
}

/// Which sectors a power cut spares. Besides plain chance those that find mistakes of ordering: all of an operation or
/// nothing, one operation lost, one operation alone.
pub(super) enum Pattern {
    /// Each sector with a chance of so many in 256.
    Sectors(u64),
    /// Each operation as a whole, with a chance of so many in 256; the bits are drawn per operation.
    Operations { chance: u64, salt: u64 },
    /// All but one operation.
    AllBut(usize),
    /// One operation.
    Only(usize),
    /// The operations before this one.
    Until(usize),
    /// The operations from this one on.
    From(usize),
}

impl Fate {
    /// A power cut drawn from `seed`, among `entries` volatile changes, `lengths` of which change the length.
    pub(super) fn power_cut(seed: u64, entries: usize, lengths: usize) -> Fate {
        let mut random = Random::new(seed);
        let chance = [16, 128, 240][random.below(3)];
        let salt = random.next();
        let chosen = random.below(entries.max(1));
        let pattern = match random.below(8) {
            0..=2 => Pattern::Sectors(chance),
            3 => Pattern::Operations { chance, salt },
            4 => Pattern::AllBut(chosen),
            5 => Pattern::Only(chosen),
            6 => Pattern::Until(chosen),
            _ => Pattern::From(chosen),
        };
        // The ends are where mistakes are.
        let lengths = match random.below(4) {
            0 => 0,
            1 => lengths,
            _ => random.below(lengths + 1),
        };
        Fate::PowerCut { pattern, random, lengths }
    }

    /// Whether the next sector, of the volatile change `index`, survives.
    pub(super) fn spares_sector(&mut self, index: usize, phase: Phase) -> bool {
        match self {
            Fate::Spared => true,
            Fate::PowerCut { pattern, random, .. } => pattern.spares(index, random),
            Fate::Killed(random) => phase == Phase::Completed || random.below(2) == 0,
            Fate::Prefix(left) => take_one(left),
            Fate::Chosen { sectors, .. } => {
                let spared = *sectors & 1 == 1;
                *sectors >>= 1;
                spared
            }
        }
    }

    /// Whether the next change of the length survives. The file system makes them in order: when one is lost, all that
    /// follow are.
    pub(super) fn spares_length(&mut self, phase: Phase) -> bool {
        match self {
            Fate::Spared => true,
            Fate::PowerCut { lengths, .. } | Fate::Chosen { lengths, .. } => take_one(lengths),
            Fate::Killed(random) => phase == Phase::Completed || random.below(2) == 0,
            Fate::Prefix(left) => take_one(left),
        }
    }
}

impl Pattern {
    fn spares(&self, index: usize, random: &mut Random) -> bool {
        match self {
            Pattern::Sectors(chance) => random.next() % 256 < *chance,
            Pattern::Operations { chance, salt } => Random::new(salt ^ index as u64).next() % 256 < *chance,
            Pattern::AllBut(one) => index != *one,
            Pattern::Only(one) => index == *one,
            Pattern::Until(end) => index < *end,
            Pattern::From(start) => index >= *start,
        }
    }
}

fn take_one(left: &mut usize) -> bool {
    let any = *left > 0;
    *left -= usize::from(any);
    any
}

/// Random numbers (splitmix64) that belong to one crash: the same seed, the same state.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() >> 32).unwrap_or(0) % end
    }
}
