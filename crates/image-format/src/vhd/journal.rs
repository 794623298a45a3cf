//! The journal of a resize: everything that the resize will write over, so that it can be undone.
//!
//! ```text
//!   0      header: whose it is, where the image's footer was, how many entries
//!   512    metadata: footers, header, table, batmap, paths to the parent
//!   ..     data: bitmaps and data of the blocks that have to move
//! ```
//!
//! A journal counts from the moment its header says how many entries it has, and that is written when all of them are
//! durable. Other tools of the `tap` creator read and write the same.

use std::sync::Arc;

use block_core::{Error, ErrorKind, FileOffset, FileRange, Result, ResultExt, SECTOR};
use storage_io::{Executor, Storage, StorageExt};
use uuid::Uuid;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::layout::{
    JOURNAL_COOKIE, JOURNAL_ENTRY_BYTES, JOURNAL_ENTRY_COOKIE, JOURNAL_HEADER_BYTES, JournalEntryBytes,
    JournalHeaderBytes,
};

/// Our own limit: several times what a resize to the largest disk needs.
const JOURNAL_BYTES_MAX: u64 = 256 << 20;

/// Entries hold whole sectors.
const UNIT: usize = 512;

/// What an entry holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// The footer at the end.
    EndFooter,
    /// The copy of the footer at the start.
    FooterCopy,
    /// The header.
    Header,
    /// A path to the parent.
    Locator,
    /// The block allocation table.
    Table,
    /// The header of the batmap.
    BatmapHeader,
    /// The batmap.
    Batmap,
    /// A bitmap, or the data of a block.
    Data,
}

impl EntryKind {
    const ALL: [Self; 8] = [
        Self::EndFooter,
        Self::FooterCopy,
        Self::Header,
        Self::Locator,
        Self::Table,
        Self::BatmapHeader,
        Self::Batmap,
        Self::Data,
    ];

    fn from_bits(bits: u32) -> Option<Self> {
        let index = usize::try_from(bits).ok()?.checked_sub(1)?;
        Self::ALL.get(index).copied()
    }

    fn to_bits(self) -> u32 {
        self as u32 + 1
    }
}

/// Bytes of the image as they were, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalEntry {
    /// What they are.
    pub kind: EntryKind,
    /// Where they belong.
    pub offset: FileOffset,
    /// Whole sectors.
    pub bytes: Vec<u8>,
}

impl JournalEntry {
    /// The place in the image.
    pub fn range(&self) -> FileRange {
        FileRange::new(self.offset, self.bytes.len() as u64)
    }
}

/// A journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Journal {
    /// Whose it is.
    pub uuid: Uuid,
    /// Where the footer at the end of the image was.
    pub footer_offset: FileOffset,
    /// None before the journal is whole, and when the resize is done.
    pub entries: Vec<JournalEntry>,
}

/// What is found where a journal is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FoundJournal {
    /// Nothing at all: whoever wanted to write one was stopped.
    Empty,
    /// A journal.
    Whole(Journal),
}

impl Journal {
    /// Reads a journal, and believes nothing that it could not be.
    pub async fn read(executor: &Executor, storage: &Arc<dyn Storage>) -> Result<FoundJournal> {
        let length = storage.length();
        if length == 0 {
            return Ok(FoundJournal::Empty);
        }
        if length < JOURNAL_HEADER_BYTES as u64 {
            return Err(corrupt("too short for a journal"));
        }
        let header = storage.read_bytes(executor, FileOffset::new(0), JOURNAL_HEADER_BYTES).await?;
        // No more than this is in a file before its header is durable; a longer one is somebody's who wants it.
        if length == JOURNAL_HEADER_BYTES as u64 && header.iter().all(|&byte| byte == 0) {
            return Ok(FoundJournal::Empty);
        }
        let header = JournalHeaderBytes::read_from_bytes(&header).expect("as many bytes were read");
        if header.cookie != JOURNAL_COOKIE {
            return Err(corrupt("not a journal"));
        }
        let end = header.journal_end.get();
        if end > length.next_multiple_of(SECTOR) || end > JOURNAL_BYTES_MAX {
            return Err(corrupt("the journal ends behind its file"));
        }
        let bytes = usize::try_from(end.next_multiple_of(SECTOR)).expect("a journal fits memory");
        let bytes = storage.read_bytes(executor, FileOffset::new(0), bytes).await?;
        Ok(FoundJournal::Whole(Journal::parse(&header, &bytes)?))
    }

