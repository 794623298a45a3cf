//! The client's side: what our own tools and tests need to talk to a server.
//!
//! Decoders look at a buffer that the caller fills: `Ok(None)` means that more bytes are needed, otherwise they say how
//! many they used. Payload lengths are told, not obeyed: the caller bounds what he reads.

use block_core::{Error, ErrorKind, Result};

use super::constants::{
    CHUNK_HEADER_BYTES, ChunkFlags, ClientFlags, ErrorCode, GREETING_BYTES, HandshakeFlags, NBD_MAGIC,
    OLDSTYLE_GREETING_BYTES, OLDSTYLE_MAGIC, OPTION_BYTES_PARSED_MAX, OPTION_MAGIC, OPTION_REPLY_HEADER_BYTES,
    OPTION_REPLY_MAGIC, RESERVED_ZEROES, SIMPLE_REPLY_BYTES, SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC, StateFlags,
    TransmissionFlags,
};
use super::option::{AnswerKind, BlockSizes, InformationKind, OptionCode, OptionError};
use super::reply::{BlockDescriptor, ChunkKind};
use crate::scan::Scan;

/// Appends the answer to a newstyle greeting.
pub fn put_client_flags(out: &mut Vec<u8>, flags: ClientFlags) {
    out.extend_from_slice(&flags.bits().to_be_bytes());
}

/// Appends an option with any data.
pub fn put_option(out: &mut Vec<u8>, option: OptionCode, data: &[u8]) {
    out.extend_from_slice(&OPTION_MAGIC.to_be_bytes());
    out.extend_from_slice(&option.0.to_be_bytes());
    out.extend_from_slice(&length_of(data));
    out.extend_from_slice(data);
}

/// Appends EXPORT_NAME.
pub fn put_export_name(out: &mut Vec<u8>, name: &str) {
    put_option(out, OptionCode::EXPORT_NAME, name.as_bytes());
}

/// Appends INFO.
pub fn put_info(out: &mut Vec<u8>, name: &str, wanted: &[InformationKind]) {
    put_option(out, OptionCode::INFO, &export_query(name, wanted));
}

/// Appends GO.
pub fn put_go(out: &mut Vec<u8>, name: &str, wanted: &[InformationKind]) {
    put_option(out, OptionCode::GO, &export_query(name, wanted));
}

/// Appends LIST_META_CONTEXT or SET_META_CONTEXT.
pub fn put_meta_contexts(out: &mut Vec<u8>, option: OptionCode, export: &str, queries: &[&str]) {
    let mut data = Vec::new();
    put_string(&mut data, export);
    data.extend_from_slice(&u32::try_from(queries.len()).expect("our own queries are few").to_be_bytes());
    for query in queries {
        put_string(&mut data, query);
    }
    put_option(out, option, &data);
}

fn export_query(name: &str, wanted: &[InformationKind]) -> Vec<u8> {
    let mut data = Vec::new();
    put_string(&mut data, name);
    data.extend_from_slice(&u16::try_from(wanted.len()).expect("there are few kinds of information").to_be_bytes());
    data.extend(wanted.iter().flat_map(|kind| kind.0.to_be_bytes()));
    data
}

fn put_string(out: &mut Vec<u8>, string: &str) {
    out.extend_from_slice(&length_of(string.as_bytes()));
    out.extend_from_slice(string.as_bytes());
}

fn length_of(bytes: &[u8]) -> [u8; 4] {
    u32::try_from(bytes.len()).expect("our own options are short").to_be_bytes()
}

fn malformed(what: &'static str) -> Error {
    Error::new(ErrorKind::Invalid, what)
}

/// How a server begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Greeting {
    /// Options may follow.
    Newstyle(HandshakeFlags),
    /// Transmission follows at once.
    Oldstyle {
        /// Bytes of the export.
        size: u64,
        /// What it offers.
        flags: TransmissionFlags,
    },
}

impl Greeting {
    /// Reads a greeting and how long it is.
    pub fn decode(input: &[u8]) -> Result<Option<(Self, usize)>> {
        let mut scan = Scan::new(input);
        let (Some(first), Some(second)) = (scan.u64(), scan.u64()) else {
            return Ok(None);
        };
        match (first, second) {
            (NBD_MAGIC, OPTION_MAGIC) => {
                let flags = scan.u16().map(HandshakeFlags::from_bits);
                Ok(flags.map(|flags| (Greeting::Newstyle(flags), GREETING_BYTES)))
            }
            (NBD_MAGIC, OLDSTYLE_MAGIC) => {
                // The upper half of the flags were handshake flags once; no server sets them.
                let mut fields = || {
                    let size = scan.u64()?;
                    scan.u16()?;
                    let flags = TransmissionFlags::from_bits(scan.u16()?);
                    scan.bytes(RESERVED_ZEROES)?;
                    Some(Greeting::Oldstyle { size, flags })
                };
                Ok(fields().map(|greeting| (greeting, OLDSTYLE_GREETING_BYTES)))
            }
            _ => Err(malformed("nbd greeting: not an NBD server")),
        }
    }
}

