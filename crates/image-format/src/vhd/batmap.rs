//! The batmap: one bit per block, set only when every sector of the block is present, so that its bitmap need not be
//! read. Readers trust a set bit; a clear one says nothing.

use block_core::{Error, ErrorKind, FileOffset, FileRange, Result, SECTOR};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::layout::{
    BATMAP_COOKIE, BATMAP_HEADER_BYTES, BATMAP_VERSION, BATMAP_VERSION_SIGNED, BatmapHeaderBytes, byte_sum,
    signed_byte_sum,
};

/// What encrypts the disk, as far as the image knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyHash {
    /// Mixed into the hash.
    pub nonce: [u8; 32],
    /// SHA-256 of the nonce and the key.
    pub hash: [u8; 32],
}

/// The bytes of a batmap header, from a stranger.
#[derive(Clone)]
pub struct UncheckedBatmapHeader(BatmapHeaderBytes);

impl UncheckedBatmapHeader {
    /// From the bytes of a batmap header.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let (bytes, _) = BatmapHeaderBytes::read_from_prefix(bytes).map_err(|_| corrupt("too short"))?;
        Ok(Self(bytes))
    }

    /// The header that lies directly behind the padded table ending at `table_end`, of a map for `blocks` blocks of a
    /// disk of `disk_bytes`.
    pub fn check(self, table_end: FileOffset, blocks: u64, disk_bytes: u64) -> Result<BatmapHeader> {
        if self.0.cookie != BATMAP_COOKIE {
            return Err(corrupt("invalid cookie"));
        }
        let map = FileRange::checked(self.0.batmap_offset.get(), u64::from(self.0.batmap_size.get()) * SECTOR)
            .ok_or_else(|| corrupt("invalid batmap offset"))?;
        let header = FileRange::new(table_end, BATMAP_HEADER_BYTES as u64);
        if map.start() < header.end() || !map.start().is_aligned(SECTOR) {
            return Err(corrupt("invalid batmap offset"));
        }
        if map.length() < blocks.div_ceil(8).max(checksummed_batmap_bytes(disk_bytes)) {
            return Err(corrupt("invalid batmap size"));
        }
        Ok(BatmapHeader { bytes: self.0, place: table_end, map })
    }

    /// The bytes, as they are.
    pub fn bytes(&self) -> &BatmapHeaderBytes {
        &self.0
    }
}

/// A batmap header that can be relied on; its map is checked by [`Self::check_map`].
#[derive(Clone)]
pub struct BatmapHeader {
    bytes: BatmapHeaderBytes,
    place: FileOffset,
    map: FileRange,
}

impl BatmapHeader {
    /// The header at `place` of a new, clear map for `entries` blocks.
    pub(super) fn new(place: FileOffset, entries: u32) -> Self {
        let sectors = entries.div_ceil(8 * 512).max(1);
        let map = FileRange::new(place + BATMAP_HEADER_BYTES as u64, u64::from(sectors) * SECTOR);
        let mut bytes = BatmapHeaderBytes::new_zeroed();
        bytes.cookie = BATMAP_COOKIE;
        bytes.batmap_offset = map.start().get().into();
        bytes.batmap_size = sectors.into();
        bytes.batmap_version = BATMAP_VERSION.into();
        bytes.checksum = (!0_u32).into();
        Self { bytes, place, map }
    }

    /// The same at another place, with room for at least `entries` blocks. Its map is to be told by [`Self::with_map`].
    pub(super) fn at(&self, place: FileOffset, entries: u32) -> Self {
        let sectors = u64::from(entries.div_ceil(8 * 512).max(1)).max(self.map.length() / SECTOR);
        let map = FileRange::new(place + BATMAP_HEADER_BYTES as u64, sectors * SECTOR);
        let mut bytes = self.bytes.clone();
        bytes.batmap_offset = map.start().get().into();
        bytes.batmap_size = u32::try_from(sectors).expect("a map is shorter than its table").into();
        Self { bytes, place, map }
    }

    /// Where this header lies.
    pub fn header_range(&self) -> FileRange {
        FileRange::new(self.place, BATMAP_HEADER_BYTES as u64)
    }

    /// Where the map lies.
    pub fn map_range(&self) -> FileRange {
        self.map
    }

    /// A number that a storage manager leaves on the image.
    pub fn marker(&self) -> u8 {
        self.bytes.marker
    }

    /// The hash of the key, if the disk is encrypted.
    pub fn key_hash(&self) -> Option<KeyHash> {
        (self.bytes.key_cookie != 0).then_some(KeyHash { nonce: self.bytes.key_nonce, hash: self.bytes.key_hash })
    }

    /// Whether `map`, the bytes of [`Self::map_range`] or at least those that the checksum covers, are what was
    /// written.
    pub fn check_map(&self, map: &[u8], disk_bytes: u64) -> Result<()> {
        let is_signed = self.bytes.batmap_version.get() == BATMAP_VERSION_SIGNED;
        let covered = usize::try_from(checksummed_batmap_bytes(disk_bytes)).ok().and_then(|length| map.get(..length));
        let sum = match covered {
            None => return Err(corrupt("invalid batmap size")),
            Some(covered) if is_signed => !signed_byte_sum(covered),
            Some(covered) => !byte_sum(covered),
        };
        if sum == self.bytes.checksum.get() { Ok(()) } else { Err(corrupt("invalid checksum")) }
    }

