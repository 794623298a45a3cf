//! A file that may be anything, opened as a VHD: refused and left as it is, or a disk that can be read, written, closed and
//! opened again, and whose guest does not reach the headers.

use std::sync::Arc;

use block_core::{ErrorKind, SECTOR};
use image_format::{Format, Mapping};
use storage_io::{Access, CrashStorage, Storage};
use test_support::Choices;

use crate::common::{Disk, Seen, read, simulated};

/// Bytes of the file's start that strangers choose; the rest is zero, but for a footer at the end.
const HEAD_BYTES_MAX: usize = 8192;
const FILE_SECTORS_MAX: u64 = 600;
/// Some files are so many times as long.
const LONG: u64 = 16;
/// What a guest writes.
const GUEST_WORD: u64 = 0x6666_6666_6666_6666;
/// Runs that are looked at: a disk may have a great many.
const RUNS_MAX: usize = 64;

/// The first bytes say how the others become a file, and what is done with it.
pub(crate) fn open_anything(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    let (how, file_sectors) = (choices.byte(), u64::from(u16::from_le_bytes(choices.array())));
    let sectors: [u32; 4] = std::array::from_fn(|_| u32::from_le_bytes(choices.array()));
    let head = choices.rest();
    let mut file = head[..head.len().min(HEAD_BYTES_MAX)].to_vec();
    let times = if how & 8 != 0 { LONG } else { 1 };
    let length = usize::try_from(file_sectors % FILE_SECTORS_MAX * times * SECTOR).unwrap();
    if length > file.len() {
        file.resize(length, 0);
    }
    if how & 1 != 0 {
        fix_checksums(&mut file);
    }
    if how & 2 != 0 && file.len() >= 1024 {
        let footer = file[..512].to_vec();
        let end = file.len() - 512;
        file[end..].copy_from_slice(&footer);
    }
    let access = if how & 4 != 0 { Access::Read } else { Access::Write };
    use_as_a_disk(&file, access, &sectors.map(u64::from));
}

fn use_as_a_disk(file: &[u8], access: Access, sectors: &[u64]) {
    let executor = simulated(1);
    let found = CrashStorage::from_bytes(file);
    let storage: Arc<dyn Storage> = Arc::new(found.clone());
    let disk = match Disk::open_for(&executor, storage.clone(), access) {
        Ok(disk) => disk,
        Err(error) => {
            assert!(
                found.length() == file.len() as u64 && found.to_vec() == file,
                "what is refused is not changed: {error}"
            );
            // No space: a block lies where none can follow.
            let kinds = [ErrorKind::Corrupt, ErrorKind::LimitReached, ErrorKind::Unsupported, ErrorKind::NoSpace];
            assert!(kinds.contains(&error.kind()), "{error:?}");
            return;
        }
    };
    assert!(disk.image.granule().is_power_of_two() && disk.image.size().is_multiple_of(SECTOR));
    let count = disk.image.size() / SECTOR;
    executor.block_on(look_around(&disk, count));
    let mut written = Vec::new();
    for sector in sectors.iter().filter(|_| count > 0).map(|sector| sector % count) {
        let before = executor.block_on(disk.see(sector));
        if access == Access::Write && executor.block_on(disk.write(sector, 1, GUEST_WORD)).is_ok() {
            written.push(sector);
            assert_eq!(executor.block_on(disk.see(sector)).unwrap(), Seen::Tag(GUEST_WORD), "it was {before:?}");
        }
    }
    let is_fixed = file.get(60..64) == Some([0, 0, 0, 2].as_slice());
    // The whole may be very long by now.
    let head = read(&storage, 0, 1536.min(file.len()) / 512 * 512);
    let reached = head.windows(8).any(|bytes| bytes == GUEST_WORD.to_be_bytes());
    assert!(!reached || is_fixed || file.windows(8).any(|bytes| bytes == GUEST_WORD.to_be_bytes()));
    if access == Access::Read || executor.block_on(disk.close()).is_err() {
        return;
    }
    let disk = Disk::open_for(&executor, storage, Access::Read).expect("what was closed in order is opened again");
    for sector in written {
        assert_eq!(executor.block_on(disk.see(sector)).unwrap(), Seen::Tag(GUEST_WORD));
    }
}

/// Walks over the first runs; each lies where the image's own bytes may lie.
async fn look_around(disk: &Disk, count: u64) {
    let mut sector = 0;
    for _ in 0..RUNS_MAX {
        if sector >= count {
            break;
        }
        let Ok((mapping, run)) = disk.map(sector, count - sector).await else { break };
        assert!(run > 0 && run <= count - sector, "a run of {run} sectors at {sector} of {count}");
        if let Mapping::Data { .. } = mapping {
            // What the file does not have fails.
            let _ = disk.see(sector).await;
        }
        sector += run;
    }
}

/// So that damage is not only found by its checksum.
fn fix_checksums(image: &mut [u8]) {
    for (range, field) in [(0..512, 64), (512..1536, 36)] {
        let Some(bytes) = image.get_mut(range) else { continue };
        bytes[field..field + 4].fill(0);
        let sum: u32 = bytes.iter().map(|&byte| u32::from(byte)).sum();
        bytes[field..field + 4].copy_from_slice(&(!sum).to_be_bytes());
    }
}