/// The answer to EXPORT_NAME.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExportAnswer {
    /// Bytes of the export.
    pub size: u64,
    /// What it offers.
    pub flags: TransmissionFlags,
}

impl ExportAnswer {
    /// Reads the answer and how long it is; `zeroes` unless they were waived.
    pub fn decode(input: &[u8], zeroes: bool) -> Option<(Self, usize)> {
        let padding = if zeroes { RESERVED_ZEROES } else { 0 };
        let mut scan = Scan::new(input);
        let answer = ExportAnswer { size: scan.u64()?, flags: TransmissionFlags::from_bits(scan.u16()?) };
        scan.bytes(padding).map(|_| (answer, 10 + padding))
    }
}

/// What INFO and GO tell of an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Information {
    /// Size and flags.
    Export(ExportAnswer),
    /// The name that the server prefers.
    Name(Vec<u8>),
    /// Words for people.
    Description(Vec<u8>),
    /// Alignment and length limits.
    BlockSizes(BlockSizes),
    /// A kind that is not known here.
    Unknown(InformationKind),
}

impl Information {
    fn parse(data: &[u8]) -> Option<Self> {
        let mut scan = Scan::new(data);
        let information = match InformationKind(scan.u16()?) {
            InformationKind::EXPORT => {
                let answer = ExportAnswer { size: scan.u64()?, flags: TransmissionFlags::from_bits(scan.u16()?) };
                Information::Export(answer)
            }
            InformationKind::BLOCK_SIZE => {
                let sizes = BlockSizes { minimum: scan.u32()?, preferred: scan.u32()?, maximum: scan.u32()? };
                Information::BlockSizes(sizes)
            }
            InformationKind::NAME => return Some(Information::Name(scan.rest().to_vec())),
            InformationKind::DESCRIPTION => return Some(Information::Description(scan.rest().to_vec())),
            unknown => return Some(Information::Unknown(unknown)),
        };
        scan.end().map(|()| information)
    }
}

/// One answer to an option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OptionReply {
    /// It succeeded; nothing more follows.
    Ack,
    /// One export of a listing, and words about it.
    Server {
        /// Its name.
        name: Vec<u8>,
        /// Words for people, often none.
        description: Vec<u8>,
    },
    /// One thing about an export.
    Information(Information),
    /// One metadata context.
    MetaContext {
        /// Its number in BLOCK_STATUS answers.
        number: u32,
        /// Its name.
        name: Vec<u8>,
    },
    /// It failed; nothing more follows.
    Failed {
        /// Why.
        error: OptionError,
        /// Why, for people.
        words: Vec<u8>,
    },
}

impl OptionReply {
    /// Reads one answer to `option` and how long it is.
    pub fn decode(input: &[u8], option: OptionCode) -> Result<Option<(Self, usize)>> {
        let mut scan = Scan::new(input);
        let mut header = || Some((scan.u64()?, scan.u32()?, scan.u32()?, scan.u32()?));
        let Some((magic, code, kind, length)) = header() else {
            return Ok(None);
        };
        if magic != OPTION_REPLY_MAGIC || code != option.0 {
            return Err(malformed("nbd option answer: wrong magic or option"));
        }
        let length = length as usize;
        if length > OPTION_BYTES_PARSED_MAX {
            return Err(Error::new(ErrorKind::LimitReached, "nbd option answer: too long"));
        }
        let Some(data) = scan.bytes(length) else {
            return Ok(None);
        };
        let reply = Self::parse(AnswerKind(kind), data).ok_or_else(|| malformed("nbd option answer: malformed"))?;
        Ok(Some((reply, OPTION_REPLY_HEADER_BYTES + length)))
    }

    fn parse(kind: AnswerKind, data: &[u8]) -> Option<Self> {
        if let Some(error) = OptionError::from_kind(kind) {
            return Some(OptionReply::Failed { error, words: data.to_vec() });
        }
        let mut scan = Scan::new(data);
        match kind {
            AnswerKind::ACK => scan.end().map(|()| OptionReply::Ack),
            AnswerKind::SERVER => {
                let name = scan.counted_bytes()?.to_vec();
                Some(OptionReply::Server { name, description: scan.rest().to_vec() })
            }
            AnswerKind::INFO => Information::parse(data).map(OptionReply::Information),
            AnswerKind::META_CONTEXT => {
                Some(OptionReply::MetaContext { number: scan.u32()?, name: scan.rest().to_vec() })
            }
            _ => None,
        }
    }
}

