//! The header of dynamic and differencing images: where the table is, how large blocks are, who the parent is.

use block_core::{Error, ErrorKind, FileOffset, FileRange, Result, SECTOR};
use uuid::Uuid;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::layout::{HEADER_COOKIE, HEADER_VERSION, HeaderBytes, LOCATORS, NO_OFFSET};
use super::locator::{Locator, LocatorCode, decode_parent_name, encode_parent_name};
use super::{BlockShape, Timestamp};

/// The bytes of a header, from a stranger.
#[derive(Clone)]
pub struct UncheckedHeader(HeaderBytes);

impl UncheckedHeader {
    /// From the bytes of a header.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let (bytes, _) = HeaderBytes::read_from_prefix(bytes).map_err(|_| corrupt("too short"))?;
        Ok(Self(bytes))
    }

    /// Everything that using the image relies on. A locator that cannot be used does not make the header useless.
    pub fn check(self) -> Result<Header> {
        if let Some(reason) = self.first_problem_of_use() {
            return Err(corrupt(reason));
        }
        for slot in &self.0.parent_locators {
            LocatorCode::from_bits(slot.platform_code.get())?;
        }
        let block_shape = BlockShape::new(self.0.block_size.get())?;
        Ok(Header { bytes: self.0, block_shape })
    }

    /// The first rule of the format that the header breaks, for `check`; `file_bytes` is the size of the image.
    pub fn first_problem(&self, file_bytes: u64) -> Option<&'static str> {
        let table_offset = self.0.table_offset.get();
        let reserved = [self.0.reserved_1.as_bytes(), &self.0.reserved_2];
        self.first_problem_of_use()
            .or((table_offset >= file_bytes).then_some("invalid table offset"))
            .or(BlockShape::new(self.0.block_size.get()).is_err().then_some("invalid block size"))
            .or(reserved.concat().iter().any(|&byte| byte != 0).then_some("invalid reserved bits"))
    }

    /// The bytes, as they are.
    pub fn bytes(&self) -> &HeaderBytes {
        &self.0
    }

    fn first_problem_of_use(&self) -> Option<&'static str> {
        let bytes = &self.0;
        let table_offset = bytes.table_offset.get();
        let when = |broken: bool, reason: &'static str| broken.then_some(reason);
        when(bytes.cookie != HEADER_COOKIE, "invalid cookie")
            .or(when(bytes.checksum.get() != bytes.computed_checksum(), "invalid checksum"))
            .or(when(bytes.header_version.get() != HEADER_VERSION, "invalid header version"))
            .or(when(bytes.data_offset.get() != NO_OFFSET, "invalid data offset"))
            .or(when(table_offset == 0 || !table_offset.is_multiple_of(SECTOR), "invalid table offset"))
            .or(when(table_range(bytes).is_none(), "invalid table offset"))
    }
}

/// The table with its padding: at least one sector, also without a block.
fn table_range(bytes: &HeaderBytes) -> Option<FileRange> {
    let length = (u64::from(bytes.max_bat_size.get()) * 4).next_multiple_of(SECTOR).max(SECTOR);
    FileRange::checked(bytes.table_offset.get(), length)
}

/// A header that can be relied on.
#[derive(Clone)]
pub struct Header {
    bytes: HeaderBytes,
    block_shape: BlockShape,
}

impl Header {
    /// The header of a new image without a parent, its table of `entries` at `table_offset`.
    pub(super) fn new(table_offset: FileOffset, entries: u32) -> Self {
        let mut bytes = HeaderBytes::new_zeroed();
        bytes.cookie = HEADER_COOKIE;
        bytes.data_offset = NO_OFFSET.into();
        bytes.table_offset = table_offset.get().into();
        bytes.header_version = HEADER_VERSION.into();
        bytes.max_bat_size = entries.into();
        let block_shape = BlockShape::DEFAULT;
        bytes.block_size = u32::try_from(block_shape.data_bytes()).expect("a block has 2 MiB").into();
        Self { bytes, block_shape }.checksummed()
    }

    /// The same with a parent. A raw parent has no identity.
    pub(super) fn with_parent(
        mut self,
        uuid: Option<Uuid>,
        timestamp: Timestamp,
        name: &str,
        locators: &[Locator],
    ) -> Result<Self> {
        assert!(locators.len() <= LOCATORS, "a header has {LOCATORS} locators");
        self.bytes.parent_uuid = *uuid.unwrap_or(Uuid::nil()).as_bytes();
        self.bytes.parent_timestamp = timestamp.get().into();
        self.bytes.parent_name = encode_parent_name(name)?;
        for (slot, locator) in self.bytes.parent_locators.iter_mut().zip(locators) {
            *slot = locator.to_slot();
        }
        Ok(self.checksummed())
    }

    /// The same with another parent, and paths of other lengths in the same places.
    pub(super) fn with_new_parent(
        &self,
        uuid: Option<Uuid>,
        timestamp: Timestamp,
        name: &str,
        locators: &[(usize, Locator)],
    ) -> Result<Self> {
        let mut header = self.clone().with_parent(uuid, timestamp, name, &[])?;
        for (slot, locator) in locators {
            let length = locator.encoded().length();
            let length = u32::try_from(length).expect("an encoded path is short");
            header.bytes.parent_locators[*slot].data_length = length.into();
        }
        Ok(header.checksummed())
    }

