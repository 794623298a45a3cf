//! A guest that means harm, and says what became of it.
//!
//! ```text
//!   HostileMode --> HostileFront: slots, indices, grants, events --> (a backend) --> HostileReport
//!   HostileNodes --> what it writes where XenStore's frontends write
//! ```
//!
//! Whatever such a guest does, its backend answers each request once or stops the ring for good, and nobody else notices.
//! What is wrong with the answers, as far as the guest can tell, stands in the report.

mod nodes;
mod requests;
mod ring;

pub use nodes::HostileNodes;
pub use ring::{HostileFront, HostileOptions, HostileReport};

/// What a guest does to its ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HostileMode {
    /// Anything at all in the slots.
    RandomSlots,
    /// Slots and pages that change while the backend looks at them: a second thread writes to them all the time.
    FlippingMemory,
    /// More requests than the ring has slots.
    Overrun,
    /// Requests that were taken are taken back.
    TakeBack,
    /// The data of a read goes to the ring's own page, over its indices.
    RingAsData,
    /// All requests have the same name.
    DuplicateIds,
    /// Numbers of segments that no request has.
    SegmentCounts,
    /// Segments outside of their pages, sectors outside of the disk.
    SectorAbuse,
    /// Indirect requests whose pages are not there, or hold nonsense.
    IndirectPages,
    /// Grants that are taken back while the request is under way.
    RevokedGrants,
    /// Pages that were granted to somebody else, for reading only, or that the guest does not have.
    ForeignGrants,
    /// Events without requests.
    KickStorm,
}

impl HostileMode {
    /// All of them, and what they are called.
    pub const ALL: [(HostileMode, &'static str); 12] = [
        (HostileMode::RandomSlots, "random-slots"),
        (HostileMode::FlippingMemory, "flipping-memory"),
        (HostileMode::Overrun, "overrun"),
        (HostileMode::TakeBack, "take-back"),
        (HostileMode::RingAsData, "ring-as-data"),
        (HostileMode::DuplicateIds, "duplicate-ids"),
        (HostileMode::SegmentCounts, "segment-counts"),
        (HostileMode::SectorAbuse, "sector-abuse"),
        (HostileMode::IndirectPages, "indirect-pages"),
        (HostileMode::RevokedGrants, "revoked-grants"),
        (HostileMode::ForeignGrants, "foreign-grants"),
        (HostileMode::KickStorm, "kick-storm"),
    ];

    /// The mode of this name.
    pub fn from_name(name: &str) -> Option<HostileMode> {
        HostileMode::ALL.into_iter().find(|(_, known)| *known == name).map(|(mode, _)| mode)
    }

    /// What it is called.
    pub fn name(self) -> &'static str {
        let found = HostileMode::ALL.into_iter().find(|(mode, _)| *mode == self);
        found.expect("all of them have a name").1
    }

    /// Whether the backend stops the ring for it, and answers nothing more. It may do so as well when a guest
    /// [has overwritten its ring](HostileFront::has_overwritten_its_ring).
    pub fn breaks_the_ring(self) -> bool {
        matches!(self, HostileMode::Overrun | HostileMode::TakeBack | HostileMode::RingAsData)
    }
}

/// Numbers that look random and come again with their seed.
#[derive(Clone, Debug)]
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Random {
        Random(seed | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// One of so many things.
    fn index(&mut self, count: usize) -> usize {
        usize::try_from(self.below(count as u64)).expect("less than a length")
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[2]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mode_has_a_name_of_its_own() {
        for (mode, name) in HostileMode::ALL {
            assert_eq!((HostileMode::from_name(name), mode.name()), (Some(mode), name));
        }
        assert_eq!(HostileMode::from_name("friendly"), None);
    }
}
