//! A segment: a run of sectors within one granted page.
//!
//! ```text
//!   0        4            5           6      8
//!   | gref   | first_sect | last_sect | pad  |      both inclusive, 0 to 7
//! ```

use std::fmt;

use super::RING_PAGE_BYTES;

/// Bytes of a segment, in a slot and in an indirect page alike.
pub const SEGMENT_BYTES: usize = 8;
/// Sectors in a page.
pub const PAGE_SECTORS: u8 = 8;
/// Segments in an indirect page.
pub const SEGMENTS_PER_PAGE: usize = RING_PAGE_BYTES / SEGMENT_BYTES;
const SECTOR_BYTES: u16 = 512;

const _: () = assert!(RING_PAGE_BYTES == PAGE_SECTORS as usize * SECTOR_BYTES as usize);

/// Some sectors of a granted page; at least one, and all of them in the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    grant: u32,
    first: u8,
    last: u8,
}

/// A segment that is none: its sectors do not ascend, or lie outside of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentError {
    /// As the guest wrote it.
    pub first: u8,
    /// As the guest wrote it.
    pub last: u8,
}

impl fmt::Display for SegmentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a segment of the sectors {} to {} of a page that has {PAGE_SECTORS}", self.first, self.last)
    }
}

impl std::error::Error for SegmentError {}

impl Segment {
    /// The sectors from `first` to `last`, both included, of the page that `grant` refers to.
    ///
    /// # Errors
    /// Sectors that do not ascend or lie outside of a page.
    pub const fn new(grant: u32, first: u8, last: u8) -> Result<Segment, SegmentError> {
        if first > last || last >= PAGE_SECTORS {
            return Err(SegmentError { first, last });
        }
        Ok(Segment { grant, first, last })
    }

    /// A whole page.
    pub const fn page(grant: u32) -> Segment {
        Segment { grant, first: 0, last: PAGE_SECTORS - 1 }
    }

    /// Which page: a grant reference.
    pub const fn grant(self) -> u32 {
        self.grant
    }

    /// Where in the page it starts, in bytes.
    pub const fn offset(self) -> u16 {
        self.first as u16 * SECTOR_BYTES
    }

    /// How long it is, in bytes: 512 to 4096.
    pub const fn length(self) -> u16 {
        self.sectors() as u16 * SECTOR_BYTES
    }

    /// How long it is, in sectors: 1 to 8.
    pub const fn sectors(self) -> u8 {
        self.last - self.first + 1
    }

    /// Its bytes.
    pub fn encode(self) -> [u8; SEGMENT_BYTES] {
        let mut bytes = [0; SEGMENT_BYTES];
        bytes[..4].copy_from_slice(&self.grant.to_le_bytes());
        bytes[4] = self.first;
        bytes[5] = self.last;
        bytes
    }

    /// What its bytes mean.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn decode(bytes: &[u8; SEGMENT_BYTES]) -> Result<Segment, SegmentError> {
        let [a, b, c, d, first, last, _, _] = *bytes;
        Segment::new(u32::from_le_bytes([a, b, c, d]), first, last)
    }
}

/// The segments that a private copy of memory begins with, one after the other; appended to `segments`.
///
/// # Errors
/// The first segment that is none.
///
/// # Panics
/// When there are fewer than `count` in `bytes`: the caller has copied what it asks for.
pub fn decode_segments(bytes: &[u8], count: usize, segments: &mut Vec<Segment>) -> Result<(), SegmentError> {
    let (all, _) = bytes.as_chunks::<SEGMENT_BYTES>();
    for bytes in &all[..count] {
        segments.push(Segment::decode(bytes)?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_a_segment() {
        let segment = Segment::new(0x0102_0304, 1, 6).unwrap();
        assert_eq!(segment.encode(), [4, 3, 2, 1, 1, 6, 0, 0]);
        assert_eq!((segment.offset(), segment.length(), segment.sectors()), (512, 3072, 6));
        assert_eq!((Segment::page(9).offset(), Segment::page(9).length()), (0, 4096));
    }

    #[test]
    fn of_all_pairs_of_sectors_those_that_ascend_within_a_page_are_segments() {
        for (first, last) in (0..=255).flat_map(|first| (0..=255).map(move |last| (first, last))) {
            let bytes = [7, 0, 0, 0, first, last, 0xff, 0xff];
            let expected = (first <= last && last <= 7).then_some((7, first, last));
            let decoded = Segment::decode(&bytes).ok().map(|segment| (segment.grant, segment.first, segment.last));
            assert_eq!(decoded, expected);
        }
    }

    #[test]
    fn a_page_of_segments_is_read_up_to_the_first_that_is_none() {
        let mut page = [0; RING_PAGE_BYTES];
        for (index, bytes) in page.as_chunks_mut::<SEGMENT_BYTES>().0.iter_mut().enumerate() {
            *bytes = Segment::page(u32::try_from(index).unwrap()).encode();
        }
        let mut segments = Vec::new();
        decode_segments(&page, SEGMENTS_PER_PAGE, &mut segments).unwrap();
        assert_eq!((segments.len(), segments[511].grant()), (512, 511));
        page[8 * 3 + 5] = 8;
        assert_eq!(decode_segments(&page, 4, &mut segments), Err(SegmentError { first: 0, last: 8 }));
        assert_eq!(decode_segments(&page, 3, &mut Vec::new()), Ok(()));
    }
}
