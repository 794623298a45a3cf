//! Finds the parts of an image, and believes none of them before it is checked.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use block_core::{Error, ErrorKind, FileOffset, FileRange, Result, ResultExt, SECTOR};
use storage_io::{Access, Executor, Storage, StorageExt, StorageKind};

use super::displaced::is_batmap_displaced;
use super::footer::header_range;
use super::image::{Body, Sparse, StoredBatmap, VhdImage};
use super::layout::{BATMAP_HEADER_BYTES, FOOTER_BYTES, HEADER_BYTES, UNUSED_ENTRY};
use super::room::Room;
use super::tables::Tables;
use super::write::LEAD_BYTES;
use super::{
    BatmapHeader, BatmapRule, BlockShape, DiskKey, DiskType, Footer, Header, Locator, Metadata, UncheckedBatmapHeader,
    UncheckedFooter, UncheckedHeader, checksummed_batmap_bytes, choose_footer,
};
use crate::sync::Syncer;
use crate::{Bitmap, ImageKind, Mapping, ParentReference};

/// Storage managers rewrite a header of two sectors in place; who reads between the two reads again.
const HEADER_ATTEMPTS: usize = 4;
const HEADER_PAUSE: Duration = Duration::from_millis(50);
/// Bytes of the table that are read at once.
const TABLE_PART: u64 = 1 << 20;

impl VhdImage {
    /// Opens the image in `storage`, and changes nothing there. Its `path` is canonical: the paths to a parent are relative
    /// to its directory.
    pub async fn open(executor: &Executor, storage: Arc<dyn Storage>, path: &Path, access: Access) -> Result<Self> {
        Self::open_with_key(executor, storage, path, access, None).await
    }

    /// The same for a disk that is encrypted if, and only if, there is a key.
    ///
    /// # Errors
    /// `WrongKey` if the image means another key; `Invalid` if there is none and it is encrypted, or the other way round.
    pub async fn open_with_key(
        executor: &Executor,
        storage: Arc<dyn Storage>,
        path: &Path,
        access: Access,
        key: Option<Arc<DiskKey>>,
    ) -> Result<Self> {
        let mut image = Self::open_as_stored(executor, storage, path, access).await?;
        match (image.key_hash(), &key) {
            (None, None) => {}
            (Some(hash), Some(key)) if key.fits(&hash) => {}
            (Some(_), Some(_)) => return Err(Error::new(ErrorKind::WrongKey, "the key is not that of the image")),
            (Some(_), None) => {
                return Err(Error::new(ErrorKind::Invalid, "the disk is encrypted, and there is no key"));
            }
            (None, Some(_)) => {
                return Err(Error::new(ErrorKind::Invalid, "there is a key, and the disk is not encrypted"));
            }
        }
        image.key = key;
        Ok(image)
    }

    /// The same for whoever moves bytes without looking at them: those of an encrypted disk are as they are stored.
    pub async fn open_as_stored(
        executor: &Executor,
        storage: Arc<dyn Storage>,
        path: &Path,
        access: Access,
    ) -> Result<Self> {
        if access == Access::Write && storage.limits().read_only {
            return Err(Error::new(ErrorKind::ReadOnly, "the storage is read-only"));
        }
        let found = find_footers(executor, &storage).await?;
        let syncer = Rc::new(Syncer::new(storage.clone()));
        let (parent, body) = match found.footer.disk_type() {
            DiskType::Fixed => {
                check_fixed(&found.footer, &storage)?;
                (None, Body::Fixed)
            }
            DiskType::Dynamic | DiskType::Differencing => {
                let header = read_header(executor, &storage, &found.footer).await.context("header")?;
                let parent = read_parent(executor, &storage, &found.footer, &header, path).await;
                let sparse = open_sparse(executor, &storage, &found, header, access, &syncer).await?;
                (parent, Body::Sparse(Rc::new(sparse)))
            }
        };
        Ok(VhdImage { storage, footer: found.footer, parent, syncer, body, key: None })
    }

    /// Prepares an image that was opened for writing. A writer that lost power may have left a table that is ahead of the
    /// file: what is missing is zero from now on.
    pub async fn begin_writing(&self, executor: &Executor) -> Result<()> {
        let Body::Sparse(sparse) = &self.body else { return Ok(()) };
        let end = sparse.end_of_blocks().get();
        if !sparse.is_writable || end <= self.storage.length() {
            return Ok(());
        }
        self.storage.set_length(executor, end).await
    }
}

/// The footers of an image.
pub(super) struct Footers {
    /// The one that counts.
    pub(super) footer: Rc<Footer>,
    has_copy: bool,
    /// The one at the end is this image's: a device that has grown ends with anything.
    pub(super) has_end: bool,
}