/// The fixed part of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyHeader {
    /// A simple reply; the data of a read follows if there is no error.
    Simple {
        /// Which request.
        cookie: u64,
        /// Whether it failed.
        error: Option<ErrorCode>,
    },
    /// A chunk of a structured reply; `length` bytes of payload follow.
    Chunk {
        /// Which request.
        cookie: u64,
        /// Whether it is the last chunk for that request.
        done: bool,
        /// What the payload is.
        kind: ChunkKind,
        /// Bytes of payload.
        length: u32,
    },
}

impl ReplyHeader {
    /// Reads a reply's fixed part and how long it is.
    pub fn decode(input: &[u8]) -> Result<Option<(Self, usize)>> {
        let mut scan = Scan::new(input);
        let Some(magic) = scan.u32() else { return Ok(None) };
        match magic {
            SIMPLE_REPLY_MAGIC => {
                let mut fields = || Some((scan.u32()?, scan.u64()?));
                Ok(fields().map(|(error, cookie)| {
                    let error = (error != 0).then(|| ErrorCode::from_number(error));
                    (ReplyHeader::Simple { cookie, error }, SIMPLE_REPLY_BYTES)
                }))
            }
            STRUCTURED_REPLY_MAGIC => {
                let mut fields = || Some((ChunkFlags::from_bits(scan.u16()?), scan.u16()?, scan.u64()?, scan.u32()?));
                Ok(fields().map(|(flags, kind, cookie, length)| {
                    let done = flags.contains(ChunkFlags::DONE);
                    (ReplyHeader::Chunk { cookie, done, kind: ChunkKind(kind), length }, CHUNK_HEADER_BYTES)
                }))
            }
            _ => Err(Error::new(ErrorKind::Invalid, format!("nbd reply: magic {magic:#010x}"))),
        }
    }
}

/// The payload of a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChunkPayload<'a> {
    /// Nothing.
    None,
    /// Bytes of the export.
    Data {
        /// Where they begin.
        offset: u64,
        /// The bytes.
        bytes: &'a [u8],
    },
    /// A run of zeroes.
    Hole {
        /// Where it begins.
        offset: u64,
        /// How many.
        length: u32,
    },
    /// Extents.
    BlockStatus {
        /// The number of the metadata context.
        context: u32,
        /// The extents, in order.
        extents: Vec<BlockDescriptor>,
    },
    /// The request failed.
    Failed {
        /// Why.
        error: ErrorCode,
        /// Why, for people.
        words: &'a [u8],
        /// Where, if the server knows.
        offset: Option<u64>,
    },
}

impl<'a> ChunkPayload<'a> {
    /// Reads a whole payload.
    pub fn decode(kind: ChunkKind, payload: &'a [u8]) -> Result<Self> {
        Self::parse(kind, Scan::new(payload))
            .ok_or_else(|| Error::new(ErrorKind::Invalid, format!("nbd chunk {:#06x}: malformed or unknown", kind.0)))
    }

    fn parse(kind: ChunkKind, mut scan: Scan<'a>) -> Option<Self> {
        match kind {
            ChunkKind::NONE => scan.end().map(|()| ChunkPayload::None),
            ChunkKind::OFFSET_DATA => {
                let offset = scan.u64()?;
                let bytes = scan.rest();
                (!bytes.is_empty()).then_some(ChunkPayload::Data { offset, bytes })
            }
            ChunkKind::OFFSET_HOLE => {
                let (offset, length) = (scan.u64()?, scan.u32()?);
                scan.end().filter(|()| length != 0).map(|()| ChunkPayload::Hole { offset, length })
            }
            ChunkKind::BLOCK_STATUS => {
                let context = scan.u32()?;
                let (descriptors, odd) = scan.rest().as_chunks::<8>();
                let extents = descriptors.iter().map(descriptor).collect::<Option<Vec<_>>>()?;
                (odd.is_empty() && !extents.is_empty()).then_some(ChunkPayload::BlockStatus { context, extents })
            }
            error if error.is_error() => {
                let number = scan.u32().filter(|number| *number != 0)?;
                let length = scan.u16()?;
                let words = scan.bytes(usize::from(length))?;
                let offset = if kind == ChunkKind::ERROR_OFFSET { Some(scan.u64()?) } else { None };
                Some(ChunkPayload::Failed { error: ErrorCode::from_number(number), words, offset })
            }
            _ => None,
        }
    }
}

fn descriptor(bytes: &[u8; 8]) -> Option<BlockDescriptor> {
    let mut scan = Scan::new(bytes);
    let length = scan.u32().filter(|length| *length != 0)?;
    Some(BlockDescriptor { length, state: StateFlags::from_bits(scan.u32()?) })
}
