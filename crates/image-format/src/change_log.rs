//! The log of changed blocks: which 64 KiB of a disk were written since a snapshot.
//!
//! ```text
//!   0          16         32           36         40             48
//!   | parent   | child    | consistent | nothing  | disk's bytes | bitmap: one bit for each block of 64 KiB
//! ```
//!
//! Numbers are little-endian (the C program writes them as its host does; hosts with Xen are so). In the bitmap, block n is bit n % 8 of byte n / 8, counted from the least
//! significant: the other way round than in VHD bitmaps. The files are those of XenServer's storage manager.

use uuid::Uuid;

/// Bytes of the header; the bitmap follows.
pub const HEADER_BYTES: usize = 48;
/// Bytes of the disk that one bit stands for.
pub const BLOCK_BYTES: u64 = 64 << 10;

/// What stands before the bitmap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// The log before this one; nil if there is none.
    pub parent: Uuid,
    /// The log after this one; nil if there is none.
    pub child: Uuid,
    /// Whether the bitmap may be trusted: 1 after the disk was closed in order. Others keep other numbers in it.
    pub consistent: i32,
    /// The size of the disk.
    pub disk_bytes: u64,
}

impl Header {
    /// Reads a header; any bytes are one.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Header {
        let part = |at: usize| bytes[at..at + 16].try_into().expect("sixteen bytes");
        Header {
            parent: Uuid::from_bytes(part(0)),
            child: Uuid::from_bytes(part(16)),
            consistent: i32::from_le_bytes(bytes[32..36].try_into().expect("four bytes")),
            disk_bytes: u64::from_le_bytes(bytes[40..48].try_into().expect("eight bytes")),
        }
    }

    /// The bytes of the file's start.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..16].copy_from_slice(self.parent.as_bytes());
        bytes[16..32].copy_from_slice(self.child.as_bytes());
        bytes[32..36].copy_from_slice(&self.consistent.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.disk_bytes.to_le_bytes());
        bytes
    }

    /// Bytes of the bitmap.
    pub fn bitmap_bytes(&self) -> u64 {
        self.disk_bytes.div_ceil(BLOCK_BYTES).div_ceil(8)
    }

    /// Which bits of the bitmap's last byte stand for blocks of the disk; all of them if there is no last byte.
    pub fn last_byte_mask(&self) -> u8 {
        match self.disk_bytes.div_ceil(BLOCK_BYTES) % 8 {
            0 => u8::MAX,
            bits => (1 << bits) - 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_what_it_was_after_it_was_written() {
        let header = Header {
            parent: Uuid::from_u128(1),
            child: Uuid::from_u128(u128::MAX - 5),
            consistent: -7,
            disk_bytes: 0x0102_0304_0506_0708,
        };
        let bytes = header.encode();
        assert_eq!(Header::decode(&bytes), header);
        assert_eq!(bytes[40..48], header.disk_bytes.to_le_bytes());
        assert_eq!(bytes[36..40], [0; 4]);
        assert_eq!(Header::decode(&[0; HEADER_BYTES]), Header::default());
    }

    #[test]
    fn each_64_kibibytes_have_a_bit() {
        let sizes = [0, 1, BLOCK_BYTES, 8 * BLOCK_BYTES, 8 * BLOCK_BYTES + 1, 64 << 40, u64::MAX];
        let maps = sizes.map(|disk_bytes| Header { disk_bytes, ..Header::default() }.bitmap_bytes());
        assert_eq!(maps, [0, 1, 1, 1, 2, 128 << 20, 1 << 45]);
        let masks = [0, 1, 8, 9, 15].map(|blocks| {
            let header = Header { disk_bytes: blocks * BLOCK_BYTES, ..Header::default() };
            header.last_byte_mask()
        });
        assert_eq!(masks, [0xff, 1, 0xff, 1, 0x7f]);
    }
}
