//! What lies where in the memory that processes share, and what they say to the broker.
//!
//! ```text
//!   grant table    page 0: alive (4) | version (4)    from page 1: per grant  flags (4) | page (4)
//!   pins           page 0: mapped (4) | copies (4)    from page 1: per grant  pins (4)
//!   limits         page 0: mapped (4) | copies (4) | mapped, at most (4) | copies, at most (4)
//! ```
//!
//! Flags: bit 0: granted; bit 1: for reading only; bits 16 to 31: to whom.

use std::sync::atomic::AtomicU32;

use crate::{Access, DomainId, GrantRef, PAGE_BYTES, SharedMemory};

/// Entries in a grant table; as many as a Linux guest has on Xen by default.
pub(super) const GRANTS: u32 = 32768;

pub(super) const TABLE_BYTES: usize = PAGE_BYTES + GRANTS as usize * 8;
pub(super) const PINS_BYTES: usize = PAGE_BYTES + GRANTS as usize * 4;
pub(super) const LIMITS_BYTES: usize = PAGE_BYTES;

const GRANTED: u32 = 1;
const READ_ONLY: u32 = 2;

/// Where the parts of an entry of a grant table stand.
#[derive(Clone, Copy, Debug)]
pub(super) struct EntryOffsets {
    pub(super) flags: usize,
    pub(super) page: usize,
}

/// Whether the domain of a table is there.
pub(super) fn alive(table: &SharedMemory) -> &AtomicU32 {
    table.word(0)
}

/// Counts the comings and goings of backends that may pin pages of a table.
pub(super) fn version(table: &SharedMemory) -> &AtomicU32 {
    table.word(4)
}

/// Where an entry stands; none if no table has so many.
pub(super) fn entry_offsets(grant: GrantRef) -> Option<EntryOffsets> {
    let at = (grant.0 < GRANTS).then(|| PAGE_BYTES + grant.0 as usize * 8)?;
    Some(EntryOffsets { flags: at, page: at + 4 })
}

/// Where a grant's pins stand.
pub(super) fn pins_offset(grant: GrantRef) -> usize {
    PAGE_BYTES + grant.0 as usize * 4
}

/// Pages that are mapped, and copies under way: of one backend in its pins, of all in the limits.
pub(super) struct Usage<'a> {
    pub(super) mapped: &'a AtomicU32,
    pub(super) copies: &'a AtomicU32,
}

pub(super) fn usage(memory: &SharedMemory) -> Usage<'_> {
    Usage { mapped: memory.word(0), copies: memory.word(4) }
}

/// What all may use together, at most.
pub(super) fn usage_max(limits: &SharedMemory) -> Usage<'_> {
    Usage { mapped: limits.word(8), copies: limits.word(12) }
}

/// The flags of a granted page.
pub(super) fn flags(to: DomainId, access: Access) -> u32 {
    let read_only = if access == Access::Read { READ_ONLY } else { 0 };
    GRANTED | read_only | u32::from(to.0) << 16
}

/// Whether a page with these flags may be used like this.
pub(super) fn permits(flags: u32, user: DomainId, access: Access) -> bool {
    let is_granted = flags & GRANTED != 0 && flags >> 16 == u32::from(user.0);
    is_granted && (access == Access::Read || flags & READ_ONLY == 0)
}

/// Whether an entry is in use by its guest.
pub(super) fn is_granted(flags: u32) -> bool {
    flags & GRANTED != 0
}

/// What is asked of the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Ask {
    /// `a`: who we are.
    Hello = 1,
    /// `a`: the domain, `b`: its pages. For the first domain only.
    Create = 2,
    /// `a`: the domain. For the first domain only.
    Destroy = 3,
    /// Our own pages and grant table.
    OwnMemory = 4,
    /// `a`: a domain whose pages we want to use.
    Attach = 5,
    /// `a`: which. What one of the backends has pinned of our pages; `EINVAL` behind the last.
    PinsOf = 6,
    /// `a`: the domain for which an end of a channel is left open.
    AllocateUnbound = 7,
    /// `a`: the domain, `b`: the end that it has left open for us.
    Bind = 8,
    /// `a`: a port of ours.
    Unbind = 9,
    /// `a`: a domain. Which of its pages are granted, and which used?
    Account = 10,
}

impl Ask {
    pub(super) fn from_number(number: u32) -> Option<Ask> {
        use Ask::*;
        let all = [Hello, Create, Destroy, OwnMemory, Attach, PinsOf, AllocateUnbound, Bind, Unbind, Account];
        all.into_iter().find(|ask| *ask as u32 == number)
    }
}

/// Bytes of a question.
pub(super) const ASK_BYTES: usize = 12;
/// Bytes of an answer: an errno (or 0), and two numbers.
pub(super) const ANSWER_BYTES: usize = 12;

/// Three numbers as they are sent; both ends are on this machine.
pub(super) fn encode(numbers: [u32; 3]) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes.as_chunks_mut().0.iter_mut().zip(numbers).for_each(|(bytes, number)| *bytes = number.to_le_bytes());
    bytes
}

pub(super) fn decode(bytes: &[u8; 12]) -> [u32; 3] {
    let chunks = bytes.as_chunks().0;
    [0, 1, 2].map(|index| u32::from_le_bytes(chunks[index]))
}
