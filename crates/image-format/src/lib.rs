//! One image in one storage: the rules of raw and VHD. A format answers *where the bytes of the disk are*, gives room
//! for new ones, and makes them visible in its tables. It moves no guest data and does not know its parent.
//!
//! ```text
//!   map(range) ------> data at an offset | zero | ask my parent | not loaded yet
//!   plan_write(range) -> a place for the bytes --(the caller writes them)--> commit: tables, then visible
//!   free(granule) -----> out of the tables, durably --(all old readers gone)--> release: room for others
//! ```
//!
//! What comes from an image is a stranger's word until it is checked: `Unchecked...` types are bytes, the types
//! without that word are proof.

#![forbid(unsafe_code)]

mod bitmap;
pub mod change_log;
mod format;
mod image;
mod promise;
mod raw;
mod sync;
pub mod vhd;

pub use bitmap::Bitmap;
pub use format::{Format, Freed, ImageKind, Lookup, MappedExtent, Mapping, Miss, ParentReference, WritePlan};
pub use image::Image;
pub use raw::RawImage;
