//! Another parent for a differencing image, in place.
//!
//! A child names its parent in several places: the identity is in the first sector of the header, each path in sectors of
//! its own, and how long the paths are in the header's second sector. Readers go by the identity, and pass over paths
//! that lead to another image. So there is an order of writes in which some path leads to the image that the header means,
//! at every instant:
//!
//! ```text
//!   another VHD      paths last to second --> header: its identity --> first path
//!   a raw image      first path --> header: no identity --> the other paths
//! ```
//!
//! (A raw image has no identity by which a path that leads elsewhere could be told, so the first path must be right when
//! the header says so. Before, it leads to what is no VHD of the recorded identity.)
//!
//! Each step is one sector, or what nobody believes until the next one. The checksum of the header lies in its first
//! sector and sums up both, so the second sector changes in a way that keeps its sum: lengths of paths grow, with zeroes
//! behind the path, which no reader minds. Where no lengths do that, and with names of more than 224 characters, the two
//! sectors of the header are written at once, and a power cut may tear them.

use std::collections::BTreeMap;
use std::sync::Arc;

use block_core::{Error, ErrorKind, FileOffset, Result, ResultExt, SECTOR};
use storage_io::{Executor, Storage, StorageExt};

use super::layout::{FOOTER_BYTES, byte_sum};
use super::{DiskType, Footer, Header, Locator, LocatorCode, ParentLink};

/// A change of the parent that can be carried out.
pub struct Relink {
    storage: Arc<dyn Storage>,
    place: FileOffset,
    old: Header,
    new: Header,
    /// In the order of their slots.
    paths: Vec<NewPath>,
    is_raw: bool,
}

struct NewPath {
    slot: usize,
    locator: Locator,
    bytes: Vec<u8>,
}

impl Relink {
    /// Looks at everything, and changes nothing.
    ///
    /// # Errors
    /// `Invalid` for an image that has no parent; `LimitReached` if a path has no room in the place of the old one.
    pub fn plan(storage: &Arc<dyn Storage>, footer: &Footer, header: &Header, parent: &ParentLink) -> Result<Relink> {
        let (true, Some(place)) = (footer.disk_type() == DiskType::Differencing, footer.header_offset()) else {
            return Err(Error::new(ErrorKind::Invalid, "only a differencing image has a parent"));
        };
        let mut paths = Vec::new();
        for (slot, bytes) in header.bytes().parent_locators.iter().enumerate() {
            // One that makes no sense leads nowhere, before and after.
            let Ok(Some(locator)) = Locator::check(bytes) else { continue };
            if locator.code() == LocatorCode::Obsolete || !locator.room().start().is_aligned(SECTOR) {
                continue;
            }
            let mut bytes = locator.code().encode(&parent.path)?;
            let length = bytes.len();
            if length as u64 > locator.room().length() {
                return Err(Error::new(ErrorKind::LimitReached, "the new path has no room in place of the old one"));
            }
            bytes.resize(usize::try_from(locator.room().length()).expect("a room that was checked"), 0);
            paths.push(NewPath { slot, locator: locator.with_length(length), bytes });
        }
        if paths.is_empty() {
            return Err(Error::new(ErrorKind::Corrupt, "no usable parent locator"));
        }
        let new = new_header(header, parent, &mut paths)?;
        let is_raw = parent.uuid.is_none();
        Ok(Relink { storage: storage.clone(), place, old: header.clone(), new, paths, is_raw })
    }

    /// Carries it out, durably. `half_way` is called when paths are written and the header is not, and may end it there.
    pub async fn carry_out(&self, executor: &Executor, half_way: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        let (first, others) = self.paths.split_first().expect("there is at least one");
        let others: Vec<&NewPath> = others.iter().rev().collect();
        let (before, behind) = if self.is_raw { (vec![first], others) } else { (others, vec![first]) };
        let (old, new) = (self.old.as_bytes(), self.new.as_bytes());
        let can_be_split = byte_sum(&old[FOOTER_BYTES..]) == byte_sum(&new[FOOTER_BYTES..]);
        if can_be_split && old[FOOTER_BYTES..] != new[FOOTER_BYTES..] {
            self.write(executor, self.place + SECTOR, &new[FOOTER_BYTES..]).await.context("header")?;
        }
        for path in before {
            self.write(executor, path.locator.room().start(), &path.bytes).await.context("path to the parent")?;
        }
        half_way()?;
        let header = if can_be_split { &new[..FOOTER_BYTES] } else { new };
        self.write(executor, self.place, header).await.context("header")?;
        for path in behind {
            self.write(executor, path.locator.room().start(), &path.bytes).await.context("path to the parent")?;
        }
        Ok(())
    }

    async fn write(&self, executor: &Executor, place: FileOffset, bytes: &[u8]) -> Result<()> {
        self.storage.write_bytes(executor, place, bytes).await?;
        self.storage.sync(executor).await
    }
}

/// The header with the new parent. Lengths of paths never shrink, since the old path is still there for a while.
fn new_header(old: &Header, parent: &ParentLink, paths: &mut [NewPath]) -> Result<Header> {
    let length_in = |slot: usize| u64::from(old.bytes().parent_locators[slot].data_length.get());
    for path in paths.iter_mut() {
        let least = path.locator.encoded().length().max(length_in(path.slot));
        path.locator = path.locator.with_length(usize::try_from(least).expect("within its room"));
    }
    let named = |paths: &[NewPath]| {
        let locators: Vec<(usize, Locator)> = paths.iter().map(|path| (path.slot, path.locator)).collect();
        old.with_new_parent(parent.uuid, parent.timestamp, &parent.name, &locators)
    };
    let header = named(paths)?;
    let sum = |header: &Header| byte_sum(&header.as_bytes()[FOOTER_BYTES..]);
    let lengths: u32 = paths.iter().map(|path| length_sum(path.locator.encoded().length())).sum();
    let target = (sum(old) + lengths).checked_sub(sum(&header));
    let Some(lengths) = target.and_then(|target| lengths_with_sum(paths, target)) else { return Ok(header) };
    for (path, length) in paths.iter_mut().zip(lengths) {
        path.locator = path.locator.with_length(usize::try_from(length).expect("within its room"));
    }
    named(paths)
}

/// The sum of the bytes of a stored length.
fn length_sum(length: u64) -> u32 {
    byte_sum(&length.to_be_bytes())
}

/// Lengths, none shorter than it must be, whose bytes sum up to `target`: the shortest for the first paths.
fn lengths_with_sum(paths: &[NewPath], target: u32) -> Option<Vec<u64>> {
    // What can be reached with the paths so far, and by which lengths.
    let mut reached: BTreeMap<u32, Vec<u64>> = BTreeMap::from([(0, Vec::new())]);
    for path in paths {
        let mut shortest: BTreeMap<u32, u64> = BTreeMap::new();
        let step = if path.locator.code() == LocatorCode::MacX { 1 } else { 2 };
        let (least, most) = (path.locator.encoded().length(), path.locator.length_max());
        let mut length = least;
        while length <= most {
            shortest.entry(length_sum(length)).or_insert(length);
            length += step;
        }
        let mut next: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
        for (sum, lengths) in &reached {
            for (more, length) in shortest.range(..=target.saturating_sub(*sum)) {
                next.entry(sum + more).or_insert_with(|| [&lengths[..], &[*length]].concat());
            }
        }
        reached = next;
    }
    reached.remove(&target)
}
