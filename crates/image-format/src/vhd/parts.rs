//! Footer, header and tables of an image, all together: for those who change them while nobody has the image open.

use std::sync::Arc;

use block_core::{Error, ErrorKind, FileOffset, FileRange, Result, ResultExt, SECTOR};
use storage_io::{Executor, Storage, StorageExt};

use super::displaced::is_batmap_displaced;
use super::layout::{BATMAP_HEADER_BYTES, ParentLocatorBytes, UNUSED_ENTRY};
use super::locator::room_of;
use super::open::{lost_batmap, read_table, survey};
use super::{BatmapHeader, BatmapRule, DiskType, Footer, Header, Metadata, UncheckedBatmapHeader};

/// Footer, header and tables.
pub(super) struct Parts {
    pub(super) footer: Footer,
    pub(super) header: Header,
    pub(super) entries: Vec<u32>,
    pub(super) batmap: Option<(BatmapHeader, Vec<u8>)>,
    pub(super) paths: Vec<Path>,
}

/// An encoded path to the parent: its slot, and its bytes with all their room.
pub(super) struct Path {
    pub(super) slot: usize,
    pub(super) room: FileRange,
    pub(super) bytes: Vec<u8>,
}

impl Parts {
    pub(super) async fn read(
        executor: &Executor,
        image: &Arc<dyn Storage>,
        footer: Footer,
        header: Header,
    ) -> Result<Parts> {
        let metadata = Metadata::new(&footer, &header, image.length())?;
        if header.table_range().end().get() > image.length() {
            return Err(Error::new(ErrorKind::Corrupt, "the table lies behind the end of the file"));
        }
        let entries = read_table(executor, image, &metadata).await?;
        let batmap = match read_batmap(executor, image, &footer, &header, &metadata).await {
            // A writer that knows of no batmaps has left it no place.
            Err(_) if is_batmap_displaced(&header, &metadata, &entries) => None,
            batmap => batmap.context("batmap")?,
        };
        let batmap = batmap.or_else(|| empty_batmap(&footer, &header, &metadata, &entries));
        let mut paths = Vec::new();
        for (slot, bytes) in header.bytes().parent_locators.iter().enumerate() {
            if bytes.platform_code.get() != 0 && footer.disk_type() == DiskType::Differencing {
                paths.push(read_path(executor, image, slot, bytes).await.context("a parent locator")?);
            }
        }
        Ok(Parts { footer, header, entries, batmap, paths })
    }

    pub(super) fn header_place(&self) -> FileOffset {
        self.footer.header_offset().expect("an image that is not fixed has a header")
    }

    pub(super) fn metadata(&self, file_bytes: u64) -> Result<Metadata> {
        let metadata = Metadata::new(&self.footer, &self.header, file_bytes)?;
        Ok(match &self.batmap {
            Some((batmap, _)) => metadata.with_batmap(batmap),
            None => metadata,
        })
    }

    /// The first place behind all of them.
    pub(super) fn end(&self) -> Result<FileOffset> {
        Ok(self.metadata(u64::MAX)?.end_of_headers())
    }

    /// Where the last block ends, if no block lies where it must not.
    pub(super) fn check(&self, image: &Arc<dyn Storage>) -> Result<FileOffset> {
        Ok(survey(&self.metadata(image.length())?, &self.entries, image, true)?.end)
    }

    pub(super) async fn write(&self, executor: &Executor, image: &Arc<dyn Storage>) -> Result<()> {
        for path in &self.paths {
            image.write_bytes(executor, path.room.start(), &path.bytes).await?;
        }
        self.write_batmap(executor, image).await?;
        self.write_table(executor, image).await?;
        image.write_bytes(executor, self.header_place(), self.header.as_bytes()).await
    }

    /// Whoever reads in between finds a map and a sum that do not fit, and believes neither.
    pub(super) async fn write_batmap(&self, executor: &Executor, image: &Arc<dyn Storage>) -> Result<()> {
        let Some((header, map)) = &self.batmap else { return Ok(()) };
        image.write_bytes(executor, header.map_range().start(), map).await?;
        image.write_bytes(executor, header.header_range().start(), header.as_bytes()).await
    }

    /// The whole table; entries that the disk does not use yet are unused.
    pub(super) async fn write_table(&self, executor: &Executor, image: &Arc<dyn Storage>) -> Result<()> {
        let table = self.header.table_range();
        let unused = (self.entries.len()..self.header.table_entries() as usize).map(|_| UNUSED_ENTRY);
        let mut bytes: Vec<u8> = self.entries.iter().copied().chain(unused).flat_map(u32::to_be_bytes).collect();
        bytes.resize(usize::try_from(table.length()).expect("a table fits memory"), 0);
        image.write_bytes(executor, table.start(), &bytes).await
    }
}

impl Path {
    pub(super) fn copy(&self) -> Path {
        Path { slot: self.slot, room: self.room, bytes: self.bytes.clone() }
    }
}

/// The batmap with all its map, if there is one. One whose header is damaged is none.
async fn read_batmap(
    executor: &Executor,
    image: &Arc<dyn Storage>,
    footer: &Footer,
    header: &Header,
    metadata: &Metadata,
) -> Result<Option<(BatmapHeader, Vec<u8>)>> {
    if footer.batmap_rule() == BatmapRule::Absent {
        return Ok(None);
    }
    let place = header.table_range().end();
    let bytes = image.read_bytes(executor, place, BATMAP_HEADER_BYTES).await?;
    let batmap = UncheckedBatmapHeader::parse(&bytes)
        .and_then(|batmap| batmap.check(place, metadata.blocks() as u64, metadata.disk_bytes()));
    let Ok(batmap) = batmap else { return Ok(None) };
    let map = batmap.map_range();
    let most = header.table_range().length();
    if map.end().get() > image.length() || map.length() > most {
        return Err(Error::new(ErrorKind::Corrupt, "invalid batmap size"));
    }
    let length = usize::try_from(map.length()).expect("no longer than a table that fits memory");
    Ok(Some((batmap, image.read_bytes(executor, map.start(), length).await?)))
}

/// What takes the place of a batmap that was lost, and says nothing of any block.
fn empty_batmap(
    footer: &Footer,
    header: &Header,
    metadata: &Metadata,
    entries: &[u32],
) -> Option<(BatmapHeader, Vec<u8>)> {
    let batmap = lost_batmap(footer, header, metadata, entries)?.header;
    let map = vec![0; usize::try_from(batmap.map_range().length()).expect("no longer than the table")];
    Some((batmap.with_map(&map, metadata.disk_bytes()), map))
}

/// A path as it lies there, readable or not.
async fn read_path(
    executor: &Executor,
    image: &Arc<dyn Storage>,
    slot: usize,
    bytes: &ParentLocatorBytes,
) -> Result<Path> {
    const ROOM_MAX: u64 = 64 << 10;
    let room = room_of(bytes).filter(|room| !room.is_empty() && room.is_aligned(SECTOR) && room.length() <= ROOM_MAX);
    let room = room.ok_or_else(|| Error::new(ErrorKind::Corrupt, "invalid offset of a parent locator"))?;
    let length = usize::try_from(room.length()).expect("at most 64 KiB");
    Ok(Path { slot, room, bytes: image.read_bytes(executor, room.start(), length).await? })
}
