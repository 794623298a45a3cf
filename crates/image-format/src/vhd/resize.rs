//! A larger disk in an image whose tables have no room for it: what is in their way moves to the end of the file.
//!
//! ```text
//!   before   | head | table | batmap | paths | block 0 | block 1 | block 2 | footer |
//!   after    | head | table ......... | batmap | paths | block 1 | block 2 | block 0 | footer |
//! ```
//!
//! The order of writes, each step durable before the next one begins:
//!
//! 1. the journal: everything that will be written over;
//! 2. the footer at the end is disabled, then its copy. From here on nobody opens the image but who has the journal;
//! 3. blocks to their new places, tables, the new footer at the end;
//! 4. the new copy at the start, in one sector: the resize is done;
//! 5. the journal is cleared.
//!
//! So the copy at the start says at every instant whether the journal is to be undone ([`super::revert`]).

use std::sync::Arc;

use block_core::{Error, ErrorKind, FileOffset, FileRange, Result, ResultExt, SECTOR};
use storage_io::{Executor, Storage, StorageExt, StorageKind};

use super::journal::{EntryKind, Journal, JournalEntry};
use super::layout::{FOOTER_BYTES, UNUSED_ENTRY};
use super::open::{find_footers, fits, read_header};
use super::parts::{Parts, Path};
use super::{BlockShape, DiskType, Footer, UncheckedFooter};
use crate::Bitmap;

/// How far a resize is: where somebody may want to stop it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResizeStep {
    /// The journal is whole and the image disabled.
    Begun,
    /// Blocks are in their new places.
    DataMoved,
    /// Tables too.
    MetadataMoved,
    /// All that is missing is the word that it is done.
    Ended,
}

/// A resize that can be carried out.
pub struct Resize {
    image: Arc<dyn Storage>,
    old: Parts,
    new: Parts,
    moves: Vec<Move>,
    /// Where the footer at the end of the image is, and where it goes.
    old_end: FileOffset,
    new_end: FileOffset,
}

/// A block that is in the way.
struct Move {
    from: FileOffset,
    to: FileOffset,
    /// Its bitmap and its data.
    bytes: Vec<u8>,
}

impl Resize {
    /// Looks at everything, and changes nothing. None: the disk is `bytes` long already.
    ///
    /// # Errors
    /// `Unsupported` for a smaller disk, `Invalid` for images that cannot be resized, `NoSpace` where a block finds no new
    /// place.
    pub async fn plan(executor: &Executor, image: &Arc<dyn Storage>, bytes: u64) -> Result<Option<Resize>> {
        let footer = (*find_footers(executor, image).await?.footer).clone();
        let invalid = |words: &'static str| Err(Error::new(ErrorKind::Invalid, words));
        if footer.disk_type() == DiskType::Fixed || !footer.is_tap() {
            return invalid("only dynamic and differencing images of Xen's tools can be resized");
        }
        if bytes == footer.disk_bytes() {
            return Ok(None);
        }
        if bytes < footer.disk_bytes() {
            return Err(Error::new(ErrorKind::Unsupported, "dynamic shrink not fully implemented"));
        }
        let header = read_header(executor, image, &footer).await.context("header")?;
        if header.block_shape() != BlockShape::DEFAULT {
            return invalid("only images with blocks of 2 MiB can be resized");
        }
        let old = Parts::read(executor, image, footer, header).await?;
        let new = old.grown(bytes)?;
        let old_end = old.check(image)?;
        let (new, moves) = new.without_collisions(executor, image, old_end).await?;
        let last = moves.last().map(|last| new.header.block_shape().range_at(last.to).end());
        let new_end = old_end.max(new.end()?).max(last.unwrap_or(old_end));
        let mut resize = Resize { image: image.clone(), old, new, moves, old_end, new_end };
        if let Some(end) = resize.device_end() {
            if resize.new_end > end {
                return Err(Error::new(ErrorKind::NoSpace, "the device has no room for the blocks that have to move"));
            }
            (resize.old_end, resize.new_end) = (end, end);
        }
        Ok(Some(resize))
    }

    /// Where the footer of a device is.
    fn device_end(&self) -> Option<FileOffset> {
        let is_device = self.image.limits().kind == StorageKind::BlockDevice;
        is_device.then(|| FileOffset::new(self.image.length().saturating_sub(FOOTER_BYTES as u64)))
    }

    /// Makes the journal whole. The image gets footers in their right places, if a writer that died has left it without;
    /// else it is not changed.
    pub async fn write_journal(&self, executor: &Executor, journal: &Arc<dyn Storage>) -> Result<()> {
        self.settle(executor).await?;
        self.journal(executor).await?.write(executor, journal).await.context("journal")
    }