    /// The same for a map that has changed; versions with signed sums become the one with unsigned.
    #[must_use]
    pub fn with_map(mut self, map: &[u8], disk_bytes: u64) -> Self {
        self.bytes.checksum = batmap_checksum(map, disk_bytes).into();
        self.bytes.batmap_version = BATMAP_VERSION.into();
        self
    }

    /// The same with another marker.
    #[must_use]
    pub fn with_marker(mut self, marker: u8) -> Self {
        self.bytes.marker = marker;
        self
    }

    /// The same for an encrypted disk.
    #[must_use]
    pub fn with_key_hash(mut self, key_hash: KeyHash) -> Self {
        self.bytes.key_cookie = 1;
        self.bytes.key_nonce = key_hash.nonce;
        self.bytes.key_hash = key_hash.hash;
        self
    }

    /// The bytes to store: this header only, never the map behind it.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.as_bytes()
    }

    /// The fields, as stored.
    pub fn bytes(&self) -> &BatmapHeaderBytes {
        &self.bytes
    }
}

/// How many bytes of a map its checksum covers: computed from the disk's size as if blocks had 2 MiB, and at least a
/// sector. A last part of a sector beyond that is stored without being summed.
pub fn checksummed_batmap_bytes(disk_bytes: u64) -> u64 {
    (disk_bytes >> 24).next_multiple_of(SECTOR).max(SECTOR)
}

/// The checksum of a map.
///
/// # Panics
/// When `map` is shorter than what the checksum covers.
pub fn batmap_checksum(map: &[u8], disk_bytes: u64) -> u32 {
    let covered = usize::try_from(checksummed_batmap_bytes(disk_bytes)).expect("a batmap fits memory");
    !byte_sum(&map[..covered])
}

fn corrupt(reason: &'static str) -> Error {
    Error::new(ErrorKind::Corrupt, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Change = fn(&mut BatmapHeaderBytes);

    const DISK: u64 = 64 << 20;

    fn header() -> BatmapHeader {
        BatmapHeader::new(FileOffset::new(2048), 32)
    }

    fn checked(change: impl FnOnce(&mut BatmapHeaderBytes)) -> Result<BatmapHeader> {
        let mut bytes = header().bytes;
        change(&mut bytes);
        UncheckedBatmapHeader::parse(bytes.as_bytes())?.check(FileOffset::new(2048), 32, DISK)
    }

    #[test]
    fn a_new_map_is_clear_and_valid() {
        let header = checked(|_| ()).unwrap();
        assert_eq!(header.map_range(), FileRange::new(FileOffset::new(2560), 512));
        assert!(header.check_map(&[0; 512], DISK).is_ok());
        assert_eq!((header.marker(), header.key_hash()), (0, None));
    }

    #[test]
    fn the_checksum_covers_as_many_sectors_as_the_size_of_the_disk_says() {
        assert_eq!(checksummed_batmap_bytes(0), 512);
        assert_eq!(checksummed_batmap_bytes(8 << 30), 512);
        assert_eq!(checksummed_batmap_bytes((8 << 30) + (2 << 20)), 512);
        assert_eq!(checksummed_batmap_bytes((8 << 30) + (16 << 20)), 1024);
    }

    #[test]
    fn a_changed_bit_needs_a_new_checksum() {
        let mut map = vec![0; 512];
        map[0] = 0x80;
        assert!(header().check_map(&map, DISK).is_err());
        assert!(header().with_map(&map, DISK).check_map(&map, DISK).is_ok());
        assert_eq!(batmap_checksum(&map, DISK), !0x80);
    }

    #[test]
    fn version_1_1_sums_signed_bytes() {
        let mut map = vec![0; 512];
        map[0] = 0xff;
        let old = checked(|h| {
            h.batmap_version = BATMAP_VERSION_SIGNED.into();
            h.checksum = 0.into(); // the complement of -1
        });
        assert!(old.unwrap().check_map(&map, DISK).is_ok());
    }

    #[test]
    fn hostile_headers_are_refused() {
        let stories: [(Change, &str); 6] = [
            (|h| h.cookie[0] = 0, "invalid cookie"),
            (|h| h.batmap_offset = 2048.into(), "invalid batmap offset"),
            (|h| h.batmap_offset = 2561.into(), "invalid batmap offset"),
            (|h| h.batmap_offset = (u64::MAX - 511).into(), "invalid batmap offset"),
            (|h| h.batmap_size = 0.into(), "invalid batmap size"),
            (
                |h| (h.batmap_size, h.batmap_offset) = (u32::MAX.into(), (u64::MAX - 1023).into()),
                "invalid batmap offset",
            ),
        ];
        for (change, words) in stories {
            assert_eq!(checked(change).err().unwrap().to_string(), words);
        }
        assert!(header().check_map(&[0; 511], DISK).is_err());
    }

    #[test]
    fn a_key_hash_and_a_marker_are_seen() {
        let header = checked(|h| (h.key_cookie, h.key_hash, h.marker) = (1, [3; 32], 7)).unwrap();
        assert_eq!(header.key_hash(), Some(KeyHash { nonce: [0; 32], hash: [3; 32] }));
        assert_eq!(header.marker(), 7);
        assert_eq!(header.with_marker(9).marker(), 9);
        let hash = KeyHash { nonce: [4; 32], hash: [5; 32] };
        assert_eq!(self::header().with_key_hash(hash).key_hash(), Some(hash));
    }
}
