//! A request: a private copy of a slot, and what it means once it has been checked.
//!
//! ```text
//!              0   1          2        id  sector  body
//!   read/write | op | segments | handle | 8 | 8     | 11 x segment
//!   discard    | op | flags    | handle | 8 | 8     | sectors (8)
//!   indirect   | op | inner op | count  | 8 | 8     | handle (2), pad (2) | 8 x grant of a page of segments
//! ```
//!
//! `id` is at 4 in the 32-bit layout and at 8 in the 64-bit one; the rest follows without a gap.

use super::{Abi, SEGMENT_BYTES, SEGMENTS_PER_PAGE, SLOT_BYTES_MAX, Segment, Status, decode_segments};

/// Segments of a plain read or write.
pub const SEGMENTS_MAX: usize = 11;
/// Pages of segments that an indirect request can name.
pub const INDIRECT_PAGES_MAX: usize = 8;
/// Segments of an indirect request that are offered to guests: 1 MiB of data.
pub const INDIRECT_SEGMENTS_MAX: u16 = 256;

const _: () = assert!(INDIRECT_SEGMENTS_MAX as usize <= INDIRECT_PAGES_MAX * SEGMENTS_PER_PAGE);

/// The operation of a request, as a number in the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OperationCode {
    /// Sectors to the guest.
    Read,
    /// Sectors to the disk.
    Write,
    /// A write that no other may pass, either way.
    WriteBarrier,
    /// What was answered survives a loss of power.
    FlushDiskCache,
    /// Content no longer matters.
    Discard,
    /// A read or a write with its segments in pages of their own.
    Indirect,
    /// Anything else.
    Unknown(u8),
}

impl OperationCode {
    /// What a number in the ring means.
    pub const fn from_number(number: u8) -> OperationCode {
        match number {
            0 => OperationCode::Read,
            1 => OperationCode::Write,
            2 => OperationCode::WriteBarrier,
            3 => OperationCode::FlushDiskCache,
            5 => OperationCode::Discard,
            6 => OperationCode::Indirect,
            unknown => OperationCode::Unknown(unknown),
        }
    }

    /// The number in the ring.
    pub const fn number(self) -> u8 {
        match self {
            OperationCode::Read => 0,
            OperationCode::Write => 1,
            OperationCode::WriteBarrier => 2,
            OperationCode::FlushDiskCache => 3,
            OperationCode::Discard => 5,
            OperationCode::Indirect => 6,
            OperationCode::Unknown(number) => number,
        }
    }
}

crate::flags::flags! {
    /// What a discard asks for besides.
    DiscardFlags: u8 {
        /// The content must be gone for good.
        SECURE = 1,
    }
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transfer {
    /// To the guest.
    Read,
    /// To the disk.
    Write,
}

impl Transfer {
    /// As the response to a request names it.
    pub const fn operation(self) -> OperationCode {
        match self {
            Transfer::Read => OperationCode::Read,
            Transfer::Write => OperationCode::Write,
        }
    }
}

/// The pages that hold the segments of an indirect request: one to eight grant references.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndirectPages {
    grants: [u32; INDIRECT_PAGES_MAX],
    segments: u16,
}

impl IndirectPages {
    /// As many pages as `segments` need; the rest of `grants` means nothing.
    ///
    /// # Panics
    /// Without a segment, or with more than the pages hold.
    pub fn new(grants: [u32; INDIRECT_PAGES_MAX], segments: u16) -> IndirectPages {
        assert!((1..=INDIRECT_PAGES_MAX * SEGMENTS_PER_PAGE).contains(&usize::from(segments)), "checked before");
        IndirectPages { grants, segments }
    }

    /// How many segments there are, in all pages.
    pub fn segments(&self) -> u16 {
        self.segments
    }

    /// The pages: grant references, and how many bytes of each hold segments.
    pub fn pages(&self) -> impl Iterator<Item = (u32, usize)> + '_ {
        let counts = (0..).step_by(SEGMENTS_PER_PAGE).map(|before| usize::from(self.segments).saturating_sub(before));
        let lengths = counts.take_while(|left| *left > 0).map(|left| left.min(SEGMENTS_PER_PAGE) * SEGMENT_BYTES);
        self.grants.iter().copied().zip(lengths)
    }
}

/// What a backend offers on a disk; what it does not offer is answered as unsupported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Flushes.
    pub flush: bool,
    /// Barriers.
    pub barrier: bool,
    /// Discards.
    pub discard: bool,
    /// Segments of an indirect request; 0: none are offered.
    pub indirect_segments: u16,
}

