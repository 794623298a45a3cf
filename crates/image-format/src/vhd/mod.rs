//! VHD: fixed, dynamic and differencing images, on disk as the public specification has them and as the storage
//! managers of Xen read and write them (the `tap` creator with its batmap).
//!
//! ```text
//!   layout    bytes <-> structs, checksums                 blueprint  the head of a new image
//!   footer    what it is, how large; which copy counts     metadata   where the tables of an opened image are
//!   header    where the table is; the parent's name        shape      a block: bitmap, data, where it may lie
//!   batmap    which blocks are complete                    locator    paths to the parent, as bytes
//! ```

mod batmap;
mod blueprint;
mod footer;
mod geometry;
mod header;
mod layout;
mod locator;
mod metadata;
mod relative;
mod shape;
mod timestamp;

pub use batmap::{BatmapHeader, KeyHash, UncheckedBatmapHeader, batmap_checksum, checksummed_batmap_bytes};
pub use blueprint::{Blueprint, NewImage, ParentLink};
pub use footer::{BatmapRule, DiskType, Footer, UncheckedFooter, choose_footer, disk_bytes_rounded};
pub use geometry::DiskGeometry;
pub use header::{Header, UncheckedHeader};
pub use layout::{
    BATMAP_HEADER_BYTES, BatmapHeaderBytes, FOOTER_BYTES, FooterBytes, HEADER_BYTES, HeaderBytes, ParentLocatorBytes,
    UNUSED_ENTRY,
};
pub use locator::{Locator, LocatorCode, decode_parent_name, encode_parent_name};
pub use metadata::Metadata;
pub use relative::relative_path;
pub use shape::BlockShape;
pub use timestamp::Timestamp;