pub(super) async fn find_footers(executor: &Executor, storage: &Arc<dyn Storage>) -> Result<Footers> {
    let length = storage.length();
    if length < FOOTER_BYTES as u64 {
        return Err(Error::new(ErrorKind::Corrupt, format!("{length} bytes are too few for a footer")));
    }
    let at_start = read_footer(executor, storage, 0, FOOTER_BYTES).await?;
    let at_end = match length % SECTOR {
        0 => match read_footer(executor, storage, length - FOOTER_BYTES as u64, FOOTER_BYTES).await {
            // A file that ends earlier by now: somebody writes to it beside us. The copy at the start is there all the time.
            Err(error) if error.os_error().is_none() && at_start.is_ok() => Err(error),
            read => read?,
        },
        // Old tools wrote one byte less. Storages that read whole sectors only cannot show it.
        rest if rest == SECTOR - 1 => {
            let footer = read_footer(executor, storage, length - (SECTOR - 1), FOOTER_BYTES - 1).await;
            footer.unwrap_or_else(Err)
        }
        _ => Err(Error::new(ErrorKind::Corrupt, "the file does not end with a sector")),
    };
    let is_sparse = |footer: &Result<Footer>| footer.as_ref().is_ok_and(|footer| footer.disk_type() != DiskType::Fixed);
    let end = at_end.as_ref().ok().filter(|end| !end.is_disabled()).map(Footer::uuid);
    let has_copy = is_sparse(&at_start);
    let footer = choose_footer(at_start, at_end).and_then(Footer::for_use).context("no valid footer")?;
    let has_end = end == Some(footer.uuid());
    Ok(Footers { footer: Rc::new(footer), has_copy, has_end })
}

/// The outer error is the storage's, the inner one the footer's.
pub(super) async fn read_footer(
    executor: &Executor,
    storage: &Arc<dyn Storage>,
    offset: u64,
    length: usize,
) -> Result<Result<Footer>> {
    let bytes = storage.read_bytes(executor, FileOffset::new(offset), length).await.context("reading a footer")?;
    Ok(UncheckedFooter::parse(&bytes).and_then(UncheckedFooter::check_all_but_disabled))
}

fn check_fixed(footer: &Footer, storage: &Arc<dyn Storage>) -> Result<()> {
    let (disk, room) = (footer.disk_bytes(), storage.length().saturating_sub(FOOTER_BYTES as u64 - 1));
    if disk <= room {
        return Ok(());
    }
    let words = format!("truncated: a disk of {disk} bytes in {} bytes", storage.length());
    Err(Error::new(ErrorKind::Corrupt, words))
}

pub(super) async fn read_header(executor: &Executor, storage: &Arc<dyn Storage>, footer: &Footer) -> Result<Header> {
    let range = header_range(footer)?.expect("an image that is not fixed has a header");
    if range.end().get() > storage.length() {
        return Err(Error::new(ErrorKind::Corrupt, "truncated: it lies behind the end of the file"));
    }
    let mut attempt = 1;
    loop {
        let bytes = storage.read_bytes(executor, range.start(), HEADER_BYTES).await?;
        let header = UncheckedHeader::parse(&bytes)?;
        let is_torn = header.bytes().checksum.get() != header.bytes().computed_checksum();
        if !is_torn || attempt == HEADER_ATTEMPTS {
            return header.check();
        }
        attempt += 1;
        executor.sleep(HEADER_PAUSE).await;
    }
}

/// Where the parent may be: every locator that makes sense, in the order of their slots.
async fn read_parent(
    executor: &Executor,
    storage: &Arc<dyn Storage>,
    footer: &Footer,
    header: &Header,
    path: &Path,
) -> Option<ParentReference> {
    if footer.disk_type() != DiskType::Differencing {
        return None;
    }
    let directory = path.parent().unwrap_or(path);
    let mut candidates: Vec<PathBuf> = Vec::new();
    for locator in header.locators().flatten() {
        // An absolute path replaces the directory. A locator that cannot be read leaves the others.
        if let Ok(name) = read_name(executor, storage, locator).await {
            let candidate = directory.join(name.strip_prefix("./").unwrap_or(&name));
            if !candidates.contains(&candidate) {
                candidates.push(candidate);
            }
        }
    }
    let uuid = header.parent_uuid();
    let kind = if uuid.is_some() { ImageKind::Vhd } else { ImageKind::Raw };
    Some(ParentReference { kind, uuid, candidates })
}

