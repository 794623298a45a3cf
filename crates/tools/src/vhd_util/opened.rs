//! One VHD as this program sees it: footer, header, and the tables that a command asks for. Nothing is believed before
//! it is checked; what a command does not need is not read, so an image with a broken table still answers.

use std::{path::Path, path::PathBuf, sync::Arc, time::Duration};

use block_core::{Error, ErrorKind, FileOffset, FileRange, Result, ResultExt, SECTOR};
use image_format::vhd::{
    BATMAP_HEADER_BYTES, BatmapHeader, BatmapRule, DiskType, FOOTER_BYTES, Footer, HEADER_BYTES, Header, Metadata,
    UNUSED_ENTRY, UncheckedBatmapHeader, UncheckedFooter, UncheckedHeader, choose_footer, is_batmap_displaced,
};
use storage_io::{Access, CreateMode, Executor, LockPolicy, OpenOptions, Storage, StorageExt};

use super::{Session, creating::BUSY_MAX};

/// One read of this many bytes brings everything that most commands need.
const HEAD_BYTES: u64 = 4096;
/// Another host may be writing the header at this moment; then its sum is right a little later.
const HEADER_ATTEMPTS: usize = 4;
const HEADER_PAUSE: Duration = Duration::from_millis(50);

/// What opening insists on.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Demands {
    /// A footer that a resize has disabled will do.
    pub(super) disabled: bool,
    /// Only the copy of the footer at the start counts.
    pub(super) copy_only: bool,
    /// The same, and nothing but the start is read.
    pub(super) start_only: bool,
}

/// An opened VHD.
pub(super) struct OpenedVhd {
    pub(super) storage: Arc<dyn Storage>,
    pub(super) path: PathBuf,
    pub(super) footer: Footer,
    /// Where a valid footer lies at the end; none while the image is being written.
    pub(super) end_footer: Option<FileOffset>,
    /// Fixed images have none.
    pub(super) header: Option<Header>,
    head: Vec<u8>,
}

impl OpenedVhd {
    /// Opens an image. Takes no lock: what this program changes in place, it may change under a running tapdisk.
    pub(super) async fn open(session: &Session, path: &Path, access: Access, demands: Demands) -> Result<OpenedVhd> {
        OpenedVhd::open_with(session, path, access, LockPolicy::None, demands).await
    }

    /// Opens an image to change it, as its only writer. Waits a little for the last writes of one that was killed.
    pub(super) async fn open_alone(session: &Session, path: &Path, demands: Demands) -> Result<OpenedVhd> {
        let lock = LockPolicy::Exclusive { deadline: BUSY_MAX };
        OpenedVhd::open_with(session, path, Access::Write, lock, demands).await
    }

    async fn open_with(
        session: &Session,
        path: &Path,
        access: Access,
        lock: LockPolicy,
        demands: Demands,
    ) -> Result<OpenedVhd> {
        let options = OpenOptions { access, direct: true, lock, create: CreateMode::No };
        let storage = session.files.open(&session.executor, path, options).await?;
        OpenedVhd::read(&session.executor, storage, path, demands).await.context(path.display())
    }

    /// The image in a storage that is open already.
    pub(super) async fn read(
        executor: &Executor,
        storage: Arc<dyn Storage>,
        path: &Path,
        demands: Demands,
    ) -> Result<OpenedVhd> {
        let head_bytes = storage.length().min(HEAD_BYTES) / SECTOR * SECTOR;
        let head = read_bytes(executor, &storage, FileRange::new(FileOffset::new(0), head_bytes)).await?;
        let check = |bytes: &[u8]| UncheckedFooter::parse(bytes)?.check_all_but_disabled();
        let at_start = check(&head).context("footer at the start");
        let (place, at_end) = match end_footer_place(storage.length()).filter(|_| !demands.start_only) {
            Some(place) => {
                let room = FileRange::new(place, FOOTER_BYTES as u64);
                (Some(place), read_bytes(executor, &storage, room).await.and_then(|bytes| check(&bytes)))
            }
            None => (None, Err(Error::new(ErrorKind::Corrupt, "too short for a VHD"))),
        };
        let at_end = at_end.context("footer");
        let end_footer =
            place.filter(|_| at_end.as_ref().is_ok_and(|footer| demands.disabled || !footer.is_disabled()));
        let footer = if demands.copy_only || demands.start_only {
            only_copy(at_start)
        } else {
            choose_footer(at_start, at_end)
        }?;
        let footer = if demands.disabled { footer } else { footer.for_use().context("footer")? };
        let header = match footer.header_offset() {
            Some(offset) => Some(read_header(executor, &storage, offset, &head).await.context("header")?),
            None => None,
        };
        Ok(OpenedVhd { storage, path: path.to_path_buf(), footer, end_footer, header, head })
    }

    /// Where its tables are; an error for a fixed image, which has none.
    pub(super) fn metadata(&self) -> Result<Metadata> {
        let Some(header) = &self.header else {
            return Err(self.broken("a fixed image has no table"));
        };
        Metadata::new(&self.footer, header, self.storage.length()).context(self.path.display())
    }

    /// The entries of the table that are in use by the disk.
    pub(super) async fn table(&self, executor: &Executor) -> Result<Vec<u32>> {
        let table = self.metadata()?.table();
        let bytes = self.bytes(executor, table.align_out(SECTOR)).await.context("block allocation table")?;
        let entries = bytes.as_chunks::<4>().0.iter().map(|entry| u32::from_be_bytes(*entry));
        Ok(entries.take(usize::try_from(table.length() / 4).expect("a table fits memory")).collect())
    }

