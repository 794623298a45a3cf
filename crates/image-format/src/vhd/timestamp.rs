//! Seconds since 2000-01-01 UTC, the clock of VHD.

/// Seconds from the start of 1970 to the start of 2000.
const EPOCH: u64 = 946_684_800;

/// A moment as VHD stores it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(u32);

impl Timestamp {
    /// `seconds` after the start of 2000.
    pub const fn new(seconds: u32) -> Self {
        Self(seconds)
    }

    /// From seconds after the start of 1970; what lies outside the clock becomes its nearest end.
    pub fn from_unix(seconds: u64) -> Self {
        Self(u32::try_from(seconds.saturating_sub(EPOCH)).unwrap_or(u32::MAX))
    }

    /// Seconds after the start of 1970.
    pub const fn to_unix(self) -> u64 {
        self.0 as u64 + EPOCH
    }

    /// Seconds after the start of 2000.
    pub const fn get(self) -> u32 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_starts_in_2000_and_saturates() {
        assert_eq!(Timestamp::from_unix(946_684_801).get(), 1);
        assert_eq!(Timestamp::from_unix(0).get(), 0);
        assert_eq!(Timestamp::from_unix(u64::MAX).get(), u32::MAX);
        assert_eq!(Timestamp::new(5).to_unix(), 946_684_805);
    }
}
