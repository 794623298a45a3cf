//! Undoing a resize that was not done: the journal's bytes go back where they were.
//!
//! The copy of the footer at the start decides. While it is disabled the journal is undone, as often as it takes, and the
//! copy is enabled last. If it is not disabled, either nothing was changed yet or the resize was done: then the end
//! follows the copy.

use std::sync::Arc;

use block_core::{Error, ErrorKind, FileOffset, Result, ResultExt, SECTOR};
use storage_io::{Executor, Storage, StorageExt, StorageKind};

use super::journal::{EntryKind, Journal, JournalEntry};
use super::layout::FOOTER_BYTES;
use super::resize::footer_at;
use super::{DiskType, Footer, UncheckedFooter, UncheckedHeader};

/// Leaves an image as it was before the resize, or as the resize has left it if it was done. What made the journal is
/// durable when this ends; the journal itself is not touched.
///
/// # Errors
/// `Mismatch` for another image's journal; `Corrupt` for one that cannot be undone. Then nothing is changed.
pub async fn revert(executor: &Executor, image: &Arc<dyn Storage>, journal: &Journal) -> Result<()> {
    let copy = copy_of(executor, image).await;
    let end = end_of(executor, image).await;
    let known = copy.as_ref().or(end.as_ref().ok()).map(Footer::uuid);
    match known {
        Some(uuid) if uuid == journal.uuid => {}
        Some(_) => return Err(Error::new(ErrorKind::Mismatch, "the journal is another image's")),
        None => return Err(Error::new(ErrorKind::Corrupt, "the image has no footer any more")),
    }
    let undone = Undo { executor, image };
    match copy {
        Some(copy) if !copy.is_disabled() => undone.follow(&copy, end).await,
        Some(copy) if journal.entries.is_empty() => undone.enable(copy, end).await,
        _ => undone.restore(journal).await,
    }
}

/// The copy of the footer at the start.
async fn copy_of(executor: &Executor, image: &Arc<dyn Storage>) -> Option<Footer> {
    let copy = footer_at(executor, image, FileOffset::new(0)).await.ok();
    copy.filter(|copy| copy.disk_type() != DiskType::Fixed)
}

fn end_place(image: &Arc<dyn Storage>) -> Option<FileOffset> {
    image.length().checked_sub(FOOTER_BYTES as u64).map(FileOffset::new)
}

async fn end_of(executor: &Executor, image: &Arc<dyn Storage>) -> Result<Footer> {
    let place = end_place(image).ok_or_else(|| Error::new(ErrorKind::Corrupt, "too short for a VHD"))?;
    footer_at(executor, image, place).await
}

struct Undo<'a> {
    executor: &'a Executor,
    image: &'a Arc<dyn Storage>,
}

impl Undo<'_> {
    /// Nothing was moved, or everything has been: at most the footer at the end is still disabled.
    async fn follow(&self, copy: &Footer, end: Result<Footer>) -> Result<()> {
        let place = end_place(self.image).expect("the image has a copy of its footer");
        match end {
            Ok(end) if end.is_disabled() && end.uuid() == copy.uuid() => self.write(place, copy).await,
            _ => Ok(()),
        }
    }

    /// Another tool has moved everything and has cleared its journal: the footers are all that is missing.
    async fn enable(&self, copy: Footer, end: Result<Footer>) -> Result<()> {
        let place = end_place(self.image).expect("the image has a copy of its footer");
        let copy = copy.enabled();
        if end.is_ok_and(|end| end.uuid() == copy.uuid()) {
            self.write(place, &copy).await?;
        }
        self.write(FileOffset::new(0), &copy).await
    }

    async fn restore(&self, journal: &Journal) -> Result<()> {
        let is_device = self.image.limits().kind == StorageKind::BlockDevice;
        let length = journal.footer_offset.get().saturating_add(FOOTER_BYTES as u64);
        let footers = check(journal).context("journal")?;
        if is_device && length > self.image.length() {
            return Err(Error::new(ErrorKind::Corrupt, "the device is smaller than when the journal was made"));
        }
        for entry in journal.entries.iter().filter(|entry| !is_footer(entry)) {
            self.image.write_bytes(self.executor, entry.offset, &entry.bytes).await?;
        }
        self.image.sync(self.executor).await?;
        self.write(journal.footer_offset, &footers.end).await?;
        if !is_device && self.image.length() != length {
            self.image.set_length(self.executor, length).await?;
            self.image.sync(self.executor).await?;
        }
        self.write(FileOffset::new(0), &footers.copy).await
    }

    async fn write(&self, place: FileOffset, footer: &Footer) -> Result<()> {
        self.image.write_bytes(self.executor, place, footer.as_bytes()).await?;
        self.image.sync(self.executor).await
    }
}

/// The last block that a table can name begins before 2 TiB.
const END_MAX: u64 = (1 << 41) + (4 << 20) - SECTOR;

struct JournalFooters {
    end: Footer,
    copy: Footer,
}

fn is_footer(entry: &JournalEntry) -> bool {
    matches!(entry.kind, EntryKind::EndFooter | EntryKind::FooterCopy)
}

/// Whether it can be undone, all of it: what it holds makes an image.
fn check(journal: &Journal) -> Result<JournalFooters> {
    let find = |kind: EntryKind| journal.entries.iter().find(move |entry| entry.kind == kind);
    let footer = |kind: EntryKind| {
        let footer = find(kind).map(|entry| UncheckedFooter::parse(&entry.bytes)?.check_all_but_disabled());
        footer.unwrap_or_else(|| Err(corrupt("it has no footer"))).map(Footer::enabled)
    };
    let copy = footer(EntryKind::FooterCopy)?;
    let end = footer(EntryKind::EndFooter).unwrap_or_else(|_| copy.clone());
    let is_ours = |footer: &Footer| footer.uuid() == journal.uuid && footer.disk_type() != DiskType::Fixed;
    if !is_ours(&copy) || !is_ours(&end) {
        return Err(corrupt("its footers are another image's"));
    }
    let header = find(EntryKind::Header).ok_or_else(|| corrupt("it has no header"))?;
    UncheckedHeader::parse(&header.bytes)?.check()?;
    if Some(header.offset) != copy.header_offset() || find(EntryKind::Table).is_none() {
        return Err(corrupt("it has no table, or a header that is not the image's"));
    }
    if journal.footer_offset.get() > END_MAX || !journal.footer_offset.is_aligned(SECTOR) {
        return Err(corrupt("its footer lies where no image ends"));
    }
    let first = FileOffset::new(FOOTER_BYTES as u64);
    let is_inside = |entry: &JournalEntry| entry.offset >= first && entry.range().end() <= journal.footer_offset;
    if journal.entries.iter().any(|entry| !is_footer(entry) && !is_inside(entry)) {
        return Err(corrupt("an entry lies on a footer"));
    }
    Ok(JournalFooters { end, copy })
}

fn corrupt(reason: &'static str) -> Error {
    Error::new(ErrorKind::Corrupt, reason)
}
