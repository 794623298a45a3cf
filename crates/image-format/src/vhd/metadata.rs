//! Where everything but blocks lies in an opened dynamic or differencing image, and which entries of the table may be
//! believed. A block that lies on a table would let a guest write the table.

use block_core::{Error, ErrorKind, FileOffset, FileRange, Result, SECTOR};

use super::footer::header_range;
use super::layout::{FOOTER_BYTES, UNUSED_ENTRY};
use super::locator::room_of;
use super::{BatmapHeader, BlockShape, DiskType, Footer, Header};

/// Our own limit: a table of 256 MiB in memory, for disks up to 128 TiB in blocks of 2 MiB.
const BLOCKS_MAX: u64 = 1 << 26;
const ENTRIES_IN_SECTOR: usize = 512 / 4;

/// The places of an image's tables.
#[derive(Clone, Debug)]
pub struct Metadata {
    shape: BlockShape,
    blocks: usize,
    disk_bytes: u64,
    table: FileRange,
    table_entries: usize,
    places: Vec<FileRange>,
    end: FileOffset,
}

impl Metadata {
    /// From footer and header of an image in a storage of `file_bytes`. The batmap is put in by
    /// [`Self::with_batmap`], since it is found by what this says.
    ///
    /// # Panics
    /// For a fixed image, which has no tables.
    pub fn new(footer: &Footer, header: &Header, file_bytes: u64) -> Result<Self> {
        assert_ne!(footer.disk_type(), DiskType::Fixed, "a fixed image has no tables");
        let shape = header.block_shape();
        let blocks = shape.blocks(footer.disk_bytes());
        if blocks > u64::from(header.table_entries()) {
            return Err(corrupt("the table has fewer entries than the disk has blocks"));
        }
        if blocks > BLOCKS_MAX {
            return Err(Error::new(ErrorKind::LimitReached, format!("{blocks} blocks are more than {BLOCKS_MAX}")));
        }
        let table = FileRange::new(header.table_range().start(), blocks * 4);
        if table.end().get().next_multiple_of(SECTOR) > file_bytes {
            return Err(corrupt("the table lies behind the end of the file"));
        }
        let header_place = header_range(footer)?.expect("an image that is not fixed has a header");
        let copy = FileRange::new(FileOffset::new(0), FOOTER_BYTES as u64);
        let mut places = vec![copy, header_place, header.table_range()];
        if header.table_range().overlaps(header_place) || header.table_range().overlaps(copy) {
            return Err(corrupt("invalid table offset"));
        }
        places.extend(locator_rooms(header));
        let blocks = usize::try_from(blocks).expect("bounded by BLOCKS_MAX");
        let end = places.iter().map(|place| place.end()).max().expect("there is a header");
        let end = FileOffset::new(
            end.get().checked_next_multiple_of(SECTOR).ok_or_else(|| corrupt("the headers have no end"))?,
        );
        let table_entries = header.table_entries() as usize;
        Ok(Self { shape, blocks, disk_bytes: footer.disk_bytes(), table, table_entries, places, end })
    }

    /// The same for an image with a batmap.
    pub fn with_batmap(mut self, batmap: &BatmapHeader) -> Self {
        self.places.extend([batmap.header_range(), batmap.map_range()]);
        self.end = self.end.max(batmap.header_range().end()).max(batmap.map_range().end());
        self
    }

    /// Sizes of a block.
    pub fn shape(&self) -> BlockShape {
        self.shape
    }

    /// Blocks of the disk, which are the entries of the table in use.
    pub fn blocks(&self) -> usize {
        self.blocks
    }

    /// Bytes of the disk.
    pub fn disk_bytes(&self) -> u64 {
        self.disk_bytes
    }

    /// The entries of the table in use.
    pub fn table(&self) -> FileRange {
        self.table
    }

    /// Which sector of the table holds the entry of `block`.
    pub fn table_sector_of(&self, block: usize) -> usize {
        block / ENTRIES_IN_SECTOR
    }

    /// A sector of the table: where it lies, and its bytes. Entries that the disk does not use yet are unused, what
    /// lies behind the table is zero.
    pub fn table_sector(&self, sector: usize, entry_of: impl Fn(usize) -> u32) -> (FileOffset, Vec<u8>) {
        let first = sector * ENTRIES_IN_SECTOR;
        let entries = (first..first + ENTRIES_IN_SECTOR).flat_map(|block| match block {
            _ if block < self.blocks => entry_of(block).to_be_bytes(),
            _ if block < self.table_entries => UNUSED_ENTRY.to_be_bytes(),
            _ => [0; 4],
        });
        (self.table.start() + sector as u64 * SECTOR, entries.collect())
    }