/// What is asked, in terms that have been checked: counts are within what the protocol and the offer allow, segments lie
/// within their pages. Nothing has been compared with the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestBody {
    /// Move one to eleven segments.
    Transfer {
        /// Which way.
        transfer: Transfer,
        /// The first sector on the disk, in units of 512 bytes.
        sector: u64,
        /// Where the bytes are.
        segments: Vec<Segment>,
    },
    /// Move the segments that the pages name.
    Indirect {
        /// Which way.
        transfer: Transfer,
        /// The first sector on the disk, in units of 512 bytes.
        sector: u64,
        /// Where the segments are.
        pages: IndirectPages,
    },
    /// What was answered survives a loss of power; data that old guests send with it is written behind that.
    Flush {
        /// The first sector of the data.
        sector: u64,
        /// The data; usually none.
        segments: Vec<Segment>,
    },
    /// As a flush, but nothing that comes later may be begun before it has ended.
    Barrier {
        /// The first sector of the data.
        sector: u64,
        /// The data, or none.
        segments: Vec<Segment>,
    },
    /// Content no longer matters.
    Discard {
        /// The first sector.
        sector: u64,
        /// How many sectors.
        sectors: u64,
        /// Whether the content must be gone for good.
        flags: DiscardFlags,
    },
}

/// A request of a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Its name, which goes back with the answer and means nothing here.
    pub id: u64,
    /// What its answer says that it was.
    pub operation: OperationCode,
    /// What it asks.
    pub body: RequestBody,
}

/// A request that is answered without being begun, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Its name.
    pub id: u64,
    /// What the answer says that it was.
    pub operation: OperationCode,
    /// How it is answered.
    pub status: Status,
    /// What is wrong, in words for the log.
    pub words: &'static str,
}

/// A private copy of a slot, which nobody has looked at.
#[derive(Clone, Copy)]
pub struct RawRequest {
    bytes: [u8; SLOT_BYTES_MAX],
    abi: Abi,
}

impl RawRequest {
    /// A copy of a slot of this layout; the 32-bit layout ends a few bytes before the copy does.
    pub const fn new(abi: Abi, bytes: [u8; SLOT_BYTES_MAX]) -> RawRequest {
        RawRequest { bytes, abi }
    }

    /// The copied bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.abi.slot_bytes()]
    }

    fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.bytes[at], self.bytes[at + 1]])
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(*self.bytes[at..].first_chunk().expect("fields lie within a slot"))
    }

    /// The name that the guest gave it.
    pub fn id(&self) -> u64 {
        self.u64(self.abi.id_offset())
    }

    /// What it is.
    pub fn operation(&self) -> OperationCode {
        OperationCode::from_number(self.bytes[0])
    }

    /// How many segments it says that it has; whether that makes sense, [`check`](Self::check) finds out.
    pub fn segments_claimed(&self) -> usize {
        match self.operation() {
            OperationCode::Indirect => usize::from(self.u16(2)),
            OperationCode::Discard | OperationCode::Unknown(_) => 0,
            _ => usize::from(self.bytes[1]),
        }
    }

    /// What it asks, if it asks something that makes sense and is offered.
    ///
    /// # Errors
    /// How it is to be answered otherwise. One request that makes no sense says nothing about the others of its ring.
    pub fn check(&self, limits: &Limits) -> Result<Request, Refusal> {
        self.check_into(limits, Vec::new())
    }

    /// As [`check`](Self::check), with the memory of a vector for the segments, if there are any.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub fn check_into(&self, limits: &Limits, memory: Vec<Segment>) -> Result<Request, Refusal> {
        let operation = self.operation();
        let offered = |offered: bool| if offered { Ok(()) } else { Err((Status::Unsupported, "it is not offered")) };
        let body = match operation {
            OperationCode::Read => self.transfer(Transfer::Read, memory),
            OperationCode::Write => self.transfer(Transfer::Write, memory),
            OperationCode::FlushDiskCache => offered(limits.flush).and_then(|()| {
                let (sector, segments) = (self.sector(), self.segments(memory)?);
                Ok(RequestBody::Flush { sector, segments })
            }),
            OperationCode::WriteBarrier => offered(limits.barrier).and_then(|()| {
                let (sector, segments) = (self.sector(), self.segments(memory)?);
                Ok(RequestBody::Barrier { sector, segments })
            }),
            OperationCode::Discard => offered(limits.discard).map(|()| RequestBody::Discard {
                sector: self.sector(),
                sectors: self.u64(self.abi.body_offset()),
                flags: DiscardFlags::from_bits(self.bytes[1]),
            }),
            OperationCode::Indirect => {
                offered(limits.indirect_segments > 0).and_then(|()| self.indirect(limits.indirect_segments))
            }
            OperationCode::Unknown(_) => Err((Status::Unsupported, "no such operation")),
        };
        let operation = self.answered_operation();
        let id = self.id();
        body.map(|body| Request { id, operation, body }).map_err(|(status, words)| Refusal {
            id,
            operation,
            status,
            words,
        })
    }

    /// What the answer says that the request was: of an indirect request what it carries.
    fn answered_operation(&self) -> OperationCode {
        match self.operation() {
            OperationCode::Indirect => OperationCode::from_number(self.bytes[1]),
            operation => operation,
        }
    }

    fn sector(&self) -> u64 {
        self.u64(self.abi.sector_offset())
    }

    fn transfer(&self, transfer: Transfer, memory: Vec<Segment>) -> Result<RequestBody, (Status, &'static str)> {
        let (sector, segments) = (self.sector(), self.segments(memory)?);
        if segments.is_empty() {
            return Err((Status::Error, "it has no segment"));
        }
        Ok(RequestBody::Transfer { transfer, sector, segments })
    }

    /// The segments in the slot itself: none to eleven.
    fn segments(&self, memory: Vec<Segment>) -> Result<Vec<Segment>, (Status, &'static str)> {
        let count = usize::from(self.bytes[1]);
        if count > SEGMENTS_MAX {
            return Err((Status::Error, "it has more segments than a slot holds"));
        }
        let mut segments = memory;
        segments.clear();
        let decoded = decode_segments(&self.bytes[self.abi.body_offset()..], count, &mut segments);
        decoded.map_err(|_| (Status::Error, "a segment does not lie within its page"))?;
        Ok(segments)
    }

    fn indirect(&self, segments_max: u16) -> Result<RequestBody, (Status, &'static str)> {
        let transfer = match OperationCode::from_number(self.bytes[1]) {
            OperationCode::Read => Transfer::Read,
            OperationCode::Write => Transfer::Write,
            _ => return Err((Status::Error, "it carries neither a read nor a write")),
        };
        let count = self.u16(2);
        if !(1..=segments_max).contains(&count) {
            return Err((Status::Error, "it has no segment, or more than are offered"));
        }
        let (grants, _) = self.bytes[self.abi.indirect_offset()..].as_chunks::<4>();
        let mut pages = [0; INDIRECT_PAGES_MAX];
        pages.iter_mut().zip(grants).for_each(|(page, grant)| *page = u32::from_le_bytes(*grant));
        Ok(RequestBody::Indirect { transfer, sector: self.sector(), pages: IndirectPages::new(pages, count) })
    }
}

