//! `check`: a read-only verdict. The rules of the format are looked at in the order in which readers rely on them, and the
//! first that is broken is told: what follows would be read through what is broken.
//!
//! ```text
//!   footers -> header -> (differencing) its parent's name -> batmap -> table -> locators -> bitmaps, if asked for
//! ```
//!
//! A batmap that is not valid breaks nothing: every reader of ours takes it for absent, and `repair` makes it anew. It is
//! a remark.
//!
//! The table is looked at in the order of the file, so that two blocks on one place are neighbours; no block is compared
//! with all others.

use std::path::Path;
use std::sync::Arc;

use block_core::{FileOffset, FileRange, Result, SECTOR};
use storage_io::{Executor, Storage, StorageExt};
use zerocopy::IntoBytes;

use super::footer::{CLOCK_SKEW_SECONDS, header_range};
use super::layout::{
    BATMAP_HEADER_BYTES, FOOTER_BYTES, HEADER_BYTES, LOCATORS, PARENT_NAME_BYTES, ParentLocatorBytes, UNUSED_ENTRY,
};
use super::locator::{Locator, LocatorCode, room_of};
use super::open::{read_name, read_table, stored_map};
use super::{
    BatmapHeader, BatmapRule, DiskType, Footer, Header, Metadata, Timestamp, UncheckedBatmapHeader, UncheckedFooter,
    UncheckedHeader,
};
use crate::Bitmap;

/// What to look at.
#[derive(Clone, Copy, Debug, Default)]
pub struct CheckOptions {
    /// A footer at the end that is not valid will do, as in an image that another writer has open.
    pub lost_footer: bool,
    /// The time, if images must not come from the future.
    pub now: Option<Timestamp>,
    /// Leave out the table.
    pub no_table: bool,
    /// Sectors that are not present must be zero.
    pub bitmaps: bool,
}

/// What was found.
#[derive(Clone, Default)]
pub struct Verdict {
    /// The first rule that is broken.
    pub problem: Option<String>,
    /// What readers pass over, and `repair` puts right.
    pub remarks: Vec<String>,
    /// The footer, if it can be relied on.
    pub footer: Option<Footer>,
    /// The header, if it can be relied on.
    pub header: Option<Header>,
}

/// A broken rule, in words.
type Rule = std::result::Result<(), String>;

/// Looks at the image in `storage`, and changes nothing. `watch` is told of each part of the blocks that was looked at: its
/// bytes, and those of all.
///
/// # Errors
/// What the storage says; what is wrong with the image is in the verdict.
pub async fn check(
    executor: &Executor,
    storage: &Arc<dyn Storage>,
    options: CheckOptions,
    watch: &dyn Fn(u64, u64),
) -> Result<Verdict> {
    let mut checker = Checker { executor, storage, options, watch, verdict: Verdict::default() };
    let found = checker.look().await?;
    Ok(Verdict { problem: found.err(), ..checker.verdict })
}

struct Checker<'a> {
    executor: &'a Executor,
    storage: &'a Arc<dyn Storage>,
    options: CheckOptions,
    watch: &'a dyn Fn(u64, u64),
    verdict: Verdict,
}

