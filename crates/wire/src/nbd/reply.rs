//! Replies of the transmission phase, as a server sends them. Each function appends to `out`; the data of a read follows
//! [`put_simple_reply`] or [`put_data_chunk_header`] and is moved by the caller.
//!
//! ```text
//!   simple       | magic 4 | error 4 | cookie 8 |                        (data)
//!   chunk        | magic 4 | flags 2 | type 2 | cookie 8 | length 4 |    payload
//! ```

use super::constants::{
    CHUNK_HEADER_BYTES, ChunkFlags, DATA_CHUNK_HEADER_BYTES, ErrorCode, SIMPLE_REPLY_MAGIC, STRING_BYTES_MAX,
    STRUCTURED_REPLY_MAGIC, StateFlags,
};

/// What a chunk carries. Bit 15 marks errors, also those that are not known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChunkKind(pub u16);

impl ChunkKind {
    /// Nothing; only the last chunk.
    pub const NONE: Self = Self(0);
    /// Bytes of the export.
    pub const OFFSET_DATA: Self = Self(1);
    /// A run of zeroes.
    pub const OFFSET_HOLE: Self = Self(2);
    /// Extents of one metadata context.
    pub const BLOCK_STATUS: Self = Self(5);
    /// The request failed.
    pub const ERROR: Self = Self(0x8001);
    /// The request failed at a place.
    pub const ERROR_OFFSET: Self = Self(0x8002);

    /// Whether it says that the request failed.
    pub const fn is_error(self) -> bool {
        self.0 & 0x8000 != 0
    }
}

/// One extent of a BLOCK_STATUS answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockDescriptor {
    /// Bytes, not zero.
    pub length: u32,
    /// What they are.
    pub state: StateFlags,
}

/// Appends a simple reply; the data of a read follows it only if `error` is `None`.
pub fn put_simple_reply(out: &mut Vec<u8>, cookie: u64, error: Option<ErrorCode>) {
    out.extend_from_slice(&SIMPLE_REPLY_MAGIC.to_be_bytes());
    out.extend_from_slice(&error.map_or(0, ErrorCode::number).to_be_bytes());
    out.extend_from_slice(&cookie.to_be_bytes());
}

/// Appends the last chunk of an answer that has nothing more to tell.
pub fn put_none_chunk(out: &mut Vec<u8>, cookie: u64) {
    put_chunk_header(out, cookie, true, ChunkKind::NONE, 0);
}

/// Appends everything of a data chunk but its data: `length` bytes of the export from `offset` must follow. `length` is
/// not zero and at most `u32::MAX - 8`.
pub fn put_data_chunk_header(out: &mut Vec<u8>, cookie: u64, done: bool, offset: u64, length: u32) {
    let payload = length.checked_add(8).expect("a data chunk is shorter than 4 GiB: longer reads are split");
    out.reserve(DATA_CHUNK_HEADER_BYTES);
    put_chunk_header(out, cookie, done, ChunkKind::OFFSET_DATA, payload);
    out.extend_from_slice(&offset.to_be_bytes());
}

/// Appends a chunk that says: `length` (not zero) zeroes from `offset`.
pub fn put_hole_chunk(out: &mut Vec<u8>, cookie: u64, done: bool, offset: u64, length: u32) {
    put_chunk_header(out, cookie, done, ChunkKind::OFFSET_HOLE, 12);
    out.extend_from_slice(&offset.to_be_bytes());
    out.extend_from_slice(&length.to_be_bytes());
}

/// Appends the extents of one metadata context. There is at least one extent, and far fewer than 2^29.
pub fn put_block_status(out: &mut Vec<u8>, cookie: u64, done: bool, context: u32, extents: &[BlockDescriptor]) {
    assert!(!extents.is_empty(), "a block status holds an extent");
    let payload = u32::try_from(4 + 8 * extents.len()).expect("a block status is shorter than 4 GiB");
    put_chunk_header(out, cookie, done, ChunkKind::BLOCK_STATUS, payload);
    out.extend_from_slice(&context.to_be_bytes());
    for extent in extents {
        out.extend_from_slice(&extent.length.to_be_bytes());
        out.extend_from_slice(&extent.state.bits().to_be_bytes());
    }
}

/// Appends a failure, with words for people (cut at the protocol's limit) and the place where it happened, if known.
pub fn put_error_chunk(out: &mut Vec<u8>, cookie: u64, done: bool, error: ErrorCode, words: &str, offset: Option<u64>) {
    let words = cut(words);
    let length = u16::try_from(words.len()).expect("words are cut at 4096 bytes");
    let kind = if offset.is_some() { ChunkKind::ERROR_OFFSET } else { ChunkKind::ERROR };
    put_chunk_header(out, cookie, done, kind, 6 + u32::from(length) + if offset.is_some() { 8 } else { 0 });
    out.extend_from_slice(&error.number().to_be_bytes());
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(words.as_bytes());
    if let Some(offset) = offset {
        out.extend_from_slice(&offset.to_be_bytes());
    }
}

/// The longest beginning of `words` that the protocol carries, not cut inside a character.
pub(super) fn cut(words: &str) -> &str {
    let end = (0..=words.len().min(STRING_BYTES_MAX)).rev().find(|&end| words.is_char_boundary(end));
    &words[..end.expect("0 is a boundary")]
}

fn put_chunk_header(out: &mut Vec<u8>, cookie: u64, done: bool, kind: ChunkKind, payload: u32) {
    out.reserve(CHUNK_HEADER_BYTES);
    out.extend_from_slice(&STRUCTURED_REPLY_MAGIC.to_be_bytes());
    out.extend_from_slice(&ChunkFlags::EMPTY.with_if(ChunkFlags::DONE, done).bits().to_be_bytes());
    out.extend_from_slice(&kind.0.to_be_bytes());
    out.extend_from_slice(&cookie.to_be_bytes());
    out.extend_from_slice(&payload.to_be_bytes());
}
