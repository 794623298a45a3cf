//! The versions of the protocol.

/// A version of the native protocol; a tapdisk says the newest that it speaks when somebody connects.
///
/// Newest first, each with what changed. A version takes nothing away and gives no other meaning to what there is, so a
/// tapdisk serves every client that is as old as itself or older.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Version {
    /// Rings of guests: `connect_ring`, `disconnect_ring`, `watch_ring` with lines `event`; `rings` and `ring_pages` of
    /// disks.
    V2 = 2,
    /// The first.
    V1 = 1,
}

impl Version {
    /// The version of this library.
    pub const CURRENT: Version = Version::V2;

    /// Its number in messages.
    pub const fn number(self) -> u32 {
        self as u32
    }
}