    /// Bytes of blocks that will be moved.
    pub fn bytes_to_move(&self) -> u64 {
        self.moves.iter().map(|block| block.bytes.len() as u64).sum()
    }

    /// Carries it out. `reached` is told how far it is, and may end it there; `watch` is told the bytes of each block that has
    /// moved.
    ///
    /// # Errors
    /// When it fails, the image is as it was when its journal is undone.
    pub async fn carry_out(
        &self,
        executor: &Executor,
        journal: &Arc<dyn Storage>,
        reached: &mut dyn FnMut(ResizeStep) -> Result<()>,
        watch: &dyn Fn(u64),
    ) -> Result<()> {
        let image = &self.image;
        let disabled = self.old.footer.clone().disabled();
        self.write_durably(executor, self.old_end, disabled.as_bytes()).await?;
        self.write_durably(executor, FileOffset::new(0), disabled.as_bytes()).await?;
        reached(ResizeStep::Begun)?;
        for block in &self.moves {
            image.write_bytes(executor, block.to, &block.bytes).await.context("moving a block")?;
            watch(block.bytes.len() as u64);
        }
        image.sync(executor).await?;
        reached(ResizeStep::DataMoved)?;
        self.new.write(executor, image).await.context("writing tables")?;
        self.empty_what_is_left(executor).await?;
        image.sync(executor).await?;
        reached(ResizeStep::MetadataMoved)?;
        self.write_durably(executor, self.new_end, self.new.footer.as_bytes()).await?;
        self.cut(executor, self.new_end).await?;
        reached(ResizeStep::Ended)?;
        self.write_durably(executor, FileOffset::new(0), self.new.footer.as_bytes()).await?;
        let cleared = Journal { uuid: self.new.footer.uuid(), footer_offset: self.new_end, entries: Vec::new() };
        cleared.clear(executor, journal).await.context("journal")
    }

    async fn write_durably(&self, executor: &Executor, place: FileOffset, bytes: &[u8]) -> Result<()> {
        self.image.write_bytes(executor, place, bytes).await?;
        self.image.sync(executor).await
    }

    /// Ends a file behind the footer at `end`.
    async fn cut(&self, executor: &Executor, end: FileOffset) -> Result<()> {
        let length = end.get() + FOOTER_BYTES as u64;
        if self.device_end().is_some() || self.image.length() == length {
            return Ok(());
        }
        self.image.set_length(executor, length).await?;
        self.image.sync(executor).await
    }

    /// Writes the footers that are missing or not where they belong.
    async fn settle(&self, executor: &Executor) -> Result<()> {
        for place in [FileOffset::new(0), self.old_end] {
            let there = self.image.read_bytes(executor, place, FOOTER_BYTES).await;
            if !there.is_ok_and(|there| there == self.old.footer.as_bytes()) {
                self.write_durably(executor, place, self.old.footer.as_bytes()).await?;
            }
        }
        self.cut(executor, self.old_end).await
    }

    /// All that will be written over.
    async fn journal(&self, executor: &Executor) -> Result<Journal> {
        let old = &self.old;
        let entry = |kind, offset: FileOffset, bytes: &[u8]| JournalEntry { kind, offset, bytes: bytes.to_vec() };
        let mut entries = vec![
            entry(EntryKind::EndFooter, self.old_end, old.footer.as_bytes()),
            entry(EntryKind::FooterCopy, FileOffset::new(0), old.footer.as_bytes()),
            entry(EntryKind::Header, old.header_place(), old.header.as_bytes()),
        ];
        for path in &old.paths {
            entries.push(entry(EntryKind::Locator, path.room.start(), &path.bytes));
        }
        let table = old.header.table_range();
        let length = usize::try_from(table.length()).expect("a table that was read fits memory");
        let table_bytes = self.image.read_bytes(executor, table.start(), length).await.context("reading the table")?;
        entries.push(entry(EntryKind::Table, table.start(), &table_bytes));
        if let Some((header, map)) = &old.batmap {
            entries.push(entry(EntryKind::BatmapHeader, header.header_range().start(), header.as_bytes()));
            entries.push(entry(EntryKind::Batmap, header.map_range().start(), map));
        }
        let bitmap = usize::try_from(old.header.block_shape().bitmap_bytes()).expect("a sector");
        for block in &self.moves {
            let (bitmap, data) = block.bytes.split_at(bitmap);
            entries.push(entry(EntryKind::Data, block.from, bitmap));
            entries.push(entry(EntryKind::Data, block.from + bitmap.len() as u64, data));
        }
        if let Some(gap) = self.gap()? {
            let length = usize::try_from(gap.length()).expect("shorter than the tables");
            let bytes = self.image.read_bytes(executor, gap.start(), length).await.context("reading a gap")?;
            entries.push(entry(EntryKind::Data, gap.start(), &bytes));
        }
        Ok(Journal { uuid: old.footer.uuid(), footer_offset: self.old_end, entries })
    }

