//! What a disk and its rate limiter say to each other, over a local stream.
//!
//! ```text
//!   disk --> limiter    need (8)  done (8)      bytes wanted for new requests; bytes granted before and used since
//!   disk <-- limiter    grant (8)               bytes that may be moved now
//! ```
//!
//! Numbers are in the byte order of the host, and every host that runs this is little-endian, so that is what is written.
//! There is no greeting. What neither side may overstep is [`NEED_BYTES_MAX`].

/// What a disk may want, in one demand and altogether before it is granted. A grant as large as this makes a disk give up
/// its limiter.
pub const NEED_BYTES_MAX: u64 = 8 << 20;

/// The length of a demand.
pub const DEMAND_BYTES: usize = 16;
/// The length of a grant.
pub const GRANT_BYTES: usize = 8;
/// As many demands as a limiter takes at once.
pub const DEMANDS_AT_ONCE_MAX: usize = 32;

/// What a disk says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// Bytes that it wants to move, beyond what it wanted before.
    pub need: u64,
    /// Bytes granted before that it has moved since its last demand.
    pub done: u64,
}

impl Demand {
    /// As bytes.
    pub fn encode(&self) -> [u8; DEMAND_BYTES] {
        let mut bytes = [0; DEMAND_BYTES];
        bytes[..8].copy_from_slice(&self.need.to_le_bytes());
        bytes[8..].copy_from_slice(&self.done.to_le_bytes());
        bytes
    }
}

/// A grant as bytes.
pub fn encode_grant(bytes: u64) -> [u8; GRANT_BYTES] {
    bytes.to_le_bytes()
}

/// Collects the numbers of a message from portions of any length.
#[derive(Clone, Debug)]
struct Words<const COUNT: usize> {
    words: [u64; COUNT],
    /// Bytes that are there.
    filled: usize,
}

impl<const COUNT: usize> Default for Words<COUNT> {
    fn default() -> Self {
        Words { words: [0; COUNT], filled: 0 }
    }
}

impl<const COUNT: usize> Words<COUNT> {
    /// Takes bytes off the front: how many, and the message that they complete.
    fn feed(&mut self, input: &[u8]) -> (usize, Option<[u64; COUNT]>) {
        for (index, byte) in input.iter().enumerate() {
            if self.filled == 0 {
                self.words = [0; COUNT];
            }
            self.words[self.filled / 8] |= u64::from(*byte) << (self.filled % 8 * 8);
            self.filled += 1;
            if self.filled == COUNT * 8 {
                self.filled = 0;
                return (index + 1, Some(self.words));
            }
        }
        (input.len(), None)
    }
}

/// The limiter's side: demands from a stream that may be cut anywhere.
#[derive(Clone, Debug, Default)]
pub struct DemandReader(Words<2>);

impl DemandReader {
    /// At the beginning of a demand.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes bytes off the front of `input`: how many, and the demand that they complete. Without one, all were taken.
    pub fn feed(&mut self, input: &[u8]) -> (usize, Option<Demand>) {
        let (taken, words) = self.0.feed(input);
        (taken, words.map(|[need, done]| Demand { need, done }))
    }
}

/// The disk's side: grants from a stream that may be cut anywhere.
#[derive(Clone, Debug, Default)]
pub struct GrantReader(Words<1>);

impl GrantReader {
    /// At the beginning of a grant.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes bytes off the front of `input`: how many, and the grant that they complete. Without one, all were taken.
    pub fn feed(&mut self, input: &[u8]) -> (usize, Option<u64>) {
        let (taken, words) = self.0.feed(input);
        (taken, words.map(|[grant]| grant))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn demands(portions: &[&[u8]]) -> Vec<Demand> {
        let (mut reader, mut demands) = (DemandReader::new(), Vec::new());
        for portion in portions {
            let mut rest = *portion;
            while !rest.is_empty() {
                let (taken, demand) = reader.feed(rest);
                assert!(taken > 0 && (demand.is_some() || taken == rest.len()));
                rest = &rest[taken..];
                demands.extend(demand);
            }
        }
        demands
    }

    #[test]
    fn a_demand_is_two_numbers_lowest_byte_first() {
        let demand = Demand { need: 0x0102_0304_0506_0708, done: 0xff };
        let bytes = [8, 7, 6, 5, 4, 3, 2, 1, 0xff, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(demand.encode(), bytes);
        assert_eq!(demands(&[&bytes]), [demand]);
    }

    #[test]
    fn a_grant_is_one_number() {
        assert_eq!(encode_grant(0x1234), [0x34, 0x12, 0, 0, 0, 0, 0, 0]);
        assert_eq!(GrantReader::new().feed(&[0x34, 0x12, 0, 0, 0, 0, 0, 0, 9]), (8, Some(0x1234)));
    }

    #[test]
    fn a_stream_may_be_cut_anywhere() {
        let sent = [(1, 2), (u64::MAX, 0), (0, u64::MAX)].map(|(need, done)| Demand { need, done });
        let bytes: Vec<u8> = sent.iter().flat_map(Demand::encode).collect();
        for first in 0..=bytes.len() {
            for second in first..=bytes.len() {
                let portions = [&bytes[..first], &bytes[first..second], &bytes[second..]];
                assert_eq!(demands(&portions), sent, "cut at {first} and {second}");
            }
        }
    }

    #[test]
    fn grants_may_be_cut_anywhere() {
        let sent = [1, u64::MAX, 4096];
        let bytes: Vec<u8> = sent.into_iter().flat_map(encode_grant).collect();
        for cut in 0..=bytes.len() {
            let (mut reader, mut grants) = (GrantReader::new(), Vec::new());
            for mut rest in [&bytes[..cut], &bytes[cut..]] {
                while !rest.is_empty() {
                    let (taken, grant) = reader.feed(rest);
                    rest = &rest[taken..];
                    grants.extend(grant);
                }
            }
            assert_eq!(grants, sent, "cut at {cut}");
        }
    }
}
