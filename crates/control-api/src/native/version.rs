//! The versions of the protocol.

/// A version of the native protocol; a tapdisk says the newest that it speaks when somebody connects.
///
/// Newest first, each with what changed. A version takes nothing away and gives no other meaning to what there is, so a
/// tapdisk serves every client that is as old as itself or older.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Version {
    /// Guests whose tapdisk has gone: `fail_ring`; `connect_ring` with `adopt` repeats what was not answered. Guests whose
    /// device was taken away: `is_removed` of `disconnect_ring`.
    V5 = 5,
    /// Guests that stand still: `settle_ring`, and `settled` of rings.
    V4 = 4,
    /// Write access that comes with the first writer: `late` of `open`, `write_access` of disks, the state `switching`;
    /// `exclusive` and `hold_ms` of `connect_ring`, `held` and `handover` of rings; `disconnect_ring` ends when all is durable, or says in `not_durable` why it is not.
    V3 = 3,
    /// Rings of guests: `connect_ring`, `disconnect_ring`, `watch_ring` with lines `event`; `rings` and `ring_pages` of
    /// disks.
    V2 = 2,
    /// The first.
    V1 = 1,
}

impl Version {
    /// The version of this library.
    pub const CURRENT: Version = Version::V5;

    /// Its number in messages.
    pub const fn number(self) -> u32 {
        self as u32
    }
}
