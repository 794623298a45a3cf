//! The shape of a block, and where a block may lie.
//!
//! ```text
//!   block    | bitmap: one bit per sector, padded to 512 | data              |
//!   file     ..................................|----------^ a multiple of 4096
//! ```

use block_core::{Error, ErrorKind, FileOffset, FileRange, GuestRange, Result, SECTOR};

/// Data of new blocks begins at a multiple of this, so that storages with large sectors need no read-modify-write.
const DATA_ALIGNMENT: u64 = 4096;
/// The format's own limit, and the only size that is written.
const BLOCK_BYTES_MAX: u32 = 2 << 20;
/// Our own limit: fewer than eight sectors would leave a bitmap of less than a byte, and no tool writes blocks smaller
/// than a page.
const BLOCK_BYTES_MIN: u32 = 4096;
/// The last sector that an entry of the table can name; the one behind it means "unused".
const FIRST_SECTOR_MAX: u64 = (u32::MAX - 1) as u64;

/// Sizes of a block and its parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockShape {
    data_bytes: u32,
}

impl BlockShape {
    /// Blocks of 2 MiB.
    pub const DEFAULT: Self = Self { data_bytes: BLOCK_BYTES_MAX };

    /// Blocks of `data_bytes`.
    pub fn new(data_bytes: u32) -> Result<Self> {
        if !data_bytes.is_power_of_two() || !(BLOCK_BYTES_MIN..=BLOCK_BYTES_MAX).contains(&data_bytes) {
            return Err(Error::new(ErrorKind::Corrupt, "invalid block size"));
        }
        Ok(Self { data_bytes })
    }

    /// Bytes of the disk in a block.
    pub fn data_bytes(self) -> u64 {
        u64::from(self.data_bytes)
    }

    /// Sectors of the disk in a block.
    pub fn sectors(self) -> usize {
        self.data_bytes as usize / 512
    }

    /// Bytes of a block's bitmap in the file: whole sectors.
    pub fn bitmap_bytes(self) -> u64 {
        (u64::from(self.data_bytes) / SECTOR).div_ceil(8).next_multiple_of(SECTOR)
    }

    /// Bytes of a block in the file.
    pub fn block_bytes(self) -> u64 {
        self.bitmap_bytes() + self.data_bytes()
    }

    /// Blocks of a disk; the last one may be used in part.
    pub fn blocks(self, disk_bytes: u64) -> u64 {
        disk_bytes.div_ceil(self.data_bytes())
    }

    /// The block that a range lies in.
    ///
    /// # Panics
    /// When the range lies in more than one block.
    pub fn block_of(self, range: GuestRange) -> u64 {
        let block = range.start().get() / self.data_bytes();
        assert!(range.end().get() <= (block + 1) * self.data_bytes(), "{range} lies in one block");
        block
    }

    /// The sectors of its block that a range touches.
    pub fn sectors_of(self, range: GuestRange) -> std::ops::Range<usize> {
        let base = self.block_of(range) * self.data_bytes();
        let index = |bytes: u64| usize::try_from(bytes).expect("a block has at most 2 MiB");
        index((range.start().get() - base) / SECTOR)..index((range.end().get() - base).div_ceil(SECTOR))
    }

    /// Where the whole block lies whose first byte is at `start`.
    pub fn range_at(self, start: FileOffset) -> FileRange {
        FileRange::new(start, self.block_bytes())
    }

    /// Where the first block at or behind `end` may begin, so that its data is aligned.
    pub fn place_behind(self, end: FileOffset) -> Result<FileOffset> {
        let too_far = || Error::new(ErrorKind::NoSpace, "a block cannot begin beyond 2 TiB");
        let data = end
            .get()
            .checked_add(self.bitmap_bytes())
            .and_then(|least| least.checked_next_multiple_of(DATA_ALIGNMENT))
            .ok_or_else(too_far)?;
        let start = FileOffset::new(data - self.bitmap_bytes());
        if start.get() / SECTOR > FIRST_SECTOR_MAX { Err(too_far()) } else { Ok(start) }
    }

    /// The entry of the table for a block at `start`, which [`Self::place_behind`] gave.
    pub fn entry_for(start: FileOffset) -> u32 {
        u32::try_from(start.get() / SECTOR).expect("blocks are placed below 2 TiB")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use block_core::GuestOffset;

    #[test]
    fn a_block_of_two_mebibytes_has_one_sector_of_bitmap() {
        let shape = BlockShape::DEFAULT;
        assert_eq!((shape.bitmap_bytes(), shape.sectors(), shape.block_bytes()), (512, 4096, 2_097_664));
        assert_eq!(BlockShape::new(4096).unwrap().bitmap_bytes(), 512);
    }

    #[test]
    fn block_sizes_that_no_bitmap_fits_are_refused() {
        for wrong in [0, 1, 512, 2048, 4097, (2 << 20) + 1, 4 << 20, u32::MAX] {
            assert!(BlockShape::new(wrong).is_err(), "{wrong}");
        }
        for right in [4096, 64 << 10, 512 << 10, 2 << 20] {
            assert!(BlockShape::new(right).is_ok(), "{right}");
        }
    }

    #[test]
    fn data_begins_at_a_page() {
        let shape = BlockShape::DEFAULT;
        let place = |end| shape.place_behind(FileOffset::new(end)).unwrap().get();
        assert_eq!(place(3072), 3584);
        assert_eq!(place(3584 + shape.block_bytes()), 2_104_832);
        assert_eq!(place(4608), 7680);
        assert_eq!(place(3584), 3584);
        assert_eq!(place(3585), 7680);
    }

    #[test]
    fn blocks_end_where_the_entry_of_the_table_ends() {
        let shape = BlockShape::DEFAULT;
        let last = FIRST_SECTOR_MAX * 512;
        let fits = (last + 512) / 4096 * 4096 - 512;
        assert_eq!(shape.place_behind(FileOffset::new(fits)).unwrap().get(), fits);
        assert!(BlockShape::entry_for(FileOffset::new(fits)) < u32::MAX);
        assert_eq!(shape.place_behind(FileOffset::new(fits + 1)).unwrap_err().kind(), ErrorKind::NoSpace);
        assert!(shape.place_behind(FileOffset::new(u64::MAX)).is_err());
    }

    #[test]
    fn sectors_of_a_range_are_counted_from_its_block() {
        let shape = BlockShape::DEFAULT;
        let range = GuestRange::new(GuestOffset::new((2 << 20) + 1000), 100);
        assert_eq!((shape.block_of(range), shape.sectors_of(range)), (1, 1..3));
        let all = GuestRange::new(GuestOffset::new(2 << 20), 2 << 20);
        assert_eq!(shape.sectors_of(all), 0..4096);
    }
}