    /// The header of the batmap; none where there is no batmap.
    pub(super) async fn batmap_header(&self, executor: &Executor) -> Result<Option<BatmapHeader>> {
        let rule = self.footer.batmap_rule();
        let (Some(header), true) = (&self.header, rule != BatmapRule::Absent) else { return Ok(None) };
        let metadata = self.metadata()?;
        let place = header.table_range().end();
        let bytes = self.bytes(executor, FileRange::new(place, BATMAP_HEADER_BYTES as u64)).await?;
        let checked = UncheckedBatmapHeader::parse(&bytes)
            .and_then(|batmap| batmap.check(place, metadata.blocks() as u64, metadata.disk_bytes()));
        match checked {
            Ok(batmap) => Ok(Some(batmap)),
            Err(_) if rule == BatmapRule::IfValid => Ok(None),
            // A writer that knows of no batmaps has left it no place.
            Err(_) if is_batmap_displaced(header, &metadata, &self.table(executor).await?) => Ok(None),
            Err(error) => Err(error.context("batmap").context(self.path.display())),
        }
    }

    /// Where the batmap's header is, or would be.
    pub(super) fn batmap_place(&self) -> Option<FileOffset> {
        let header = self.header.as_ref().filter(|_| self.footer.batmap_rule() != BatmapRule::Absent)?;
        Some(header.table_range().end())
    }

    /// Where the last block ends, or the tables if there is no block. A batmap whose header is broken ends where it
    /// would if it were not.
    pub(super) async fn end_of_data(&self, executor: &Executor) -> Result<FileOffset> {
        if self.footer.disk_type() == DiskType::Fixed {
            return Ok(self.end_footer.unwrap_or(FileOffset::new(self.footer.disk_bytes())));
        }
        let metadata = self.metadata()?;
        let metadata = match self.batmap_header(executor).await {
            Ok(Some(batmap)) => metadata.with_batmap(&batmap),
            _ => metadata,
        };
        let last = self.table(executor).await?.into_iter().filter(|entry| *entry != UNUSED_ENTRY).max();
        let behind = |entry| metadata.shape().range_at(FileOffset::new(u64::from(entry) * SECTOR)).end();
        Ok(last.map_or(metadata.end_of_headers(), |entry| behind(entry).max(metadata.end_of_headers())))
    }

    /// Bytes of the image, from what has been read already if they are there.
    pub(super) async fn bytes(&self, executor: &Executor, range: FileRange) -> Result<Vec<u8>> {
        match part_of(&self.head, range) {
            Some(bytes) => Ok(bytes.to_vec()),
            None => read_bytes(executor, &self.storage, range).await,
        }
    }

    fn broken(&self, words: &str) -> Error {
        Error::new(ErrorKind::Corrupt, format!("{}: {words}", self.path.display()))
    }
}

/// The copy of the footer at the start; a fixed image has none, and what looks like one is a guest's.
fn only_copy(at_start: Result<Footer>) -> Result<Footer> {
    at_start.and_then(|footer| match footer.disk_type() {
        DiskType::Fixed => Err(Error::new(ErrorKind::Corrupt, "footer at the start: a fixed disk has none")),
        DiskType::Dynamic | DiskType::Differencing => Ok(footer),
    })
}

/// Where the footer at the end begins. Old tools wrote one of 511 bytes.
fn end_footer_place(length: u64) -> Option<FileOffset> {
    let footer_bytes = FOOTER_BYTES as u64;
    let end = if length % SECTOR == SECTOR - 1 { length + 1 } else { length };
    if end.is_multiple_of(SECTOR) { end.checked_sub(footer_bytes).map(FileOffset::new) } else { None }
}

/// A range of the bytes at the start of an image, if it is in them.
fn part_of(head: &[u8], range: FileRange) -> Option<&[u8]> {
    head.get(usize::try_from(range.start().get()).ok()?..usize::try_from(range.end().get()).ok()?)
}

async fn read_header(
    executor: &Executor,
    storage: &Arc<dyn Storage>,
    offset: FileOffset,
    head: &[u8],
) -> Result<Header> {
    let range = FileRange::checked(offset.get(), HEADER_BYTES as u64).filter(|range| range.is_aligned(SECTOR));
    let range = range.ok_or_else(|| Error::new(ErrorKind::Corrupt, "invalid data offset"))?;
    let known = part_of(head, range).map(|bytes| UncheckedHeader::parse(bytes).and_then(UncheckedHeader::check));
    if let Some(Ok(header)) = known {
        return Ok(header);
    }
    let mut attempt = 1;
    loop {
        let header = UncheckedHeader::parse(&read_bytes(executor, storage, range).await?)?;
        let is_torn = header.bytes().checksum.get() != header.bytes().computed_checksum();
        if !is_torn || attempt == HEADER_ATTEMPTS {
            return header.check();
        }
        attempt += 1;
        executor.sleep(HEADER_PAUSE).await;
    }
}

/// Bytes behind the end are not there: an image whose tables say otherwise is broken.
pub(super) async fn read_bytes(executor: &Executor, storage: &Arc<dyn Storage>, range: FileRange) -> Result<Vec<u8>> {
    let end = storage.length().next_multiple_of(SECTOR);
    let length = usize::try_from(range.length()).ok().filter(|_| range.end().get() <= end);
    let length = length.ok_or_else(|| Error::new(ErrorKind::Corrupt, "ends behind the end of the file"))?;
    storage.read_bytes(executor, range.start(), length).await
}