    /// What nobody uses between the tables and the first block, as far as the new tables reach: it is put back, too.
    fn gap(&self) -> Result<Option<FileRange>> {
        let (start, reached) = (self.old.end()?, self.new.end()?);
        let first = self.moves.iter().map(|block| block.from).min().unwrap_or(self.old_end);
        let end = reached.min(first).min(self.old_end);
        Ok((start < end).then(|| FileRange::new(start, end - start)))
    }

    /// What the tables leave of the blocks that have moved.
    async fn empty_what_is_left(&self, executor: &Executor) -> Result<()> {
        let shape = self.old.header.block_shape();
        let (Some(end), tables) =
            (self.moves.iter().map(|block| shape.range_at(block.from).end()).max(), self.new.end()?)
        else {
            return Ok(());
        };
        if end <= tables {
            return Ok(());
        }
        let rest = FileRange::new(tables, end - tables);
        self.image.write_zeroes(executor, rest, self.device_end().is_none()).await
    }
}

impl Parts {
    /// The same for a disk of `bytes`: what is behind the table makes room for it.
    fn grown(&self, bytes: u64) -> Result<Parts> {
        let footer = self.footer.with_disk_bytes(bytes);
        let blocks = u32::try_from(self.header.block_shape().blocks(bytes));
        let blocks = blocks.map_err(|_| Error::new(ErrorKind::LimitReached, "more blocks than a table can name"))?;
        let count = blocks.max(self.header.table_entries());
        let header = self.header.with_table_entries(count);
        let mut entries = self.entries.clone();
        entries.resize(blocks as usize, UNUSED_ENTRY);
        let batmap = self.batmap.as_ref().map(|(batmap, map)| {
            let batmap = batmap.at(header.table_range().end(), count);
            let length = usize::try_from(batmap.map_range().length()).expect("a batmap fits memory");
            // A map that nobody believes says nothing from now on.
            let known = Bitmap::from_bytes(map, self.entries.len());
            let is_known = batmap.check_map(map, self.footer.disk_bytes()).is_ok() && fits(&known, &self.entries);
            let map = if is_known { known } else { Bitmap::new(self.entries.len()) }.to_bytes(length);
            (batmap.with_map(&map, bytes), map)
        });
        let mut end = batmap.as_ref().map_or(header.table_range().end(), |(batmap, _)| batmap.map_range().end());
        let reached = FileRange::new(header.table_range().start(), end - header.table_range().start());
        let mut paths: Vec<Path> = self.paths.iter().map(Path::copy).collect();
        let is_in_the_way = paths.iter().any(|path| path.room.overlaps(reached));
        paths.sort_by_key(|path| path.room.start());
        for path in paths.iter_mut().filter(|path| is_in_the_way && path.room.start() >= reached.start()) {
            path.room = FileRange::new(end, path.room.length());
            end = path.room.end();
        }
        let places: Vec<(usize, FileOffset)> = paths.iter().map(|path| (path.slot, path.room.start())).collect();
        let header = header.with_paths_at(&places);
        Ok(Parts { footer, header, entries, batmap, paths })
    }

    /// The same with new places behind `end` for the blocks that the tables reach.
    async fn without_collisions(
        mut self,
        executor: &Executor,
        image: &Arc<dyn Storage>,
        end: FileOffset,
    ) -> Result<(Parts, Vec<Move>)> {
        let (tables, shape) = (self.end()?, self.header.block_shape());
        let length = usize::try_from(shape.block_bytes()).expect("a block has 2 MiB");
        let (mut end, mut moves) = (end.max(tables), Vec::new());
        for entry in self.entries.iter_mut().filter(|entry| **entry != UNUSED_ENTRY) {
            let from = FileOffset::new(u64::from(*entry) * SECTOR);
            if from >= tables {
                continue;
            }
            let to = shape.place_behind(end)?;
            let bytes = image.read_bytes(executor, from, length).await.context("reading a block")?;
            moves.push(Move { from, to, bytes });
            *entry = BlockShape::entry_for(to);
            end = shape.range_at(to).end();
        }
        Ok((self, moves))
    }
}

/// The footer of a place of an image, if there is one.
pub(super) async fn footer_at(executor: &Executor, image: &Arc<dyn Storage>, place: FileOffset) -> Result<Footer> {
    let bytes = image.read_bytes(executor, place, FOOTER_BYTES).await?;
    UncheckedFooter::parse(&bytes)?.check_all_but_disabled()
}