    /// The entries that `header` counts, in the `bytes` of the whole journal.
    fn parse(header: &JournalHeaderBytes, bytes: &[u8]) -> Result<Journal> {
        let footer_offset = FileOffset::new(header.footer_offset.get());
        let mut entries = Vec::new();
        let sections = [
            (header.metadata_offset.get(), header.metadata_entries.get()),
            (header.data_offset.get(), header.data_entries.get()),
        ];
        for (offset, count) in sections {
            let mut rest = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..));
            for index in 0..count {
                let from = rest.ok_or_else(|| corrupt("an entry lies behind the end of the journal"))?;
                let (entry, behind) = parse_entry(from).context(format_args!("entry {index} of the journal"))?;
                entries.push(entry);
                rest = Some(behind);
            }
        }
        Ok(Journal { uuid: Uuid::from_bytes(header.uuid), footer_offset, entries })
    }

    /// Writes it, durably: the entries first, then the header that counts them.
    pub async fn write(&self, executor: &Executor, storage: &Arc<dyn Storage>) -> Result<()> {
        // What was here before is no journal of anybody's from now on.
        self.write_header(executor, storage, [0, 0], [0; 2]).await?;
        let (metadata, data): (Vec<&JournalEntry>, Vec<_>) =
            self.entries.iter().partition(|entry| entry.kind != EntryKind::Data);
        let mut body = Vec::new();
        metadata.iter().for_each(|entry| put_entry(&mut body, entry));
        let data_at = body.len();
        data.iter().for_each(|entry| put_entry(&mut body, entry));
        let end = body.len();
        body.resize(body.len().next_multiple_of(UNIT), 0);
        let start = FileOffset::new(JOURNAL_HEADER_BYTES as u64);
        storage.write_bytes(executor, start, &body).await?;
        storage.sync(executor).await?;
        self.write_header(executor, storage, [metadata.len(), data.len()], [data_at, end]).await
    }

    /// Says, durably, that nothing has to be undone.
    pub async fn clear(&self, executor: &Executor, storage: &Arc<dyn Storage>) -> Result<()> {
        self.write_header(executor, storage, [0, 0], [0; 2]).await
    }

    /// With the counts of metadata and data, and where data and journal begin and end behind the header.
    async fn write_header(
        &self,
        executor: &Executor,
        storage: &Arc<dyn Storage>,
        [metadata, data]: [usize; 2],
        [data_at, end]: [usize; 2],
    ) -> Result<()> {
        let count = |count: usize| u32::try_from(count).expect("a journal has few entries");
        let place = |offset: usize| (JOURNAL_HEADER_BYTES + offset) as u64;
        let mut header = JournalHeaderBytes::new_zeroed();
        header.cookie = JOURNAL_COOKIE;
        header.uuid = self.uuid.into_bytes();
        header.footer_offset = self.footer_offset.get().into();
        header.metadata_entries = count(metadata).into();
        header.data_entries = count(data).into();
        header.metadata_offset = place(0).into();
        header.data_offset = place(data_at).into();
        header.journal_end = place(end).into();
        storage.write_bytes(executor, FileOffset::new(0), header.as_bytes()).await?;
        storage.sync(executor).await
    }
}

fn parse_entry(bytes: &[u8]) -> Result<(JournalEntry, &[u8])> {
    let short = || corrupt("it lies behind the end of the journal");
    let (header, rest) = JournalEntryBytes::read_from_prefix(bytes).map_err(|_| short())?;
    let size = usize::try_from(header.size.get()).map_err(|_| short())?;
    let kind = EntryKind::from_bits(header.kind.get());
    let kind = kind.filter(|_| header.cookie.get() == JOURNAL_ENTRY_COOKIE).ok_or_else(|| corrupt("no entry"))?;
    let offset = FileOffset::new(header.offset.get());
    if size == 0 || !size.is_multiple_of(UNIT) || !offset.is_aligned(SECTOR) {
        return Err(corrupt("not whole sectors"));
    }
    FileRange::checked(offset.get(), size as u64).ok_or_else(|| corrupt("invalid offset"))?;
    let (payload, rest) = rest.split_at_checked(size).ok_or_else(short)?;
    // Other tools have never looked at the sums of metadata; those have sums of their own.
    if kind == EntryKind::Data && header.checksum.get() != header.computed_checksum(payload) {
        return Err(corrupt("invalid checksum"));
    }
    Ok((JournalEntry { kind, offset, bytes: payload.to_vec() }, rest))
}

fn put_entry(body: &mut Vec<u8>, entry: &JournalEntry) {
    let mut header = JournalEntryBytes::new_zeroed();
    header.cookie = JOURNAL_ENTRY_COOKIE.into();
    header.kind = entry.kind.to_bits().into();
    header.size = u32::try_from(entry.bytes.len()).expect("a table has at most some MiB").into();
    header.offset = entry.offset.get().into();
    header.checksum = header.computed_checksum(&entry.bytes).into();
    body.extend_from_slice(header.as_bytes());
    body.extend_from_slice(&entry.bytes);
    debug_assert_eq!(header.as_bytes().len(), JOURNAL_ENTRY_BYTES);
}

