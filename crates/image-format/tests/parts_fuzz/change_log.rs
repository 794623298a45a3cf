//! The header of a log of changed blocks: any bytes are one, and what it says of its bitmap makes sense.

use image_format::change_log::{BLOCK_BYTES, HEADER_BYTES, Header};
use test_support::Choices;

pub(crate) fn read_anything(bytes: &[u8]) {
    let stored: [u8; HEADER_BYTES] = Choices::new(bytes).array();
    let header = Header::decode(&stored);
    let blocks = header.disk_bytes.div_ceil(BLOCK_BYTES);
    assert_eq!(header.bitmap_bytes(), blocks.div_ceil(8));
    let used = header.last_byte_mask();
    assert_eq!(u64::from(used.count_ones()), if blocks.is_multiple_of(8) { 8 } else { blocks % 8 });
    assert_eq!(used.trailing_ones(), used.count_ones(), "bits are counted from the least significant");
    let again = header.encode();
    assert_eq!(Header::decode(&again), header);
    // What is between the fields is nobody's.
    assert_eq!((&again[..36], &again[40..]), (&stored[..36], &stored[40..]));
}
