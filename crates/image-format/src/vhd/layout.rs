//! The structures of a VHD as bytes. All integers are big-endian; names are those of the specification. Nothing here
//! judges: `footer`, `header` and `batmap` do.
//!
//! ```text
//!   dynamic and differencing                                      fixed
//!   0      footer, the copy (512)                                 0     data
//!   512    header (1024)                                          size  footer (512)
//!   1536   block allocation table: one u32 per block,
//!          padded to 512 with zeroes
//!          batmap header (512), batmap padded to 512   ('tap' only)
//!          parent locators, each padded to 512         (differencing only)
//!          blocks: bitmap (512 for 2 MiB), then data
//!   end    footer (512); on a block device in its last 512 bytes
//! ```

use super::BlockShape;
use crate::Bitmap;
use zerocopy::big_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of a footer.
pub const FOOTER_BYTES: usize = 512;
/// Bytes of a header.
pub const HEADER_BYTES: usize = 1024;
/// Bytes of a batmap header.
pub const BATMAP_HEADER_BYTES: usize = 512;
/// Bytes of the header of a resize's journal.
pub(super) const JOURNAL_HEADER_BYTES: usize = 512;
/// Bytes in front of those of an entry of a journal.
pub(super) const JOURNAL_ENTRY_BYTES: usize = 32;
/// An entry of the block allocation table that has no block.
pub const UNUSED_ENTRY: u32 = u32::MAX;

pub(super) const FOOTER_COOKIE: [u8; 8] = *b"conectix";
/// Put in both footers while a journalled resize is under way.
pub(super) const DISABLED_COOKIE: [u8; 8] = *b"v_poison";
pub(super) const HEADER_COOKIE: [u8; 8] = *b"cxsparse";
pub(super) const BATMAP_COOKIE: [u8; 8] = *b"tdbatmap";
pub(super) const JOURNAL_COOKIE: [u8; 8] = *b"vjournal";
pub(super) const JOURNAL_ENTRY_COOKIE: u64 = 0xaaaa_1234_4321_aaaa;
pub(super) const CREATOR: [u8; 4] = *b"tap\0";
pub(super) const CREATOR_VERSION: u32 = 0x0001_0003;
pub(super) const FEATURE_TEMPORARY: u32 = 1;
pub(super) const FEATURE_RESERVED: u32 = 2;
pub(super) const FORMAT_VERSION: u32 = 0x0001_0000;
pub(super) const HEADER_VERSION: u32 = 0x0001_0000;
pub(super) const BATMAP_VERSION: u32 = 0x0001_0002;
/// Batmaps of this version sum their bytes as signed numbers.
pub(super) const BATMAP_VERSION_SIGNED: u32 = 0x0001_0001;
pub(super) const NO_OFFSET: u64 = u64::MAX;
pub(super) const LOCATORS: usize = 8;
pub(super) const PARENT_NAME_BYTES: usize = 512;

/// The footer of every VHD, and its copy in front of dynamic and differencing ones.
///
/// ```text
///         0               4               8               12              16
///   0     | cookie "conectix"             | features      | version       |
///   16    | data_offset: the header       | timestamp     | creator       |
///   32    | creator ver.  | host os       | original_size                 |
///   48    | current_size                  | geometry      | disk_type     |
///   64    | checksum      | uuid (16 bytes)                               |
///   80    | ..uuid        |sav|hid| reserved, zero up to 512              |
/// ```
#[derive(Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[allow(missing_docs)] // the drawing names them
pub struct FooterBytes {
    pub cookie: [u8; 8],
    pub features: U32,
    pub file_format_version: U32,
    pub data_offset: U64,
    pub timestamp: U32,
    pub creator_application: [u8; 4],
    pub creator_version: U32,
    pub creator_host_os: U32,
    pub original_size: U64,
    pub current_size: U64,
    /// `cylinders << 16 | heads << 8 | sectors per track`.
    pub geometry: U32,
    pub disk_type: U32,
    pub checksum: U32,
    pub uuid: [u8; 16],
    pub saved: u8,
    /// Not in the specification: set by storage managers on images that users should not see.
    pub hidden: u8,
    pub reserved: [u8; 426],
}