/// The path in a locator, which may begin and end anywhere in a sector.
pub(super) async fn read_name(executor: &Executor, storage: &Arc<dyn Storage>, locator: Locator) -> Result<String> {
    let encoded = locator.encoded();
    let sectors = encoded.align_out(SECTOR);
    let index = |bytes: u64| usize::try_from(bytes).expect("bounded when the locator was checked");
    let bytes = storage.read_bytes(executor, sectors.start(), index(sectors.length())).await?;
    let from = index(encoded.start() - sectors.start());
    locator.code().decode(&bytes[from..from + index(encoded.length())])
}

async fn open_sparse(
    executor: &Executor,
    storage: &Arc<dyn Storage>,
    found: &Footers,
    header: Header,
    access: Access,
    syncer: &Rc<Syncer>,
) -> Result<Sparse> {
    let footer = found.footer.clone();
    let metadata = Metadata::new(&footer, &header, storage.length())?;
    let entries = read_table(executor, storage, &metadata).await?;
    let batmap = read_batmap(executor, storage, &footer, &header, &metadata).await?;
    let batmap = batmap.or_else(|| lost_batmap(&footer, &header, &metadata, &entries));
    let batmap =
        batmap.map(|batmap| StoredBatmap { is_valid: batmap.is_valid && fits(&batmap.bits, &entries), ..batmap });
    let metadata = match &batmap {
        Some(batmap) => metadata.with_batmap(&batmap.header),
        None => metadata,
    };
    let is_writable = access == Access::Write;
    let blocks = survey(&metadata, &entries, storage, is_writable)?;
    let trusted = batmap.as_ref().filter(|batmap| batmap.is_valid).map(|batmap| batmap.bits.clone());
    let full = trusted.unwrap_or_else(|| Bitmap::new(metadata.blocks()));
    let is_device = storage.limits().kind == StorageKind::BlockDevice;
    let ends_there = is_device || storage.length() == blocks.end.get() + FOOTER_BYTES as u64;
    Ok(Sparse {
        storage: storage.clone(),
        syncer: syncer.clone(),
        hole: if footer.disk_type() == DiskType::Differencing { Mapping::Parent } else { Mapping::Zero },
        tables: RefCell::new(Tables::new(entries, full)),
        room: RefCell::new(Room::new(&blocks, found.has_end && ends_there)),
        batmap: RefCell::new(batmap),
        has_footer_copy: found.has_copy,
        is_changed: Cell::new(false),
        footer,
        header,
        metadata,
        is_writable,
    })
}

/// The batmap, if there should be one. One that is not valid says nothing, and is written anew when the image is
/// closed: a power cut while it was written must not keep anybody from opening the image.
async fn read_batmap(
    executor: &Executor,
    storage: &Arc<dyn Storage>,
    footer: &Footer,
    header: &Header,
    metadata: &Metadata,
) -> Result<Option<StoredBatmap>> {
    let table_end = header.table_range().end();
    let (blocks, disk_bytes) = (metadata.blocks() as u64, metadata.disk_bytes());
    let place = FileRange::new(table_end, BATMAP_HEADER_BYTES as u64);
    if footer.batmap_rule() == BatmapRule::Absent || place.end().get() > storage.length() {
        return Ok(None);
    }
    let bytes = storage.read_bytes(executor, table_end, BATMAP_HEADER_BYTES).await.context("reading the batmap")?;
    let Ok(header) = UncheckedBatmapHeader::parse(&bytes)?.check(table_end, blocks, disk_bytes) else {
        return Ok(None);
    };
    let place = stored_map(&header, metadata);
    if place.end().get() > storage.length() {
        return Ok(None);
    }
    let length = usize::try_from(place.length()).expect("the number of blocks is bounded");
    let map = storage.read_bytes(executor, place.start(), length).await.context("reading the batmap")?;
    let is_valid = header.check_map(&map, disk_bytes).is_ok();
    Ok(Some(StoredBatmap { bits: Bitmap::from_bytes(&map, metadata.blocks()), header, is_valid }))
}

/// The part of the map that says something: a bit for each block, and all that the checksum covers.
pub(super) fn stored_map(header: &BatmapHeader, metadata: &Metadata) -> FileRange {
    let bits = (metadata.blocks() as u64).div_ceil(8).next_multiple_of(SECTOR);
    FileRange::new(header.map_range().start(), bits.max(checksummed_batmap_bytes(metadata.disk_bytes())))
}

/// A block that is not there is not full: a map that says so is not of this table, and says nothing.
pub(super) fn fits(map: &Bitmap, entries: &[u32]) -> bool {
    entries.iter().enumerate().all(|(block, &entry)| entry != UNUSED_ENTRY || !map.get(block))
}

