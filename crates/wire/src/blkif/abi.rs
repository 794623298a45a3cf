//! How a ring is laid out, which depends on what the guest was compiled for.

use std::fmt;

/// Bytes of a page of a ring, and of every page that a guest grants.
pub const RING_PAGE_BYTES: usize = 4096;
/// Bytes in front of the first slot.
pub const RING_HEADER_BYTES: usize = 64;
/// A ring has at most two to the power of this many pages.
pub const RING_ORDER_MAX: u32 = 4;
/// Bytes of the longest slot.
pub const SLOT_BYTES_MAX: usize = 112;

/// What the guest was compiled for: where the fields of a slot lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Abi {
    /// 32-bit x86: 64-bit fields lie at multiples of four.
    X86_32,
    /// 64-bit x86 and all ARM.
    X86_64,
}

/// A name of an ABI that nobody knows: guessing would read other bytes than the guest has written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownAbi;

impl fmt::Display for UnknownAbi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the protocol of the ring is neither x86_32-abi nor x86_64-abi nor arm-abi")
    }
}

impl std::error::Error for UnknownAbi {}

impl Abi {
    /// What the `protocol` node of a frontend means. Without one, a guest of an x86 host has the old 32-bit layout and
    /// one of an ARM host the only one there is.
    ///
    /// # Errors
    /// A name that is not known.
    pub fn from_protocol(protocol: Option<&str>) -> Result<Abi, UnknownAbi> {
        match protocol {
            Some("x86_32-abi") => Ok(Abi::X86_32),
            Some("x86_64-abi" | "arm-abi") => Ok(Abi::X86_64),
            None if cfg!(any(target_arch = "x86", target_arch = "x86_64")) => Ok(Abi::X86_32),
            None => Ok(Abi::X86_64),
            Some(_) => Err(UnknownAbi),
        }
    }

    /// The name in the `protocol` node of a frontend.
    pub const fn protocol(self) -> &'static str {
        match self {
            Abi::X86_32 => "x86_32-abi",
            Abi::X86_64 if cfg!(any(target_arch = "arm", target_arch = "aarch64")) => "arm-abi",
            Abi::X86_64 => "x86_64-abi",
        }
    }

    /// Bytes of a slot.
    pub const fn slot_bytes(self) -> usize {
        match self {
            Abi::X86_32 => 108,
            Abi::X86_64 => 112,
        }
    }

    /// Bytes of a response, at the start of a slot.
    pub const fn response_bytes(self) -> usize {
        match self {
            Abi::X86_32 => 12,
            Abi::X86_64 => 16,
        }
    }

    /// Slots of a ring of two to the power of `order` pages: the largest power of two that fits. None if rings are never
    /// so large.
    pub const fn slots(self, order: u32) -> Option<u32> {
        if order > RING_ORDER_MAX {
            return None;
        }
        let room = (RING_PAGE_BYTES << order) - RING_HEADER_BYTES;
        Some(1 << (room / self.slot_bytes()).ilog2())
    }

    /// Where in the ring the slot of a free-running index lies, in bytes; `slots` is a power of two.
    pub const fn slot_offset(self, index: u32, slots: u32) -> usize {
        RING_HEADER_BYTES + (index & (slots - 1)) as usize * self.slot_bytes()
    }

    /// Where in a slot the name of the request lies.
    pub(super) const fn id_offset(self) -> usize {
        match self {
            Abi::X86_32 => 4,
            Abi::X86_64 => 8,
        }
    }

    /// Where in a slot the first sector lies; what depends on the operation follows it.
    pub(super) const fn sector_offset(self) -> usize {
        self.id_offset() + 8
    }

    /// Where in a slot the segments of a plain read or write lie, the length of a discard, the `handle` of an indirect
    /// request.
    pub(super) const fn body_offset(self) -> usize {
        self.sector_offset() + 8
    }

    /// Where in a slot the references to the pages of an indirect request lie.
    pub(super) const fn indirect_offset(self) -> usize {
        self.body_offset() + 4
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_of_both_abis_have_the_same_number_of_slots() {
        for abi in [Abi::X86_32, Abi::X86_64] {
            let slots: Vec<_> = (0..=5).map(|order| abi.slots(order)).collect();
            assert_eq!(slots, [Some(32), Some(64), Some(128), Some(256), Some(512), None]);
        }
        assert_eq!(Abi::X86_64.slots(31), None);
    }

    #[test]
    fn the_last_slot_ends_within_the_ring() {
        for abi in [Abi::X86_32, Abi::X86_64] {
            for order in 0..=RING_ORDER_MAX {
                let slots = abi.slots(order).unwrap();
                assert!(abi.slot_offset(slots - 1, slots) + SLOT_BYTES_MAX <= RING_PAGE_BYTES << order);
                assert_eq!(abi.slot_offset(slots, slots), RING_HEADER_BYTES, "the index runs freely");
                assert_eq!(abi.slot_offset(u32::MAX, slots), abi.slot_offset(slots - 1, slots));
            }
        }
    }

    #[test]
    fn protocols_are_known_by_their_names_and_never_guessed() {
        assert_eq!(Abi::from_protocol(Some("x86_32-abi")), Ok(Abi::X86_32));
        assert_eq!(Abi::from_protocol(Some("x86_64-abi")), Ok(Abi::X86_64));
        assert_eq!(Abi::from_protocol(Some("arm-abi")), Ok(Abi::X86_64));
        assert_eq!(Abi::from_protocol(Some("x86_64-abi ")), Err(UnknownAbi));
        assert_eq!(Abi::from_protocol(Some("")), Err(UnknownAbi));
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn a_guest_that_says_nothing_is_as_old_as_the_node() {
        assert_eq!(Abi::from_protocol(None), Ok(Abi::X86_32));
    }
}