/// The header of dynamic and differencing images.
///
/// ```text
///         0               4               8               12              16
///   0     | cookie "cxsparse"             | data_offset: all ones         |
///   16    | table_offset                  | version       | max_bat_size  |
///   32    | block_size    | checksum      | parent_uuid (16 bytes)        |
///   48    | ..parent_uuid                 | p. timestamp  | reserved      |
///   64    | parent_name: UTF-16BE, 512 bytes, zero padded                 |
///   576   | eight parent locators of 24 bytes                             |
///   768   | reserved, zero up to 1024                                     |
/// ```
#[derive(Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[allow(missing_docs)] // the drawing names them
pub struct HeaderBytes {
    pub cookie: [u8; 8],
    pub data_offset: U64,
    pub table_offset: U64,
    pub header_version: U32,
    pub max_bat_size: U32,
    pub block_size: U32,
    pub checksum: U32,
    pub parent_uuid: [u8; 16],
    pub parent_timestamp: U32,
    pub reserved_1: U32,
    pub parent_name: [u8; PARENT_NAME_BYTES],
    pub parent_locators: [ParentLocatorBytes; LOCATORS],
    pub reserved_2: [u8; 256],
}

/// Where one encoding of the path to the parent is.
///
/// ```text
///         0               4               8               12              16
///   0     | platform_code | data_space    | data_length   | reserved      |
///   16    | data_offset                   |
/// ```
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[allow(missing_docs)] // the drawing names them
pub struct ParentLocatorBytes {
    pub platform_code: U32,
    /// Room: in sectors by the specification, in bytes by the `tap` creator; below 512 it is sectors.
    pub data_space: U32,
    pub data_length: U32,
    pub reserved: U32,
    pub data_offset: U64,
}

/// The header of the batmap, directly behind the padded block allocation table.
///
/// ```text
///         0               4               8               12              16
///   0     | cookie "tdbatmap"             | batmap_offset                 |
///   16    | batmap_size   | version       | checksum      |mrk|set| nonce |
///   32    | ..nonce (32 bytes from 30)                             | hash |
///   64    | ..hash (32 bytes from 62)                     | reserved ..   |
/// ```
#[derive(Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[allow(missing_docs)] // the drawing names them
pub struct BatmapHeaderBytes {
    pub cookie: [u8; 8],
    pub batmap_offset: U64,
    /// In sectors.
    pub batmap_size: U32,
    pub batmap_version: U32,
    /// Of the map's bytes, not of this header.
    pub checksum: U32,
    pub marker: u8,
    pub key_cookie: u8,
    pub key_nonce: [u8; 32],
    pub key_hash: [u8; 32],
    pub reserved: [u8; 418],
}

/// The header of a resize's journal.
///
/// ```text
///         0               4               8               12              16
///   0     | cookie "vjournal"             | uuid of the image             |
///   16    | ..uuid                        | footer_offset                 |
///   32    | data_entries  | metadata_ent. | data_offset                   |
///   48    | metadata_offset               | journal_end (little-endian)   |
///   64    | zero up to 512                                                |
/// ```
#[derive(Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct JournalHeaderBytes {
    pub(super) cookie: [u8; 8],
    pub(super) uuid: [u8; 16],
    pub(super) footer_offset: U64,
    pub(super) data_entries: U32,
    pub(super) metadata_entries: U32,
    pub(super) data_offset: U64,
    pub(super) metadata_offset: U64,
    /// The one number that other tools store in the order of their machine.
    pub(super) journal_end: zerocopy::little_endian::U64,
    pub(super) padding: [u8; 448],
}