/// A batmap whose header is damaged still has its place, unless blocks lie there.
pub(super) fn lost_batmap(
    footer: &Footer,
    header: &Header,
    metadata: &Metadata,
    entries: &[u32],
) -> Option<StoredBatmap> {
    let has_place = footer.batmap_rule() == BatmapRule::Present && !is_batmap_displaced(header, metadata, entries);
    let batmap = BatmapHeader::new(header.table_range().end(), header.table_entries());
    has_place.then(|| StoredBatmap { header: batmap, bits: Bitmap::new(metadata.blocks()), is_valid: false })
}

pub(super) async fn read_table(
    executor: &Executor,
    storage: &Arc<dyn Storage>,
    metadata: &Metadata,
) -> Result<Vec<u32>> {
    let mut entries = Vec::with_capacity(metadata.blocks());
    for part in metadata.table().granules(TABLE_PART) {
        let length = usize::try_from(part.length().next_multiple_of(SECTOR)).expect("a part is small");
        let bytes = storage.read_bytes(executor, part.start(), length).await.context("reading the table")?;
        entries.extend(bytes.as_chunks::<4>().0.iter().map(|&entry| u32::from_be_bytes(entry)));
    }
    entries.truncate(metadata.blocks());
    Ok(entries)
}

/// What the blocks of an image look like from afar.
pub(super) struct Survey {
    /// The first place behind all of them, and behind all headers.
    pub(super) end: FileOffset,
    /// Whether no block reaches into the page that ends where another's data begins.
    pub(super) have_private_pages: bool,
    /// Where blocks were that an earlier writer freed.
    pub(super) gaps: Vec<FileOffset>,
}

/// Checks that no block lies on a table, or on the footer of a device; for a writer also that none lies on another.
pub(super) fn survey(
    metadata: &Metadata,
    entries: &[u32],
    storage: &Arc<dyn Storage>,
    is_writable: bool,
) -> Result<Survey> {
    for (block, &entry) in entries.iter().enumerate() {
        metadata.block_start(entry).map_err(|error| error.context(format_args!("block {block}")))?;
    }
    let shape = metadata.shape();
    let mut used: Vec<u32> = entries.iter().copied().filter(|&entry| entry != UNUSED_ENTRY).collect();
    let last = if is_writable {
        used.sort_unstable();
        used.last().copied()
    } else {
        used.iter().copied().max()
    };
    let start_of = |entry: u32| FileOffset::new(u64::from(entry) * SECTOR);
    let end = last.map_or(FileOffset::new(0), |entry| shape.range_at(start_of(entry)).end());
    let is_device = storage.limits().kind == StorageKind::BlockDevice;
    if is_device && end.get() > storage.length().saturating_sub(FOOTER_BYTES as u64) {
        return Err(Error::new(ErrorKind::Corrupt, format!("a block ends at {end}, behind the end of the device")));
    }
    let have_private_pages = is_writable && have_private_pages(shape, &used)?;
    let gaps = if is_writable { gaps(shape, metadata.end_of_headers(), &used)? } else { Vec::new() };
    Ok(Survey { end: end.max(metadata.end_of_headers()), have_private_pages, gaps })
}

/// Room for whole blocks between blocks, which are sorted, and with private pages as blocks have them.
fn gaps(shape: BlockShape, end_of_headers: FileOffset, entries: &[u32]) -> Result<Vec<FileOffset>> {
    let apart = LEAD_BYTES - shape.bitmap_bytes();
    let mut gaps = Vec::new();
    let mut earliest = end_of_headers;
    for &entry in entries {
        let next = FileOffset::new(u64::from(entry) * SECTOR);
        loop {
            let start = shape.place_behind(earliest)?;
            let end = shape.range_at(start).end();
            if end + apart > next {
                break;
            }
            gaps.push(start);
            earliest = end + apart;
        }
        earliest = shape.range_at(next).end() + apart;
    }
    Ok(gaps)
}

/// Looks at the gaps between blocks, which are sorted. Blocks that lie on each other are an error.
fn have_private_pages(shape: BlockShape, entries: &[u32]) -> Result<bool> {
    let gap = LEAD_BYTES - shape.bitmap_bytes();
    let mut is_private = true;
    for pair in entries.windows(2) {
        let (end, next) = (u64::from(pair[0]) * SECTOR + shape.block_bytes(), u64::from(pair[1]) * SECTOR);
        if next < end {
            return Err(Error::new(ErrorKind::Corrupt, format!("a block at {next:#x} clobbers another")));
        }
        is_private &= next >= end + gap;
    }
    Ok(is_private)
}
