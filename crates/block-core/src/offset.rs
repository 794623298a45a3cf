//! Positions and ranges. A position on the disk and a position in a file are different types, so that mixing them up
//! does not compile; arithmetic exists only where it means something.

use std::fmt;

/// Bytes in a sector, everywhere and always.
pub const SECTOR: u64 = 512;

macro_rules! position {
    ($(#[$doc:meta])* $offset:ident, $(#[$range_doc:meta])* $range:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $offset(u64);

        impl $offset {
            /// The position `bytes` after the start.
            pub const fn new(bytes: u64) -> Self {
                Self(bytes)
            }

            /// Bytes from the start.
            pub const fn get(self) -> u64 {
                self.0
            }

            /// The greatest multiple of `unit` that is not behind this position. `unit` is a power of two.
            pub const fn align_down(self, unit: u64) -> Self {
                Self(self.0 & !(unit - 1))
            }

            /// Whether this position is a multiple of `unit`, a power of two.
            pub const fn is_aligned(self, unit: u64) -> bool {
                self.0 & (unit - 1) == 0
            }
        }

        impl std::ops::Add<u64> for $offset {
            type Output = Self;
            fn add(self, bytes: u64) -> Self {
                Self(self.0.checked_add(bytes).expect("positions stay below 2^64: ranges are checked at the door"))
            }
        }

        impl std::ops::Sub for $offset {
            type Output = u64;
            fn sub(self, earlier: Self) -> u64 {
                self.0.checked_sub(earlier.0).expect("a distance is taken from the later position")
            }
        }

        impl fmt::Display for $offset {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }

        $(#[$range_doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
        pub struct $range {
            start: $offset,
            length: u64,
        }

        impl $range {
            /// `length` bytes from `start`.
            ///
            /// # Panics
            /// When the end does not fit 64 bits; use [`Self::checked`] for what a stranger sent.
            pub const fn new(start: $offset, length: u64) -> Self {
                assert!(start.0.checked_add(length).is_some(), "a range ends below 2^64");
                Self { start, length }
            }

            /// `length` bytes from byte `start`, unless the end does not fit 64 bits.
            pub fn checked(start: u64, length: u64) -> Option<Self> {
                start.checked_add(length).map(|_| Self { start: $offset(start), length })
            }

            /// Where it begins.
            pub const fn start(self) -> $offset {
                self.start
            }

            /// The first position behind it.
            pub const fn end(self) -> $offset {
                $offset(self.start.0 + self.length)
            }

            /// Bytes.
            pub const fn length(self) -> u64 {
                self.length
            }

            /// Whether it holds no byte.
            pub const fn is_empty(self) -> bool {
                self.length == 0
            }

            /// Whether both ends are multiples of `unit`, a power of two.
            pub const fn is_aligned(self, unit: u64) -> bool {
                self.start.is_aligned(unit) && self.length & (unit - 1) == 0
            }

            /// The smallest range that covers this one and whose ends are multiples of `unit`, a power of two.
            pub fn align_out(self, unit: u64) -> Self {
                let start = self.start.align_down(unit);
                let end = self.end().0.checked_next_multiple_of(unit).expect("aligned ranges end below 2^64");
                Self { start, length: end - start.0 }
            }

            /// Whether the two share a byte.
            pub const fn overlaps(self, other: Self) -> bool {
                self.start.0 < other.end().0 && other.start.0 < self.end().0
            }

            /// Whether every byte of `other` is in this range.
            pub const fn contains(self, other: Self) -> bool {
                self.start.0 <= other.start.0 && other.end().0 <= self.end().0
            }

            /// What the two share, if they share a byte.
            pub fn intersection(self, other: Self) -> Option<Self> {
                let start = self.start.max(other.start);
                let end = self.end().min(other.end());
                (start < end).then(|| Self { start, length: end - start })
            }

            /// The first `length` bytes of it (all of it, if it has fewer) and the rest.
            pub fn split_at(self, length: u64) -> (Self, Self) {
                let first = length.min(self.length);
                let rest = Self { start: $offset(self.start.0 + first), length: self.length - first };
                (Self { start: self.start, length: first }, rest)
            }

            /// The parts of it that lie in one `unit`-sized, `unit`-aligned granule each, in ascending order.
            pub fn granules(self, unit: u64) -> impl Iterator<Item = Self> {
                let mut rest = self;
                std::iter::from_fn(move || {
                    if rest.is_empty() {
                        return None;
                    }
                    let room = unit - (rest.start.0 & (unit - 1));
                    let (part, behind) = rest.split_at(room);
                    rest = behind;
                    Some(part)
                })
            }
        }

        impl fmt::Display for $range {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}+{:#x}", self.start, self.length)
            }
        }
    };
}

position! {
    /// A position on the disk as its user sees it, in bytes.
    GuestOffset,
    /// A run of bytes on the disk as its user sees it.
    GuestRange
}

position! {
    /// A position in an image file or under any other storage, in bytes.
    FileOffset,
    /// A run of bytes in an image file or under any other storage.
    FileRange
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, length: u64) -> GuestRange {
        GuestRange::new(GuestOffset::new(start), length)
    }

    #[test]
    fn granules_cut_at_multiples_of_the_unit() {
        let parts: Vec<_> = range(700, 1000).granules(512).collect();
        assert_eq!(parts, [range(700, 324), range(1024, 512), range(1536, 164)]);
        assert_eq!(range(700, 0).granules(512).count(), 0);
    }

    #[test]
    fn ranges_that_touch_do_not_overlap() {
        assert!(!range(0, 512).overlaps(range(512, 512)));
        assert!(!range(512, 512).overlaps(range(0, 512)));
        assert!(range(0, 513).overlaps(range(512, 512)));
        assert_eq!(range(0, 600).intersection(range(512, 512)), Some(range(512, 88)));
    }

    #[test]
    fn a_range_that_would_wrap_is_refused() {
        assert_eq!(GuestRange::checked(u64::MAX, 1), None);
        assert!(GuestRange::checked(u64::MAX - 1, 1).is_some());
    }

    #[test]
    fn align_out_covers_and_aligns() {
        assert_eq!(range(700, 1000).align_out(512), range(512, 1536));
        assert_eq!(range(512, 512).align_out(512), range(512, 512));
    }
}