impl std::fmt::Debug for RawRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RawRequest({:?} {:#x})", self.operation(), self.id())
    }
}

impl Request {
    /// The slot of this request: what a frontend writes. `handle` names the device; backends do not look at it.
    ///
    /// # Panics
    /// With more segments than a slot holds.
    pub fn encode(&self, abi: Abi, handle: u16) -> [u8; SLOT_BYTES_MAX] {
        let mut slot = [0; SLOT_BYTES_MAX];
        let mut put = |at: usize, bytes: &[u8]| slot[at..at + bytes.len()].copy_from_slice(bytes);
        put(2, &handle.to_le_bytes());
        put(abi.id_offset(), &self.id.to_le_bytes());
        let (code, second, sector) = match &self.body {
            RequestBody::Transfer { transfer, sector, segments } => {
                (transfer.operation(), put_segments(&mut put, abi, segments), *sector)
            }
            RequestBody::Flush { sector, segments } => {
                (OperationCode::FlushDiskCache, put_segments(&mut put, abi, segments), *sector)
            }
            RequestBody::Barrier { sector, segments } => {
                (OperationCode::WriteBarrier, put_segments(&mut put, abi, segments), *sector)
            }
            RequestBody::Discard { sector, sectors, flags } => {
                put(abi.body_offset(), &sectors.to_le_bytes());
                (OperationCode::Discard, flags.bits(), *sector)
            }
            RequestBody::Indirect { transfer, sector, pages } => {
                put(2, &pages.segments.to_le_bytes());
                put(abi.body_offset(), &handle.to_le_bytes());
                for (index, grant) in pages.grants.iter().enumerate() {
                    put(abi.indirect_offset() + 4 * index, &grant.to_le_bytes());
                }
                (OperationCode::Indirect, transfer.operation().number(), *sector)
            }
        };
        put(0, &[code.number(), second]);
        put(abi.sector_offset(), &sector.to_le_bytes());
        slot
    }
}

/// Puts segments into a slot; gives their number.
fn put_segments(put: &mut impl FnMut(usize, &[u8]), abi: Abi, segments: &[Segment]) -> u8 {
    assert!(segments.len() <= SEGMENTS_MAX, "a slot holds {SEGMENTS_MAX} segments");
    for (index, segment) in segments.iter().enumerate() {
        put(abi.body_offset() + SEGMENT_BYTES * index, &segment.encode());
    }
    u8::try_from(segments.len()).expect("few")
}
