//! The journal of a resize that may be any bytes, undone on an image: what is refused changes nothing, and what is not leaves
//! an image of a size that there can be.

use std::sync::Arc;

use block_core::ErrorKind;
use image_format::vhd::{CreateOptions, FoundJournal, Journal, revert};
use storage_io::{CrashStorage, Storage};
use test_support::Choices;
use uuid::Uuid;

use crate::common::{MIB, create, options, simulated};

const JOURNAL_BYTES_MAX: usize = 16 << 10;
/// No block begins behind 2 TiB.
const IMAGE_BYTES_MAX: u64 = (2 << 40) + (4 << 20);
const ENTRY_BYTES: usize = 32;

/// The first byte says whether sums are put right, whose journal it is, and whether the resize had begun.
pub(crate) fn undo_anything(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    let (how, rest) = (choices.byte(), choices.rest());
    let mut journal = rest[..rest.len().min(JOURNAL_BYTES_MAX)].to_vec();
    journal.resize(journal.len().next_multiple_of(512), 0);
    if how & 1 != 0 {
        fix_sums(&mut journal);
    }
    let executor = simulated(1);
    let storage: Arc<dyn Storage> = Arc::new(CrashStorage::from_bytes(&journal));
    let Ok(FoundJournal::Whole(found)) = executor.block_on(Journal::read(&executor, &storage)) else { return };
    for entry in &found.entries {
        assert!(!entry.bytes.is_empty() && entry.bytes.len().is_multiple_of(512), "whole sectors");
        assert!(entry.range().end().get() <= i64::MAX as u64);
    }
    let uuid = if how & 2 != 0 { found.uuid } else { Uuid::from_u128(7) };
    let image = CrashStorage::from_bytes(&image(uuid, how & 4 != 0));
    let shown: Arc<dyn Storage> = Arc::new(image.clone());
    let before = image.to_vec();
    match executor.block_on(revert(&executor, &shown, &found)) {
        Err(error) if [ErrorKind::Corrupt, ErrorKind::Mismatch].contains(&error.kind()) => {
            assert!(image.length() == before.len() as u64 && image.to_vec() == before, "{error}: nothing is changed");
        }
        _ => assert!(image.length() <= IMAGE_BYTES_MAX, "{} bytes", image.length()),
    }
}

/// An image of this identity; disabled, as it is while it is resized.
fn image(uuid: Uuid, is_disabled: bool) -> Vec<u8> {
    let storage = CrashStorage::new(0);
    create(Arc::new(storage.clone()), &CreateOptions { uuid, ..options(64 * MIB) });
    let mut bytes = storage.to_vec();
    let end = bytes.len() - 512;
    for place in [0, end].into_iter().filter(|_| is_disabled) {
        let footer = &mut bytes[place..place + 512];
        footer[..8].copy_from_slice(b"v_poison");
        fix_sum(footer, 64);
    }
    bytes
}

fn fix_sum(bytes: &mut [u8], place: usize) {
    bytes[place..place + 4].fill(0);
    let sum: u32 = bytes.iter().map(|&byte| u32::from(byte)).sum();
    bytes[place..place + 4].copy_from_slice(&(!sum).to_be_bytes());
}

/// Of the entries, as far as one follows another, and of the footers and the header in them.
fn fix_sums(journal: &mut [u8]) {
    let mut at = 512;
    while let Some(entry) = journal.get_mut(at..) {
        let size = entry.get(12..16).map_or(0, |size| u32::from_be_bytes(size.try_into().unwrap()) as usize);
        let end = ENTRY_BYTES + size;
        if size == 0 || entry.len() < end {
            return;
        }
        match (entry[11], size) {
            (1 | 2, 512) => fix_sum(&mut entry[ENTRY_BYTES..end], 64),
            (3, 1024) => fix_sum(&mut entry[ENTRY_BYTES..end], 36),
            _ => {}
        }
        fix_sum(&mut entry[..end], 24);
        at += end;
    }
}
