//! VHD: fixed, dynamic and differencing images, on disk as the public specification has them and as the storage
//! managers of Xen read and write them (the `tap` creator with its batmap).
//!
//! ```text
//!   layout    bytes <-> structs, checksums                 blueprint  the head of a new image
//!   footer    what it is, how large; which copy counts     metadata   where the tables of an opened image are
//!   header    where the table is; the parent's name        shape      a block: bitmap, data, where it may lie
//!   batmap    which blocks are complete                    locator    paths to the parent, as bytes
//!
//!   open      finds the parts and distrusts them           room       blocks made ahead, durably empty
//!   map       where bytes are; loads bitmaps               write      plan, then commit: bitmap and table
//!   tables    the table and bitmaps in memory              free       table first, then the room
//!   create    a new image                                  close      footer, length, batmap
//!   check     a read-only verdict                            encryption AES-XTS, and the hash of its key
//!   grow      within the table, the footers only           resize     with a larger table, by a journal
//!   journal   what a resize writes over                    revert     back to what was before
//!   relink    another parent, in place                     clear      an image without its data
//!   displaced room for a batmap that a stranger wrote over
//! ```

mod batmap;
mod blueprint;
mod check;
mod clear;
mod close;
mod create;
mod displaced;
mod encryption;
mod footer;
mod free;
mod geometry;
mod grow;
mod header;
mod image;
mod journal;
mod layout;
mod locator;
mod map;
mod metadata;
mod open;
mod parts;
mod relative;
mod relink;
mod resize;
mod revert;
mod room;
mod shape;
mod stale;
mod tables;
mod timestamp;
mod write;

pub use batmap::{BatmapHeader, KeyHash, UncheckedBatmapHeader, batmap_checksum, checksummed_batmap_bytes};
pub use blueprint::{Blueprint, CreateOptions, ParentLink};
pub use check::{CheckOptions, Verdict, check};
pub use clear::clear_data;
pub use create::create;
pub use displaced::{give_batmap_its_place, is_batmap_displaced};
pub use encryption::DiskKey;
pub use footer::{BatmapRule, DiskType, Footer, UncheckedFooter, choose_footer, disk_bytes_rounded};
pub use geometry::DiskGeometry;
pub use header::{Header, UncheckedHeader};
pub use image::VhdImage;
pub use journal::{EntryKind, FoundJournal, Journal, JournalEntry};
pub use layout::{
    BATMAP_HEADER_BYTES, BatmapHeaderBytes, FOOTER_BYTES, FooterBytes, HEADER_BYTES, HeaderBytes, ParentLocatorBytes,
    UNUSED_ENTRY,
};
pub use locator::{Locator, LocatorCode, decode_parent_name, encode_parent_name};
pub use metadata::Metadata;
pub use relative::relative_path;
pub use relink::Relink;
pub use resize::{Resize, ResizeStep};
pub use revert::revert;
pub use shape::BlockShape;
pub use timestamp::Timestamp;
