//! Images whose batmap has lost its place: a writer that knows of no batmaps puts the first block of an image right
//! behind the table. Such an image has none; it gets its place back when the blocks there move behind all others.
//!
//! ```text
//!   before   | head | table | block 0 ........ | block 1 | footer |
//!   after    | head | table | batmap |         | block 1 | block 0 | footer |
//! ```
//!
//! The copies are durable before the table names them, and the table before the old place is used. A file ends with a
//! footer at every instant, never with a guest's bytes.

use std::sync::Arc;

use block_core::{Error, ErrorKind, FileOffset, FileRange, Result, ResultExt, SECTOR};
use storage_io::{Executor, Storage, StorageExt, StorageKind};

use super::layout::FOOTER_BYTES;
use super::open::{find_footers, read_header, read_table, survey};
use super::{BatmapHeader, BatmapRule, BlockShape, Header, Metadata};

/// Whether blocks lie where the batmap belongs; `metadata` is without one.
pub fn is_batmap_displaced(header: &Header, metadata: &Metadata, entries: &[u32]) -> bool {
    let with_batmap = metadata.clone().with_batmap(&place_of_batmap(header));
    entries.iter().any(|&entry| metadata.block_start(entry).is_ok() && with_batmap.block_start(entry).is_err())
}

fn place_of_batmap(header: &Header) -> BatmapHeader {
    BatmapHeader::new(header.table_range().end(), header.table_entries())
}

/// Moves the blocks that lie where the batmap belongs. Its place is zero then; who closes the image writes it.
///
/// # Errors
/// `NoSpace` where a block finds no new place; `Corrupt` for tables that contradict themselves.
pub async fn give_batmap_its_place(executor: &Executor, image: &Arc<dyn Storage>) -> Result<()> {
    let footer = (*find_footers(executor, image).await?.footer).clone();
    if footer.batmap_rule() != BatmapRule::Present {
        return Ok(());
    }
    let header = read_header(executor, image, &footer).await.context("header")?;
    let metadata = Metadata::new(&footer, &header, image.length())?;
    let entries = read_table(executor, image, &metadata).await?;
    if !is_batmap_displaced(&header, &metadata, &entries) {
        return Ok(());
    }
    let end = survey(&metadata, &entries, image, true)?.end;
    let plan = Plan::new(&header, &metadata, entries, end)?;
    plan.check_room(image)?;
    if image.limits().kind != StorageKind::BlockDevice {
        image.write_bytes(executor, plan.end, footer.as_bytes()).await.context("writing a footer")?;
        image.sync(executor).await?;
    }
    plan.copy_blocks(executor, image, &metadata).await.context("moving a block")?;
    plan.write_table(executor, image, &metadata).await.context("writing the table")?;
    // A guest's bytes must not pass for a batmap.
    let place = place_of_batmap(&header);
    let place = FileRange::new(place.header_range().start(), place.map_range().end() - place.header_range().start());
    image.write_zeroes(executor, place, false).await?;
    image.sync(executor).await
}

/// Which block goes where.
struct Plan {
    moves: Vec<Move>,
    /// The table as it will be.
    entries: Vec<u32>,
    /// Where the last block will end.
    end: FileOffset,
}

struct Move {
    block: usize,
    from: FileOffset,
    to: FileOffset,
}

impl Plan {
    fn new(header: &Header, metadata: &Metadata, mut entries: Vec<u32>, end: FileOffset) -> Result<Plan> {
        let with_batmap = metadata.clone().with_batmap(&place_of_batmap(header));
        let (shape, mut moves) = (metadata.shape(), Vec::new());
        let mut end = end.max(with_batmap.end_of_headers());
        for (block, entry) in entries.iter_mut().enumerate() {
            if with_batmap.block_start(*entry).is_ok() {
                continue;
            }
            let (from, to) = (FileOffset::new(u64::from(*entry) * SECTOR), shape.place_behind(end)?);
            moves.push(Move { block, from, to });
            *entry = BlockShape::entry_for(to);
            end = shape.range_at(to).end();
        }
        Ok(Plan { moves, entries, end })
    }

    fn check_room(&self, image: &Arc<dyn Storage>) -> Result<()> {
        let is_device = image.limits().kind == StorageKind::BlockDevice;
        if is_device && self.end.get() > image.length().saturating_sub(FOOTER_BYTES as u64) {
            return Err(Error::new(ErrorKind::NoSpace, "the device has no room for a block that lies on the batmap"));
        }
        Ok(())
    }

    async fn copy_blocks(&self, executor: &Executor, image: &Arc<dyn Storage>, metadata: &Metadata) -> Result<()> {
        let length = usize::try_from(metadata.shape().block_bytes()).expect("a block has at most 2 MiB");
        for Move { from, to, .. } in &self.moves {
            let bytes = image.read_bytes(executor, *from, length).await?;
            image.write_bytes(executor, *to, &bytes).await?;
        }
        image.sync(executor).await
    }

    /// Sector by sector: each names either the old places or the new ones.
    async fn write_table(&self, executor: &Executor, image: &Arc<dyn Storage>, metadata: &Metadata) -> Result<()> {
        let mut sectors: Vec<usize> = self.moves.iter().map(|moved| metadata.table_sector_of(moved.block)).collect();
        sectors.dedup();
        for sector in sectors {
            let (place, bytes) = metadata.table_sector(sector, |block| self.entries[block]);
            image.write_bytes(executor, place, &bytes).await?;
        }
        image.sync(executor).await
    }
}