/// What stands in front of the bytes of each entry of a journal.
///
/// ```text
///         0               4               8               12              16
///   0     | cookie aaaa12344321aaaa       | kind          | size in bytes |
///   16    | offset in the image           | checksum      | anything      |
/// ```
#[derive(Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct JournalEntryBytes {
    pub(super) cookie: U64,
    pub(super) kind: U32,
    pub(super) size: U32,
    pub(super) offset: U64,
    pub(super) checksum: U32,
    pub(super) padding: U32,
}

const _: () = assert!(size_of::<JournalHeaderBytes>() == JOURNAL_HEADER_BYTES);
const _: () = assert!(size_of::<JournalEntryBytes>() == JOURNAL_ENTRY_BYTES);
const _: () = assert!(size_of::<FooterBytes>() == FOOTER_BYTES);
const _: () = assert!(size_of::<HeaderBytes>() == HEADER_BYTES);
const _: () = assert!(size_of::<ParentLocatorBytes>() == 24);
const _: () = assert!(size_of::<BatmapHeaderBytes>() == BATMAP_HEADER_BYTES);

/// Sum of bytes, as the checksums of footer, header and batmap need it.
pub(super) fn byte_sum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0_u32, |sum, &byte| sum.wrapping_add(u32::from(byte)))
}

/// The same with bytes as signed numbers.
pub(super) fn signed_byte_sum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0_u32, |sum, &byte| sum.wrapping_add_signed(i32::from(byte.cast_signed())))
}

/// The stored bitmap of a block that has every sector. Its padding stays zero.
pub(super) fn all_ones(shape: BlockShape) -> Vec<u8> {
    let mut bitmap = Bitmap::new(shape.sectors());
    bitmap.set_range(0..shape.sectors());
    bitmap.to_bytes(usize::try_from(shape.bitmap_bytes()).expect("a few sectors"))
}

impl FooterBytes {
    /// The checksum that these bytes should carry.
    pub fn computed_checksum(&self) -> u32 {
        !byte_sum(self.as_bytes()).wrapping_sub(byte_sum(self.checksum.as_bytes()))
    }
}

impl JournalEntryBytes {
    /// The checksum that these bytes should carry, in front of `bytes`.
    pub(super) fn computed_checksum(&self, bytes: &[u8]) -> u32 {
        let own = byte_sum(self.as_bytes()).wrapping_sub(byte_sum(self.checksum.as_bytes()));
        !own.wrapping_add(byte_sum(bytes))
    }
}

impl HeaderBytes {
    /// The checksum that these bytes should carry.
    pub fn computed_checksum(&self) -> u32 {
        !byte_sum(self.as_bytes()).wrapping_sub(byte_sum(self.checksum.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;

    #[test]
    fn fields_lie_where_the_specification_says() {
        assert_eq!(offset_of!(FooterBytes, geometry), 56);
        assert_eq!(offset_of!(FooterBytes, checksum), 64);
        assert_eq!(offset_of!(FooterBytes, hidden), 85);
        assert_eq!(offset_of!(HeaderBytes, checksum), 36);
        assert_eq!(offset_of!(HeaderBytes, parent_name), 64);
        assert_eq!(offset_of!(HeaderBytes, parent_locators), 576);
        assert_eq!(offset_of!(HeaderBytes, reserved_2), 768);
        assert_eq!(offset_of!(BatmapHeaderBytes, marker), 28);
        assert_eq!(offset_of!(BatmapHeaderBytes, key_nonce), 30);
        assert_eq!(offset_of!(BatmapHeaderBytes, reserved), 94);
    }

    #[test]
    fn signed_sums_take_high_bytes_as_negative() {
        assert_eq!(byte_sum(&[0xff, 1]), 0x100);
        assert_eq!(signed_byte_sum(&[0xff, 1]), 0);
        assert_eq!(signed_byte_sum(&[0x80]), 0_u32.wrapping_sub(128));
    }
}
