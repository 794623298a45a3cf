//! The bytes of a sparse VHD, looked at without the code that wrote them: do its tables agree with each other?

use block_core::FileOffset;
use image_format::vhd::UNUSED_ENTRY;
use storage_io::{CrashStorage, Executor, Storage, StorageExt};

const SECTOR: u64 = 512;

/// What a writer must never leave behind, whatever happened to it: blocks on each other, on the headers or behind the
/// end; a bit in a valid batmap of a block that is not there, or not complete.
///
/// # Errors
/// What is wrong, in words.
pub async fn check_structure(executor: &Executor, storage: &CrashStorage) -> Result<(), String> {
    let image = Parts::read(executor, storage).await?;
    let bitmap_bytes = (image.block_bytes / SECTOR).div_ceil(8).next_multiple_of(SECTOR);
    let mut places: Vec<(u64, usize)> = Vec::new();
    for (block, entry) in image.table.iter().enumerate().filter(|(_, entry)| **entry != UNUSED_ENTRY) {
        places.push((u64::from(*entry) * SECTOR, block));
    }
    places.sort_unstable();
    let mut end = image.end_of_headers;
    for (start, block) in &places {
        if *start < end {
            return Err(format!("block {block} at {start:#x} lies on what ends at {end:#x}"));
        }
        end = start + bitmap_bytes + image.block_bytes;
    }
    for (start, block) in places.iter().filter(|(_, block)| image.is_said_full(*block)) {
        let bitmap = read(executor, storage, *start, bitmap_bytes).await?;
        let sectors = usize::try_from(image.block_bytes / SECTOR).expect("at most 4096");
        if !bitmap[..sectors / 8].iter().all(|byte| *byte == 0xff) {
            return Err(format!("the batmap says that block {block} is complete, its bitmap does not"));
        }
    }
    match (0..image.table.len()).find(|block| image.table[*block] == UNUSED_ENTRY && image.is_said_full(*block)) {
        Some(block) => Err(format!("the batmap says that block {block} is complete, the table does not have it")),
        None => Ok(()),
    }
}

struct Parts {
    block_bytes: u64,
    table: Vec<u32>,
    /// Empty when its checksum is wrong: then nobody believes it.
    batmap: Vec<u8>,
    end_of_headers: u64,
}

impl Parts {
    async fn read(executor: &Executor, storage: &CrashStorage) -> Result<Parts, String> {
        let footer = read(executor, storage, 0, SECTOR).await?;
        let header = read(executor, storage, 512, 1024).await?;
        if &footer[..8] != b"conectix" || &header[..8] != b"cxsparse" {
            return Err("the copy of the footer, or the header, is not in its place".into());
        }
        let block_bytes = u64::from(number(&header[32..36]));
        let disk_bytes = u64::from_be_bytes(footer[48..56].try_into().expect("eight bytes"));
        let entries = number(&header[28..32]);
        let table_bytes = (u64::from(entries) * 4).next_multiple_of(SECTOR);
        let table = read(executor, storage, 1536, table_bytes).await?;
        let blocks = usize::try_from(disk_bytes.div_ceil(block_bytes)).expect("a small disk");
        let table = table.chunks_exact(4).map(number).take(blocks).collect();
        let batmap_header = read(executor, storage, 1536 + table_bytes, SECTOR).await?;
        let batmap_bytes = u64::from(number(&batmap_header[16..20])) * SECTOR;
        let batmap = read(executor, storage, 1536 + table_bytes + SECTOR, batmap_bytes).await?;
        let sum: u32 = batmap.iter().map(|byte| u32::from(*byte)).sum();
        let is_valid = &batmap_header[..8] == b"tdbatmap" && !sum == number(&batmap_header[24..28]);
        let end_of_headers = 1536 + table_bytes + SECTOR + batmap_bytes;
        Ok(Parts { block_bytes, table, batmap: if is_valid { batmap } else { Vec::new() }, end_of_headers })
    }

    fn is_said_full(&self, block: usize) -> bool {
        self.batmap.get(block / 8).is_some_and(|byte| byte & (0x80 >> (block % 8)) != 0)
    }
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes.try_into().expect("four bytes"))
}

async fn read(executor: &Executor, storage: &CrashStorage, offset: u64, length: u64) -> Result<Vec<u8>, String> {
    let length = usize::try_from(length).expect("tables of small disks fit memory");
    if offset + length as u64 > storage.length() {
        return Err(format!("the file ends before {:#x}", offset + length as u64));
    }
    let read = storage.read_bytes(executor, FileOffset::new(offset), length).await;
    read.map_err(|error| error.to_string())
}
