//! Footers, headers, locators, batmaps with the hash of a key: one parser at a time, so that none hides behind the checks
//! of another.

use block_core::{FileOffset, SECTOR};
use image_format::vhd::{
    BATMAP_HEADER_BYTES, DiskType, FOOTER_BYTES, HEADER_BYTES, Header, KeyHash, LocatorCode, UncheckedBatmapHeader,
    UncheckedFooter, UncheckedHeader, disk_bytes_rounded,
};
use test_support::Choices;

/// No path is longer, as it is stored.
const PATH_BYTES_MAX: u64 = 1 << 16;

/// The first byte says what the others stand for.
pub(crate) fn read_anything(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    let what = choices.byte();
    let fixes_sum = what & 0x80 != 0;
    match what % 5 {
        0 => footer(&mut choices, fixes_sum),
        1 => header(&mut choices, fixes_sum),
        2 => path(&mut choices),
        3 => batmap(&mut choices),
        _ => whole(&mut choices),
    }
}

/// So that damage is not only found by its checksum.
fn with_sum(mut bytes: Vec<u8>, place: usize) -> Vec<u8> {
    if let Some(sum) = bytes.get_mut(place..place + 4) {
        sum.fill(0);
        let total: u32 = bytes.iter().map(|&byte| u32::from(byte)).sum();
        bytes[place..place + 4].copy_from_slice(&(!total).to_be_bytes());
    }
    bytes
}

fn footer(choices: &mut Choices<'_>, fixes_sum: bool) {
    let mut bytes = choices.rest().to_vec();
    bytes.truncate(FOOTER_BYTES);
    if fixes_sum {
        bytes = with_sum(bytes, 64);
    }
    let Ok(unchecked) = UncheckedFooter::parse(&bytes) else {
        // Some programs leave the last byte out.
        assert!(bytes.len() < FOOTER_BYTES);
        return;
    };
    let _ = unchecked.first_problem(None);
    let _ = unchecked.is_disabled();
    if let Ok(disabled) = unchecked.clone().check_all_but_disabled() {
        // What is not a whole sector is no part of the disk.
        assert_eq!(disabled.disk_bytes(), unchecked.bytes().current_size.get() / SECTOR * SECTOR);
    }
    let Ok(footer) = unchecked.check() else { return };

    assert!(footer.disk_bytes().is_multiple_of(SECTOR), "a disk is whole sectors");
    assert_eq!(footer.header_offset().is_none(), footer.disk_type() == DiskType::Fixed);
    let _ = (footer.geometry(), footer.batmap_rule(), footer.timestamp(), footer.is_tap());
    let hidden = footer.with_hidden(7);
    let again = UncheckedFooter::parse(hidden.as_bytes()).unwrap().check().expect("what we write is read");
    assert_eq!((again.hidden(), again.uuid()), (7, hidden.uuid()));
}

fn header(choices: &mut Choices<'_>, fixes_sum: bool) {
    let mut bytes = choices.rest().to_vec();
    bytes.truncate(HEADER_BYTES);
    if fixes_sum {
        bytes = with_sum(bytes, 36);
    }
    let Ok(unchecked) = UncheckedHeader::parse(&bytes) else { return };
    let _ = unchecked.first_problem(u64::MAX);
    if let Ok(header) = unchecked.check() {
        look_at(&header);
    }
}

fn look_at(header: &Header) {
    let table = header.table_range();
    assert!(table.length() >= u64::from(header.table_entries()) * 4, "the table holds its entries");
    assert!(table.end().get() <= i64::MAX as u64, "a file cannot be that long");
    let _ = (header.block_shape(), header.parent_uuid(), header.parent_timestamp(), header.parent_name());
    for locator in header.locators().flatten() {
        let (room, encoded) = (locator.room(), locator.encoded());
        assert!(encoded.start() == room.start() && encoded.length() <= room.length());
        assert!(encoded.length() <= PATH_BYTES_MAX && room.end().get() <= i64::MAX as u64);
    }
}

fn path(choices: &mut Choices<'_>) {
    let code = u32::from_be_bytes(choices.array());
    let codes = [LocatorCode::MacX, LocatorCode::W2ku, LocatorCode::W2ru, LocatorCode::Obsolete];
    let code = match LocatorCode::from_bits(code) {
        Ok(Some(code)) => code,
        _ => codes[choices.index(codes.len())],
    };
    let bytes = choices.rest();
    let Ok(path) = code.decode(bytes) else { return };
    assert!(!path.is_empty() && !path.contains('\0'), "{path:?}");
    assert!(path.len() <= bytes.len() * 3, "what is decoded is about as long as what was stored");
    let encoded = code.encode(&path).expect("what was short enough to be read is short enough to be written");
    let again = code.decode(&encoded).expect("what we write is read");
    let bare = |path: &str| path.trim_start_matches("./").replace('\\', "/");
    assert_eq!(bare(&again), bare(&path));
}

fn batmap(choices: &mut Choices<'_>) {
    let (table_end, blocks) = (u64::from(u32::from_le_bytes(choices.array())) * SECTOR, choices.number() % (1 << 21));
    let disk_bytes = blocks << 21;
    let bytes = choices.rest();
    let Ok(unchecked) = UncheckedBatmapHeader::parse(bytes) else {
        assert!(bytes.len() < BATMAP_HEADER_BYTES);
        return;
    };
    let Ok(header) = unchecked.check(FileOffset::new(table_end), blocks, disk_bytes) else { return };
    let (place, map) = (header.header_range(), header.map_range());
    assert!(map.start() >= place.end() && map.length() >= blocks.div_ceil(8), "the map is behind, and long enough");
    let behind = &bytes[BATMAP_HEADER_BYTES..];
    let _ = header.check_map(behind, disk_bytes);
    let _ = (header.marker(), header.key_hash());
    let key = KeyHash { nonce: [3; 32], hash: [4; 32] };
    let marked = header.with_marker(9).with_key_hash(key);
    assert_eq!((marked.marker(), marked.key_hash()), (9, Some(key)));
    // A map is as long as the header says, which may be more than there is memory for.
    let map = vec![0xff; usize::try_from(map.length().min(1 << 16)).unwrap()];
    if map.len() as u64 == marked.map_range().length() {
        let made = marked.with_map(&map, disk_bytes);
        let again = UncheckedBatmapHeader::parse(made.as_bytes()).unwrap();
        let again = again.check(FileOffset::new(table_end), blocks, disk_bytes).expect("what we write is read");
        again.check_map(&map, disk_bytes).expect("what we write is believed");
    }
}

/// Sizes that are asked for.
fn whole(choices: &mut Choices<'_>) {
    let bytes = choices.number();
    if let Ok(rounded) = disk_bytes_rounded(bytes) {
        assert!(rounded >= bytes && rounded - bytes < 2 << 20 && rounded.is_multiple_of(2 << 20));
    }
}
