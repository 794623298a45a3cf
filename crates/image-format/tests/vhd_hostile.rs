//! Images made to harm, and images that were harmed: refused with the cause, or read without believing them.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::sync::Arc;

use block_core::ErrorKind;
use common::{BLOCK, Disk, MIB, Random, SPB, Seen, child_options, create, options, overwrite, read, simulated};
use image_format::Format;
use image_format::vhd::{CreateOptions, DiskType, Footer, Timestamp};
use storage_io::{Access, CrashStorage, Storage, StorageKind};
use uuid::Uuid;

fn file(bytes: &[u8]) -> Arc<dyn Storage> {
    Arc::new(CrashStorage::from_bytes(bytes))
}

fn bytes_of(options: &CreateOptions) -> Vec<u8> {
    let storage = CrashStorage::new(0);
    create(Arc::new(storage.clone()), options);
    storage.to_vec()
}

fn refused(bytes: &[u8]) -> String {
    let storage = file(bytes);
    let error = Disk::open(&simulated(1), storage.clone()).err().expect("refused");
    assert!(read(&storage, 0, bytes.len()) == bytes, "what is refused is not changed");
    assert!(matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::LimitReached), "{error:?}");
    error.to_string()
}

/// Puts the right checksum into the header.
fn with_header(mut bytes: Vec<u8>, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let header = &mut bytes[512..1536];
    change(header);
    header[36..40].fill(0);
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[36..40].copy_from_slice(&(!sum).to_be_bytes());
    bytes
}

#[test]
fn what_is_no_vhd_is_refused_by_name() {
    assert_eq!(refused(&[0; 100 * 512]), "no valid footer: invalid cookie");
    assert_eq!(refused(&[]), "0 bytes are too few for a footer");
    let fixed = bytes_of(&CreateOptions { fixed: true, ..options(2 * MIB) });
    assert_eq!(refused(&fixed[..fixed.len() - 512]), "no valid footer: invalid cookie");
    let short = [&fixed[..1024], &fixed[fixed.len() - 512..]].concat();
    assert_eq!(refused(&short), "truncated: a disk of 2097152 bytes in 1536 bytes");
    let dynamic = bytes_of(&options(64 * MIB));
    assert_eq!(refused(&dynamic[..1024]), "header: truncated: it lies behind the end of the file");
    assert_eq!(refused(&dynamic[..1536]), "the table lies behind the end of the file");
}

#[test]
fn a_header_with_absurd_numbers_is_refused() {
    let image = || bytes_of(&options(64 * MIB));
    let set =
        |at: usize, value: u32| with_header(image(), |header| header[at..at + 4].copy_from_slice(&value.to_be_bytes()));
    assert_eq!(refused(&set(28, 31)), "the table has fewer entries than the disk has blocks");
    assert_eq!(refused(&set(32, 0)), "header: invalid block size");
    assert_eq!(refused(&set(32, 512)), "header: invalid block size");
    assert_eq!(refused(&set(32, 1 << 31)), "header: invalid block size");
    assert_eq!(refused(&set(16, u32::MAX)), "the table lies behind the end of the file");
    assert_eq!(refused(&with_header(image(), |header| header[16..24].fill(0xff))), "header: invalid table offset");
    assert_eq!(refused(&set(576, 0x4242_4242)), "header: invalid platform code");
    let mut torn = image();
    torn[512 + 700] ^= 1;
    assert_eq!(refused(&torn), "header: invalid checksum");
}

#[test]
fn a_disk_larger_than_any_table_is_refused_without_much_memory() {
    let footer = Footer::new(DiskType::Dynamic, 1 << 60, Uuid::from_u128(1), Timestamp::new(1));
    let mut image = with_header(bytes_of(&options(64 * MIB)), |header| header[28..32].fill(0xff));
    image[..512].copy_from_slice(footer.as_bytes());
    assert_eq!(refused(&image), "the table has fewer entries than the disk has blocks");
    let footer = Footer::new(DiskType::Dynamic, 1 << 52, Uuid::from_u128(1), Timestamp::new(1));
    image[..512].copy_from_slice(footer.as_bytes());
    assert!(refused(&image).contains("are more than"));
}

