//! What writes write: bytes that tell who wrote them, and where they belong.

use crate::random::mixed;

/// Bytes in a sector, for indexing.
pub(crate) const SECTOR_BYTES: usize = 512;

/// Names a write: its bytes are made of this number and of their position on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp(pub u64);

impl Stamp {
    /// The sector that this write makes of sector `index`. It begins with the stamp and the index.
    pub(crate) fn sector(self, index: u64) -> [u8; SECTOR_BYTES] {
        let mut bytes = [0; SECTOR_BYTES];
        let first = mixed(self.0 << 32 ^ index);
        let mut word = first;
        for (position, place) in bytes.chunks_exact_mut(8).enumerate() {
            word = match position {
                0 => self.0,
                1 => index,
                2 => first,
                _ => word.wrapping_add(0xa076_1d64_78bd_642f),
            };
            place.copy_from_slice(&word.to_be_bytes());
        }
        bytes
    }

    /// The bytes that this write puts at `offset` of the disk.
    pub(crate) fn fill(self, offset: u64, out: &mut [u8]) {
        let mut done = 0;
        while done < out.len() {
            let position = offset + done as u64;
            let from = usize::try_from(position % SECTOR_BYTES as u64).expect("inside a sector");
            let count = (SECTOR_BYTES - from).min(out.len() - done);
            let sector = self.sector(position / SECTOR_BYTES as u64);
            out[done..done + count].copy_from_slice(&sector[from..from + count]);
            done += count;
        }
    }
}

/// What a sector's bytes say about themselves, for a person to read.
pub(crate) fn describe(bytes: &[u8]) -> String {
    if bytes.iter().all(|byte| *byte == 0) {
        return "zeroes".into();
    }
    let word = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let (stamp, index) = (Stamp(word(0)), word(8));
    if stamp.sector(index) == bytes {
        return format!("what write {} put at sector {index}", stamp.0);
    }
    let hex: String = bytes[..24].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("a mixture that begins with {hex}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_do_not_depend_on_where_a_write_begins() {
        let mut whole = [0; 2048];
        Stamp(7).fill(1024, &mut whole);
        let mut part = [0; 900];
        Stamp(7).fill(1300, &mut part);
        assert_eq!(part, whole[276..1176]);
        assert_eq!(whole[512..1024], Stamp(7).sector(3));
    }

    #[test]
    fn a_sector_tells_who_wrote_it() {
        assert_eq!(describe(&Stamp(9).sector(4)), "what write 9 put at sector 4");
        assert_eq!(describe(&[0; 512]), "zeroes");
        assert!(describe(&[1; 512]).starts_with("a mixture"));
    }
}