fn corrupt(reason: &'static str) -> Error {
    Error::new(ErrorKind::Corrupt, reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use storage_io::{EngineChoice, MemoryStorage};

    fn journal() -> Journal {
        let entry = |kind, offset, byte, sectors: usize| JournalEntry {
            kind,
            offset: FileOffset::new(offset),
            bytes: vec![byte; sectors * 512],
        };
        Journal {
            uuid: Uuid::from_u128(5),
            footer_offset: FileOffset::new(0x3000),
            entries: vec![
                entry(EntryKind::EndFooter, 0x3000, 1, 1),
                entry(EntryKind::Table, 1536, 0xff, 2),
                entry(EntryKind::Data, 4096, 7, 3),
            ],
        }
    }

    fn stored(journal: &Journal) -> Vec<u8> {
        let (executor, memory) = (Executor::new(EngineChoice::Inline).unwrap(), MemoryStorage::new(0));
        let storage: Arc<dyn Storage> = Arc::new(memory.clone());
        executor.block_on(journal.write(&executor, &storage)).unwrap();
        memory.to_vec()
    }

    fn found(bytes: Vec<u8>) -> Result<FoundJournal> {
        let executor = Executor::new(EngineChoice::Inline).unwrap();
        let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::from_bytes(bytes));
        executor.block_on(Journal::read(&executor, &storage))
    }

    #[test]
    fn what_is_written_is_read_back() {
        assert_eq!(found(stored(&journal())).unwrap(), FoundJournal::Whole(journal()));
        assert_eq!(found(Vec::new()).unwrap(), FoundJournal::Empty);
        assert_eq!(found(vec![0; 512]).unwrap(), FoundJournal::Empty);
        assert_eq!(found(vec![0; 1024]).unwrap_err().to_string(), "not a journal");
    }

    #[test]
    fn the_bytes_are_those_of_other_tools() {
        let bytes = stored(&journal());
        assert_eq!(bytes[..8], *b"vjournal");
        assert_eq!(bytes[8..24], *Uuid::from_u128(5).as_bytes());
        assert_eq!(bytes[24..40], [0, 0, 0, 0, 0, 0, 0x30, 0, 0, 0, 0, 1, 0, 0, 0, 2]);
        let data_at = 512 + 32 + 512 + 32 + 1024_u64;
        assert_eq!(bytes[40..56], [data_at.to_be_bytes(), 512_u64.to_be_bytes()].concat());
        assert_eq!(bytes[56..64], (data_at + 32 + 1536).to_le_bytes());
        let entry = &bytes[512..544];
        assert_eq!(
            entry[..24],
            [0xaa, 0xaa, 0x12, 0x34, 0x43, 0x21, 0xaa, 0xaa, 0, 0, 0, 1, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0x30, 0]
        );
        let sum: u32 = entry[..24].iter().map(|&byte| u32::from(byte)).sum::<u32>() + 512;
        assert_eq!(entry[24..], [(!sum).to_be_bytes(), [0; 4]].concat());
    }

    #[test]
    fn a_byte_of_data_that_changed_is_noticed() {
        let mut bytes = stored(&journal());
        let data = bytes.len() - 512;
        bytes[data - 1] ^= 1;
        let error = found(bytes).unwrap_err();
        assert_eq!(error.to_string(), "entry 0 of the journal: invalid checksum");
    }

    #[test]
    fn numbers_that_lead_astray_are_refused() {
        let good = stored(&journal());
        for (place, value) in
            [(32, 9), (36, 9), (44, 0xff), (52, 0xff), (60, 0xff), (516, 9), (523, 99), (526, 3), (535, 1)]
        {
            let mut bytes = good.clone();
            bytes[place] = value;
            assert_eq!(found(bytes).unwrap_err().kind(), ErrorKind::Corrupt, "byte {place}");
        }
        for length in [1, 511, 513, 1024, good.len() - 512] {
            assert_eq!(found(good[..length].to_vec()).unwrap_err().kind(), ErrorKind::Corrupt, "{length} bytes");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_changes_are_read_or_refused(changes in prop::collection::vec((0..2700_usize, any::<u8>()), 1..8)) {
            let mut bytes = stored(&journal());
            for (place, value) in changes {
                let place = place % bytes.len();
                bytes[place] = value;
            }
            let _ = found(bytes);
        }
    }
}