#[test]
fn blocks_on_headers_or_on_each_other_are_refused() {
    let mut image = bytes_of(&child_options(64 * MIB));
    image.resize(20 << 20, 0);
    let with_entries = |entries: [u32; 2]| {
        let mut image = image.clone();
        image[1536..1540].copy_from_slice(&entries[0].to_be_bytes());
        image[1540..1544].copy_from_slice(&entries[1].to_be_bytes());
        image
    };
    for entry in [0, 1, 3, 4, 5, 8] {
        assert_eq!(
            refused(&with_entries([u32::MAX, entry])),
            format!("block 1: a block at {:#x} clobbers headers", entry * 512)
        );
    }
    assert_eq!(refused(&with_entries([15, 15])), "a block at 0x1e00 clobbers another");
    assert_eq!(refused(&with_entries([4000, 15])), "a block at 0x1f4000 clobbers another");
    let reader = Disk::open_for(&simulated(1), file(&with_entries([15, 15])), Access::Read);
    assert!(reader.is_ok(), "who only reads may look");
}

#[test]
fn a_block_on_the_footer_of_a_device_is_refused() {
    let mut image = bytes_of(&options(64 * MIB));
    image[1536..1540].copy_from_slice(&7_u32.to_be_bytes());
    image.resize(usize::try_from(3584 + 512 + BLOCK).unwrap(), 0);
    let device = CrashStorage::from_bytes(&image).with_limits(|limits| limits.kind = StorageKind::BlockDevice);
    let error = Disk::open(&simulated(1), Arc::new(device)).err().unwrap();
    assert!(error.to_string().contains("behind the end of the device"), "{error}");
}

#[test]
fn a_table_ahead_of_its_file_reads_as_before_for_a_writer_and_fails_for_a_reader() {
    let mut image = bytes_of(&options(64 * MIB));
    image[1536..1540].copy_from_slice(&7_u32.to_be_bytes());
    let executor = simulated(1);
    let storage = file(&image);
    let reader = Disk::open_for(&executor, storage.clone(), Access::Read).unwrap();
    assert_eq!(executor.block_on(reader.see(0)).unwrap_err().kind(), ErrorKind::Io);
    let writer = Disk::open(&executor, storage).unwrap();
    assert_eq!(executor.block_on(writer.see(0)).unwrap(), Seen::Hole);
    executor.block_on(writer.write(0, 1, 1)).unwrap();
    executor.block_on(writer.close()).unwrap();
}

#[test]
fn locators_that_make_no_sense_leave_the_others() {
    let image = with_header(bytes_of(&child_options(64 * MIB)), |header| {
        header[576 + 16..576 + 24].fill(0xff);
        header[600 + 4..600 + 12].fill(0xff);
    });
    let disk = Disk::open(&simulated(1), file(&image)).unwrap();
    assert_eq!(disk.image.parent().unwrap().candidates, [std::path::PathBuf::from("/d/a.vhd")]);
}

#[test]
fn an_encrypted_disk_is_not_shown_as_plain() {
    let mut image = bytes_of(&options(64 * MIB));
    image[2048 + 29] = 1;
    let error = Disk::open(&simulated(1), file(&image)).err().unwrap();
    assert_eq!(
        (error.kind(), error.to_string().as_str()),
        (ErrorKind::Invalid, "the disk is encrypted, and there is no key")
    );
}