    /// The first place behind all tables.
    pub fn end_of_headers(&self) -> FileOffset {
        self.end
    }

    /// Where the block of an entry begins; `None` for an unused entry.
    pub fn block_start(&self, entry: u32) -> Result<Option<FileOffset>> {
        if entry == UNUSED_ENTRY {
            return Ok(None);
        }
        let start = FileOffset::new(u64::from(entry) * SECTOR);
        let block = self.shape.range_at(start);
        if start < self.end && self.places.iter().any(|place| place.overlaps(block)) {
            return Err(Error::new(ErrorKind::Corrupt, format!("a block at {start} clobbers headers")));
        }
        Ok(Some(start))
    }
}

/// What used locators claim; a claim that does not make sense cannot be overwritten either.
fn locator_rooms(header: &Header) -> impl Iterator<Item = FileRange> + '_ {
    let slots = header.bytes().parent_locators.iter();
    slots.filter(|slot| slot.platform_code.get() != 0).filter_map(room_of).filter(|room| !room.is_empty())
}

fn corrupt(reason: &'static str) -> Error {
    Error::new(ErrorKind::Corrupt, reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vhd::locator::{Locator, LocatorCode};
    use crate::vhd::{DiskType, Timestamp};
    use uuid::Uuid;

    fn footer(disk_bytes: u64) -> Footer {
        Footer::new(DiskType::Dynamic, disk_bytes, Uuid::from_u128(1), Timestamp::default())
    }

    fn metadata() -> Metadata {
        let header = Header::new(FileOffset::new(1536), 32);
        let batmap = BatmapHeader::new(header.table_range().end(), 32);
        Metadata::new(&footer(64 << 20), &header, 3584).unwrap().with_batmap(&batmap)
    }

    #[test]
    fn the_tables_of_a_64_mebibyte_disk() {
        let metadata = metadata();
        assert_eq!((metadata.blocks(), metadata.end_of_headers().get()), (32, 3072));
    }

    #[test]
    fn a_sector_of_the_table_holds_128_entries_then_unused_ones_then_zeroes() {
        let header = Header::new(FileOffset::new(1536), 301);
        let metadata = Metadata::new(&footer(300 << 21), &header, 4096).unwrap();
        assert_eq!([0, 127, 128, 299].map(|block| metadata.table_sector_of(block)), [0, 0, 1, 2]);
        let entry = |block: usize| u32::try_from(block).unwrap();
        let (place, bytes) = metadata.table_sector(2, entry);
        assert_eq!((place, bytes.len()), (FileOffset::new(1536 + 1024), 512));
        assert_eq!(bytes[..4], 256_u32.to_be_bytes());
        assert_eq!(bytes[43 * 4..46 * 4], [299_u32.to_be_bytes(), [0xff; 4], [0; 4]].concat());
    }

    #[test]
    fn blocks_on_tables_are_refused_and_all_others_found() {
        let metadata = metadata();
        assert_eq!(metadata.block_start(UNUSED_ENTRY).unwrap(), None);
        assert_eq!(metadata.block_start(6).unwrap(), Some(FileOffset::new(3072)));
        for wrong in 0..6 {
            assert!(metadata.block_start(wrong).is_err(), "{wrong}");
        }
        assert!(metadata.block_start(u32::MAX - 1).unwrap().is_some());
    }

    #[test]
    fn tables_that_do_not_fit_are_refused() {
        let header = Header::new(FileOffset::new(1536), 32);
        assert!(Metadata::new(&footer(66 << 20), &header, 1 << 20).is_err());
        assert!(Metadata::new(&footer(64 << 20), &header, 1600).is_err());
        let huge = Header::new(FileOffset::new(1536), u32::MAX);
        let error = Metadata::new(&footer(1 << 50), &huge, u64::MAX).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LimitReached);
        assert!(Metadata::new(&footer(u64::MAX), &huge, u64::MAX).is_err());
        let on_header = Header::new(FileOffset::new(1024), 32);
        assert!(Metadata::new(&footer(64 << 20), &on_header, 1 << 20).is_err());
    }

    #[test]
    fn a_locator_far_behind_does_not_forbid_the_blocks_before_it() {
        let locator = Locator::new(LocatorCode::MacX, FileOffset::new(1 << 30), 14);
        let header =
            Header::new(FileOffset::new(1536), 32).with_parent(None, Timestamp::default(), "p", &[locator]).unwrap();
        let metadata = Metadata::new(&footer(64 << 20), &header, 1 << 31).unwrap();
        assert!(metadata.block_start(8).is_ok());
        assert!(metadata.block_start(1 << 21).is_err());
        assert_eq!(metadata.end_of_headers().get(), (1 << 30) + 512);
    }
}
