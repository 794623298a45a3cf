//! What every image format answers. Formats give places and keep tables; `image-chain` alone moves the bytes of the
//! disk.
//!
//! ```text
//!   absent --plan_write--> being made --(the caller writes the data), commit--> there
//!                             |   ^                                              |
//!            plan dropped <---+   +--- a second writer joins                    free
//!            (room is given back)                                                |
//!   absent <-- release <-- (every request that ran at that time has ended) <-----+
//! ```
//!
//! All calls are made by one executor. `map` answers from memory and never waits; what it needs from the storage is
//! loaded by `load` first. Ranges are whole sectors.

use std::path::PathBuf;
use std::sync::Arc;

use block_core::{FileOffset, FileRange, GuestRange, Result};
use storage_io::{Buffer, Executor, Hold, Storage};
use uuid::Uuid;

use crate::vhd::DiskKey;

/// The formats that an image can be in. Always told by whoever names the image, never guessed from its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ImageKind {
    /// The disk's bytes and nothing else.
    Raw,
    /// VHD: fixed, dynamic or differencing.
    Vhd,
}

/// How an image names its parent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParentReference {
    /// The parent's format.
    pub kind: ImageKind,
    /// The identity that the parent must have, if it is of a kind that has one.
    pub uuid: Option<Uuid>,
    /// Where it may be, to be tried in this order.
    pub candidates: Vec<PathBuf>,
}

/// Where the bytes of a run are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mapping {
    /// In this image's storage, from `offset` on.
    Data {
        /// The place of the run's first byte.
        offset: FileOffset,
    },
    /// Nowhere: this image says that they are zero.
    Zero,
    /// This image does not have them: ask its parent; without one they are zero.
    Parent,
}

/// A run of the disk with one mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MappedExtent {
    /// Which bytes.
    pub range: GuestRange,
    /// Where they are.
    pub mapping: Mapping,
}

/// What must be loaded before `map` can answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Miss {
    /// The bytes of the disk whose tables are not in memory.
    pub range: GuestRange,
}

/// What `map` knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// The first extent of the range that was asked for: it begins where the range begins, ends inside it, and is not
    /// empty.
    Found(MappedExtent),
    /// Load this, then ask again.
    Miss(Miss),
}

/// A place for bytes that are not in place yet. Dropped uncommitted, it gives up what it took.
#[must_use = "a plan is committed or dropped"]
pub struct WritePlan {
    /// The bytes of the disk that it is for.
    pub range: GuestRange,
    /// Where the first of them goes; the others follow.
    pub offset: FileOffset,
    /// Bytes to write directly in front of the data, if that costs nothing and keeps a sequential write sequential.
    pub lead: Option<(FileOffset, Buffer)>,
    /// The format's own: keeps the granule in the making alive until the plan is committed or dropped.
    pub hold: Option<Hold>,
}

/// Room that a table no longer names, and that somebody may still be reading.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "room that is not released is lost until the image is opened again"]
pub struct Freed {
    /// The granule that it belonged to.
    pub granule: GuestRange,
    /// The room.
    pub room: FileRange,
}

/// One image in one storage.
#[allow(async_fn_in_trait, reason = "formats stay on one executor; no future of theirs crosses a thread")]
pub trait Format {
    /// Bytes of the disk.
    fn size(&self) -> u64;

    /// Bytes of the disk in the unit of allocation, a power of two.
    fn granule(&self) -> u64;

    /// Where the image lies.
    fn storage(&self) -> &Arc<dyn Storage>;

    /// The image below it, if it needs one.
    fn parent(&self) -> Option<ParentReference>;

    /// What a child records of it.
    fn identity(&self) -> Option<Uuid>;

    /// What the disk's bytes are encrypted with where the image has them; tables are not. Whoever moves the bytes encrypts and
    /// decrypts them.
    fn key(&self) -> Option<&Arc<DiskKey>> {
        None
    }

    /// Where the first run of `range` is. Never waits.
    fn map(&self, range: GuestRange) -> Lookup;

    /// Brings the tables that `map` missed into memory.
    async fn load(&self, executor: &Executor, miss: Miss) -> Result<()>;

    /// A place for `range`, which lies in one granule. Where the bytes are in place already it is that place; where the
    /// granule is in the making it is in that one. May wait for room.
    async fn plan_write(&self, executor: &Executor, range: GuestRange) -> Result<WritePlan>;

    /// The data of the plan is written: brings the tables to the storage, then makes the bytes visible to `map`.
    async fn commit(&self, executor: &Executor, plan: WritePlan) -> Result<()>;

    /// Takes a granule out of the tables, durably. The room may be handed out again only after `release`. `None`: it has
    /// no room of its own, or this format never gives room back.
    async fn free(&self, executor: &Executor, granule: GuestRange) -> Result<Option<Freed>>;

    /// Nobody reads or writes the room any more: empty it and hand it out again.
    async fn release(&self, executor: &Executor, freed: Freed) -> Result<()>;

    /// Makes what was written and committed durable.
    async fn flush(&self, executor: &Executor) -> Result<()>;

    /// Ends the work on the image: leaves tables and footers as a reader expects them, durably.
    async fn close(&self, executor: &Executor) -> Result<()>;
}