#[test]
fn images_of_other_tools_have_no_batmap_and_any_alignment() {
    // Blocks of 512 KiB, the first directly behind the table, a creator that is not `tap`.
    let mut image = with_header(bytes_of(&options(2 * MIB)), |header| {
        header[28..32].copy_from_slice(&4_u32.to_be_bytes());
        header[32..36].copy_from_slice(&(512_u32 << 10).to_be_bytes());
    });
    image.truncate(2048);
    image[28..32].copy_from_slice(b"win ");
    image[64..68].fill(0);
    let sum: u32 = image[..512].iter().map(|&byte| u32::from(byte)).sum();
    image[64..68].copy_from_slice(&(!sum).to_be_bytes());
    image[1536..1552].fill(0xff);
    image[1540..1544].copy_from_slice(&4_u32.to_be_bytes());
    image.extend([vec![0x80], vec![0; 511]].concat());
    image.extend(7_u64.to_be_bytes().repeat(64 << 10));
    let footer = image[..512].to_vec();
    image.extend(footer);
    let storage = file(&image);
    let executor = simulated(1);
    let disk = Disk::open(&executor, storage.clone()).unwrap();
    let spb = 1024;
    assert_eq!(executor.block_on(disk.see(spb)).unwrap(), Seen::Tag(7));
    assert_eq!(executor.block_on(disk.see(spb + 1)).unwrap(), Seen::Hole);
    for block in 0..4 {
        executor.block_on(disk.write(block * spb + 5, 1, block + 20)).unwrap();
    }
    executor.block_on(disk.close()).unwrap();
    let disk = Disk::open(&executor, storage).unwrap();
    assert_eq!(executor.block_on(disk.contents()).unwrap().len(), 5);
}

/// Bytes at random places of a small image with blocks: opened, read and written without a panic, and no write of the
/// disk's data ever reaches the headers.
#[test]
fn random_damage_is_refused_or_survived() {
    let storage = CrashStorage::new(0);
    create(Arc::new(storage.clone()), &child_options(16 * MIB));
    let executor = simulated(1);
    let disk = Disk::open(&executor, Arc::new(storage.clone())).unwrap();
    executor.block_on(disk.write(0, SPB, 1)).unwrap();
    executor.block_on(disk.write(3 * SPB + 7, 9, 2)).unwrap();
    executor.block_on(disk.close()).unwrap();
    let sound = storage.to_vec();
    let mut random = Random(test_support::seed());
    let mut opened = 0;
    for _ in 0..test_support::cycles(300, 20_000) {
        let mut image = sound[..sound.len().min(5 << 20)].to_vec();
        for _ in 0..=random.below(4) {
            // Headers, tables, the first bitmap.
            let at = usize::try_from(random.below(8192)).unwrap();
            image[at] = u8::try_from(random.below(256)).unwrap();
        }
        fix_checksums(&mut image);
        let storage = file(&image);
        let Ok(disk) = Disk::open(&executor, storage.clone()) else { continue };
        opened += 1;
        let end = disk.image.size() / 512;
        for sector in [0, 3 * SPB + 7, SPB, end.saturating_sub(1)] {
            if sector < end {
                let _ = executor.block_on(disk.see(sector));
                let _ = executor.block_on(disk.write(sector, 1, 0x6666_6666_6666_6666));
            }
        }
        let head = read(&storage, 0, 1536);
        assert!(!head.windows(8).any(|bytes| bytes == [0x66; 8]), "the guest reached the headers");
        let _ = executor.block_on(disk.close());
    }
    assert!(opened > 50, "{opened} opened");
}

/// So that damage is not only found by its checksum.
fn fix_checksums(image: &mut [u8]) {
    for (range, field) in [(0..512, 64), (512..1536, 36)] {
        let bytes = &mut image[range];
        bytes[field..field + 4].fill(0);
        let sum: u32 = bytes.iter().map(|&byte| u32::from(byte)).sum();
        bytes[field..field + 4].copy_from_slice(&(!sum).to_be_bytes());
    }
}

#[test]
fn an_odd_tail_behind_a_crashed_image_is_cut_when_it_is_closed() {
    let mut image = bytes_of(&options(64 * MIB));
    image.extend([0x77; 4096]);
    let storage = file(&image);
    let executor = simulated(1);
    let disk = Disk::open(&executor, storage.clone()).unwrap();
    executor.block_on(disk.close()).unwrap();
    assert_eq!(storage.length(), 3584);
    overwrite(&storage, 0, &[0; 512]);
    let disk = Disk::open(&executor, storage.clone()).unwrap();
    executor.block_on(disk.close()).unwrap();
    assert_eq!(read(&storage, 0, 512), read(&storage, 3072, 512), "the copy is back");
}