impl Checker<'_> {
    async fn look(&mut self) -> Result<Rule> {
        let footer = match self.footers().await? {
            Ok(footer) => footer,
            Err(problem) => return Ok(Err(problem)),
        };
        self.verdict.footer = Some(footer.clone());
        if footer.disk_type() == DiskType::Fixed {
            return Ok(self.fixed(&footer));
        }
        let header = match self.header(&footer).await? {
            Ok(header) => header,
            Err(problem) => return Ok(Err(problem)),
        };
        self.verdict.header = Some(header.clone());
        if let Err(problem) = self.parent_fields(&footer, &header) {
            return Ok(Err(problem));
        }
        let metadata = match Metadata::new(&footer, &header, self.storage.length()) {
            Ok(metadata) => metadata,
            Err(error) => return Ok(Err(format!("header is invalid: {error}"))),
        };
        let entries = read_table(self.executor, self.storage, &metadata).await?;
        let metadata = self.batmap(&footer, &header, metadata, &entries).await?;
        if !self.options.no_table
            && let Err(problem) = self.table(&metadata, &entries)
        {
            return Ok(Err(problem));
        }
        if footer.disk_type() == DiskType::Differencing
            && let Err(problem) = self.locators(&header).await?
        {
            return Ok(Err(problem));
        }
        if self.options.bitmaps { self.bitmaps(&metadata, &entries).await } else { Ok(Ok(())) }
    }

    /// The footer that counts: valid at both places, and the same.
    async fn footers(&self) -> Result<std::result::Result<Footer, String>> {
        let length = self.storage.length();
        if length < FOOTER_BYTES as u64 {
            return Ok(Err(format!("primary footer invalid: {length} bytes are too few for one")));
        }
        let problem = |footer: &UncheckedFooter| footer.first_problem(self.options.now);
        let primary = UncheckedFooter::parse(&self.end().await?)?;
        let primary_problem = problem(&primary);
        if let Some(problem) = primary_problem.filter(|_| !self.options.lost_footer) {
            return Ok(Err(format!("primary footer invalid: {problem}")));
        }
        let is_fixed = |footer: &UncheckedFooter| {
            footer.clone().check_all_but_disabled().is_ok_and(|footer| footer.disk_type() == DiskType::Fixed)
        };
        if primary_problem.is_none() && is_fixed(&primary) {
            return Ok(primary.check().map_err(|error| format!("primary footer invalid: {error}")));
        }
        let backup = UncheckedFooter::parse(&self.bytes(0, FOOTER_BYTES).await?)?;
        if let Some(problem) = problem(&backup) {
            return Ok(Err(format!("backup footer invalid: {problem}")));
        }
        if is_fixed(&backup) {
            return Ok(Err("backup footer invalid: a fixed disk has none".to_owned()));
        }
        if primary_problem.is_none() && backup.bytes().as_bytes() != primary.bytes().as_bytes() {
            return Ok(Err("primary and backup footers do not match".to_owned()));
        }
        Ok(backup.check().map_err(|error| format!("backup footer invalid: {error}")))
    }

    /// The last sector. Old tools wrote one byte less of it; a file that ends anywhere else has none.
    async fn end(&self) -> Result<Vec<u8>> {
        let length = self.storage.length();
        match length % SECTOR {
            0 => self.bytes(length - SECTOR, FOOTER_BYTES).await,
            rest => {
                let bytes = self.bytes(length - rest, FOOTER_BYTES - 1).await;
                Ok(bytes.ok().filter(|_| rest == SECTOR - 1).unwrap_or_else(|| vec![0; FOOTER_BYTES]))
            }
        }
    }

    fn fixed(&self, footer: &Footer) -> Rule {
        let room = self.storage.length() - (FOOTER_BYTES as u64 - 1);
        if footer.disk_bytes() <= room { Ok(()) } else { Err("the disk is larger than the file".to_owned()) }
    }

    async fn header(&self, footer: &Footer) -> Result<std::result::Result<Header, String>> {
        let invalid = |words: String| Ok(Err(format!("header is invalid: {words}")));
        let range = match header_range(footer) {
            Ok(range) => range.expect("an image that is not fixed has a header"),
            Err(error) => return invalid(error.to_string()),
        };
        if range.end().get() > self.storage.length() {
            return invalid("it lies behind the end of the file".to_owned());
        }
        let header = UncheckedHeader::parse(&self.bytes(range.start().get(), HEADER_BYTES).await?)?;
        match header.first_problem(self.storage.length()) {
            Some(problem) => invalid(problem.to_owned()),
            None => header.check().map(Ok).or_else(|error| invalid(error.to_string())),
        }
    }

    /// What a header says of a parent, if it has one; else it says nothing.
    fn parent_fields(&self, footer: &Footer, header: &Header) -> Rule {
        let bytes = header.bytes();
        let has = |broken: bool, words: &str| if broken { Err(words.to_owned()) } else { Ok(()) };
        if footer.disk_type() == DiskType::Differencing {
            let latest = self.options.now.map_or(u32::MAX, |now| now.get().saturating_add(CLOCK_SKEW_SECONDS));
            has(
                header.parent_timestamp().get() > latest,
                "differencing header is invalid: parent creation time in future",
            )?;
            return has(header.parent_name().is_err(), "differencing header is invalid: invalid parent name");
        }
        has(bytes.parent_name != [0; PARENT_NAME_BYTES], "header is invalid: a parent's name without a parent")?;
        has(bytes.parent_uuid != [0; 16], "header is invalid: a parent's uuid without a parent")?;
        has(bytes.parent_timestamp.get() != 0, "header is invalid: a parent's time without a parent")?;
        let is_used = |slot: &ParentLocatorBytes| slot.platform_code.get() != 0;
        has(bytes.parent_locators.iter().any(is_used), "header is invalid: a parent locator without a parent")
    }

    /// Where the tables are, with the batmap if there is one to believe.
    async fn batmap(
        &mut self,
        footer: &Footer,
        header: &Header,
        metadata: Metadata,
        entries: &[u32],
    ) -> Result<Metadata> {
        let rule = footer.batmap_rule();
        if rule == BatmapRule::Absent {
            return Ok(metadata);
        }
        match self.valid_batmap(header, &metadata).await? {
            Ok((batmap, map)) => {
                let is_impossible = |block: &usize| entries[*block] == UNUSED_ENTRY && map.get(*block);
                if let Some(block) = (0..entries.len()).find(is_impossible) {
                    self.verdict.remarks.push(format!("batmap shows unallocated block {block} full"));
                }
                Ok(metadata.with_batmap(&batmap))
            }
            Err(_) if rule == BatmapRule::IfValid => Ok(metadata),
            Err(problem) => {
                self.verdict.remarks.push(format!("batmap is invalid: {problem}"));
                Ok(metadata)
            }
        }
    }

    async fn valid_batmap(
        &self,
        header: &Header,
        metadata: &Metadata,
    ) -> Result<std::result::Result<(BatmapHeader, Bitmap), String>> {
        let place = FileRange::new(header.table_range().end(), BATMAP_HEADER_BYTES as u64);
        let is_missing = |range: FileRange| range.end().get() > self.storage.length();
        let missing = || Ok(Err("it lies behind the end of the file".to_owned()));
        if is_missing(place) {
            return missing();
        }
        let bytes = self.bytes(place.start().get(), byte_count(place)).await?;
        let checked = UncheckedBatmapHeader::parse(&bytes)?;
        let batmap = match checked.check(place.start(), metadata.blocks() as u64, metadata.disk_bytes()) {
            Ok(batmap) => batmap,
            Err(error) => return Ok(Err(error.to_string())),
        };
        let map = stored_map(&batmap, metadata);
        if is_missing(map) {
            return missing();
        }
        let bytes = self.bytes(map.start().get(), byte_count(map)).await?;
        Ok(match batmap.check_map(&bytes, metadata.disk_bytes()) {
            Ok(()) => Ok((batmap, Bitmap::from_bytes(&bytes, metadata.blocks()))),
            Err(error) => Err(error.to_string()),
        })
    }

    /// No block on a table, on the footer or on another block.
    fn table(&self, metadata: &Metadata, entries: &[u32]) -> Rule {
        let mut placed = Vec::with_capacity(entries.len());
        // An image that another writer has open may end with its last block, over the footer.
        let room = if self.options.lost_footer { 0 } else { SECTOR };
        let footer = self.storage.length().next_multiple_of(SECTOR).saturating_sub(room);
        for (block, &entry) in entries.iter().enumerate().filter(|(_, entry)| **entry != UNUSED_ENTRY) {
            let start = metadata.block_start(entry).map_err(|_| clobbers(block, entry, "headers"))?;
            let start = start.expect("an entry that is in use has a place");
            if metadata.shape().range_at(start).end().get() > footer {
                return Err(clobbers(block, entry, "footer"));
            }
            placed.push((entry, block));
        }
        placed.sort_unstable();
        let sectors = metadata.shape().block_bytes() / SECTOR;
        for pair in placed.windows(2) {
            let [(first, one), (next, other)] = [pair[0], pair[1]];
            if u64::from(first) + sectors > u64::from(next) {
                return Err(clobbers(other, next, &format!("block {one} (offset {first:#x})")));
            }
        }
        Ok(())
    }

    /// Each locator makes sense, no platform has two, and all name the parent that the header names.
    async fn locators(&self, header: &Header) -> Result<Rule> {
        let parent_name = header.parent_name().unwrap_or_default();
        let mut codes: Vec<u32> = Vec::with_capacity(LOCATORS);
        for (index, slot) in header.bytes().parent_locators.iter().enumerate() {
            let code = slot.platform_code.get();
            if code == 0 {
                continue;
            }
            if codes.contains(&code) {
                return Ok(Err(format!("duplicate platform code in locator {index}: {code:#x}")));
            }
            codes.push(code);
            let locator = match checked_locator(slot, self.storage.length()) {
                Ok(locator) => locator,
                Err(words) => return Ok(Err(format!("invalid parent locator {index}: {words}"))),
            };
            if locator.code() == LocatorCode::Obsolete {
                continue;
            }
            let name = match read_name(self.executor, self.storage, locator).await {
                Ok(name) => name,
                Err(error) => return Ok(Err(format!("invalid parent locator {index}: {error}"))),
            };
            let base = Path::new(&name).file_name().map(|base| base.to_string_lossy().into_owned()).unwrap_or_default();
            if base != parent_name {
                let words =
                    format!("parent locator {index} name ({base:?}) does not match header name ({parent_name:?})");
                return Ok(Err(words.replace('"', "")));
            }
        }
        Ok(if codes.is_empty() { Err("no parent locator".to_owned()) } else { Ok(()) })
    }

    /// What is not present is zero, so that a bit that is set later brings nothing to light.
    async fn bitmaps(&self, metadata: &Metadata, entries: &[u32]) -> Result<Rule> {
        let shape = metadata.shape();
        let total = entries.iter().filter(|entry| **entry != UNUSED_ENTRY).count() as u64 * shape.block_bytes();
        for (block, &entry) in entries.iter().enumerate().filter(|(_, entry)| **entry != UNUSED_ENTRY) {
            (self.watch)(shape.block_bytes(), total);
            let start = u64::from(entry) * SECTOR;
            let end = (start + shape.block_bytes()).min(self.storage.length() / SECTOR * SECTOR);
            let length = usize::try_from(end.saturating_sub(start)).expect("a block has at most 2 MiB");
            let mut bytes = self.bytes(start, length).await?;
            // What lies behind the end of the file is zero.
            bytes.resize(usize::try_from(shape.block_bytes()).expect("a block has at most 2 MiB"), 0);
            let (bitmap, data) = bytes.split_at(usize::try_from(shape.bitmap_bytes()).expect("a few sectors"));
            let present = Bitmap::from_bytes(bitmap, shape.sectors());
            for (_, run) in present.runs(0..shape.sectors()).filter(|(is_present, _)| !is_present) {
                let hidden = data[run.start * 512..run.end * 512].iter().position(|byte| *byte != 0);
                if let Some(position) = hidden {
                    let sector = run.start + position / 512;
                    let words = format!("sector {sector:#x} of block {block:#x} has data where bitmap is clear");
                    return Ok(Err(words));
                }
            }
        }
        Ok(Ok(()))
    }

    async fn bytes(&self, offset: u64, length: usize) -> Result<Vec<u8>> {
        self.storage.read_bytes(self.executor, FileOffset::new(offset), length).await
    }
}

fn clobbers(block: usize, entry: u32, what: &str) -> String {
    format!("block {block} (offset {entry:#x}) clobbers {what}")
}

fn byte_count(range: FileRange) -> usize {
    usize::try_from(range.length()).expect("the number of blocks is bounded")
}

/// A locator that leads somewhere: in the file, with something in it.
fn checked_locator(slot: &ParentLocatorBytes, file_bytes: u64) -> std::result::Result<Locator, String> {
    if slot.reserved.get() != 0 {
        return Err("invalid reserved bits".to_owned());
    }
    if slot.data_offset.get() == 0 || slot.data_space.get() == 0 || slot.data_length.get() == 0 {
        return Err("it is empty".to_owned());
    }
    if room_of(slot).is_none_or(|room| room.end().get() > file_bytes) {
        return Err("it lies behind the end of the file".to_owned());
    }
    let locator = Locator::check(slot).map_err(|error| error.to_string())?;
    Ok(locator.expect("a slot with a code is in use"))
}