    /// The same with another number of entries in its table.
    pub(super) fn with_table_entries(&self, entries: u32) -> Self {
        let mut header = self.clone();
        header.bytes.max_bat_size = entries.into();
        header.checksummed()
    }

    /// The same with the paths of these slots in other places.
    pub(super) fn with_paths_at(&self, places: &[(usize, FileOffset)]) -> Self {
        let mut header = self.clone();
        for (slot, place) in places {
            header.bytes.parent_locators[*slot].data_offset = place.get().into();
        }
        header.checksummed()
    }

    /// The block allocation table with its padding.
    pub fn table_range(&self) -> FileRange {
        table_range(&self.bytes).expect("the table's range was checked with the header")
    }

    /// Entries that the table has room for.
    pub fn table_entries(&self) -> u32 {
        self.bytes.max_bat_size.get()
    }

    /// Sizes of a block.
    pub fn block_shape(&self) -> BlockShape {
        self.block_shape
    }

    /// The parent's identity; `None` for a raw parent (or for no parent).
    pub fn parent_uuid(&self) -> Option<Uuid> {
        Some(Uuid::from_bytes(self.bytes.parent_uuid)).filter(|uuid| !uuid.is_nil())
    }

    /// When the parent was last changed before the child was made.
    pub fn parent_timestamp(&self) -> Timestamp {
        Timestamp::new(self.bytes.parent_timestamp.get())
    }

    /// The parent's bare name.
    pub fn parent_name(&self) -> Result<String> {
        decode_parent_name(&self.bytes.parent_name)
    }

    /// The locators in the order of their slots; one that makes no sense hides no other.
    pub fn locators(&self) -> impl Iterator<Item = Result<Locator>> + '_ {
        self.bytes.parent_locators.iter().filter_map(|slot| Locator::check(slot).transpose())
    }

    /// The bytes to store.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.as_bytes()
    }

    /// The fields, as stored.
    pub fn bytes(&self) -> &HeaderBytes {
        &self.bytes
    }

    fn checksummed(mut self) -> Self {
        self.bytes.checksum = self.bytes.computed_checksum().into();
        self
    }
}

fn corrupt(reason: &'static str) -> Error {
    Error::new(ErrorKind::Corrupt, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Change = fn(&mut HeaderBytes);

    fn header() -> Header {
        Header::new(FileOffset::new(1536), 32)
    }

    fn changed(change: impl FnOnce(&mut HeaderBytes)) -> UncheckedHeader {
        let mut header = header();
        change(&mut header.bytes);
        UncheckedHeader(header.checksummed().bytes)
    }

    #[test]
    fn what_we_write_we_accept() {
        let locator = Locator::new(LocatorCode::MacX, FileOffset::new(3072), 14);
        let written = header().with_parent(Some(Uuid::from_u128(9)), Timestamp::new(5), "a.vhd", &[locator]).unwrap();
        let unchecked = UncheckedHeader::parse(written.as_bytes()).unwrap();
        assert_eq!(unchecked.first_problem(1 << 20), None);
        let read = unchecked.check().unwrap();
        assert_eq!(read.parent_name().unwrap(), "a.vhd");
        assert_eq!(read.parent_uuid(), Some(Uuid::from_u128(9)));
        assert_eq!(read.locators().collect::<Result<Vec<_>>>().unwrap(), [locator]);
        assert_eq!(read.table_range(), FileRange::new(FileOffset::new(1536), 512));
    }

    #[test]
    fn every_rule_is_told_by_its_own_words() {
        let stories: [(Change, &str); 8] = [
            (|h| h.cookie[0] = 0, "invalid cookie"),
            (|h| h.header_version = 2.into(), "invalid header version"),
            (|h| h.data_offset = 0.into(), "invalid data offset"),
            (|h| h.table_offset = 0.into(), "invalid table offset"),
            (|h| h.table_offset = 1537.into(), "invalid table offset"),
            (|h| h.table_offset = (u64::MAX - 511).into(), "invalid table offset"),
            (|h| h.block_size = 3_000_000.into(), "invalid block size"),
            (|h| h.parent_locators[7].platform_code = 1.into(), "invalid platform code"),
        ];
        for (change, words) in stories {
            let error = changed(change).check().err().unwrap();
            assert_eq!((error.to_string().as_str(), error.kind()), (words, ErrorKind::Corrupt));
        }
        let mut torn = header().bytes;
        torn.max_bat_size = 33.into();
        assert_eq!(UncheckedHeader(torn).check().err().unwrap().to_string(), "invalid checksum");
        assert_eq!(changed(|h| h.reserved_2[0] = 1).first_problem(4096), Some("invalid reserved bits"));
        assert_eq!(changed(|_| ()).first_problem(1536), Some("invalid table offset"));
    }

    #[test]
    fn the_largest_table_does_not_overflow() {
        let header = changed(|h| h.max_bat_size = u32::MAX.into()).check().unwrap();
        assert_eq!(header.table_range().length(), 17_179_869_184);
    }

    #[test]
    fn a_locator_without_sense_hides_no_other() {
        let header = changed(|h| {
            h.parent_locators[0] = Locator::new(LocatorCode::MacX, FileOffset::new(0), 14).to_slot();
            h.parent_locators[0].data_offset = u64::MAX.into();
            h.parent_locators[3] = Locator::new(LocatorCode::W2ru, FileOffset::new(4096), 14).to_slot();
        });
        let locators: Vec<_> = header.check().unwrap().locators().map(|locator| locator.is_ok()).collect();
        assert_eq!(locators, [false, true]);
    }
}
