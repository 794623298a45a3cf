//! Requests that make no sense, slot by slot.

use wire::blkif::{Abi, INDIRECT_SEGMENTS_MAX, SEGMENT_BYTES, SLOT_BYTES_MAX, Segment};

use super::{HostileMode, Random};

const READ: u8 = 0;
const WRITE: u8 = 1;
const DISCARD: u8 = 5;
const INDIRECT: u8 = 6;

/// What the backend may answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    /// Anything: it may have been done.
    Anything,
    /// That it was not done.
    Refused,
}

/// One request.
pub(super) struct HostileRequest {
    pub(super) slot: [u8; SLOT_BYTES_MAX],
    pub(super) expected: Expected,
}

/// What requests are made of.
pub(super) struct Material {
    pub(super) abi: Abi,
    /// Sectors of the disk.
    pub(super) sectors: u64,
    /// A page that is granted as it should be.
    pub(super) good: u32,
    /// A page of segments, granted as it should be.
    pub(super) list: u32,
    /// Grants that are not what a request needs.
    pub(super) bad: Vec<u32>,
}

impl Material {
    fn id_offset(&self) -> usize {
        if self.abi == Abi::X86_32 { 4 } else { 8 }
    }

    fn body_offset(&self) -> usize {
        self.id_offset() + 16
    }

    /// A request as its bytes; `sectors` may be anything.
    fn slot(&self, head: [u8; 4], id: u64, sector: u64, body: &[u8]) -> [u8; SLOT_BYTES_MAX] {
        let mut slot = [0; SLOT_BYTES_MAX];
        slot[..4].copy_from_slice(&head);
        let (id_at, body_at) = (self.id_offset(), self.body_offset());
        slot[id_at..id_at + 8].copy_from_slice(&id.to_le_bytes());
        slot[id_at + 8..id_at + 16].copy_from_slice(&sector.to_le_bytes());
        let length = body.len().min(SLOT_BYTES_MAX - body_at);
        slot[body_at..body_at + length].copy_from_slice(&body[..length]);
        slot
    }

    /// A read or a write of one page.
    pub(super) fn transfer(&self, operation: u8, id: u64, sector: u64, grant: u32) -> [u8; SLOT_BYTES_MAX] {
        self.slot([operation, 1, 0, 0], id, sector, &Segment::page(grant).encode())
    }

    /// A request of this mode.
    pub(super) fn request(&self, mode: HostileMode, id: u64, random: &mut Random) -> HostileRequest {
        let operation = if random.below(2) == 0 { READ } else { WRITE };
        let sector = random.below(self.sectors / 8) * 8;
        let refused = |slot| HostileRequest { slot, expected: Expected::Refused };
        let anything = |slot| HostileRequest { slot, expected: Expected::Anything };
        match mode {
            HostileMode::RandomSlots | HostileMode::FlippingMemory => anything(self.random(id, random)),
            HostileMode::SegmentCounts => refused(self.segment_counts(id, random)),
            HostileMode::SectorAbuse => refused(self.sector_abuse(operation, id, random)),
            HostileMode::IndirectPages => refused(self.indirect(operation, id, sector, random)),
            HostileMode::ForeignGrants => {
                let grant = self.bad[random.index(self.bad.len())];
                refused(self.transfer(READ, id, sector, grant))
            }
            HostileMode::DuplicateIds => anything(self.transfer(operation, 7, sector, self.good)),
            _ => anything(self.transfer(operation, id, sector, self.good)),
        }
    }

    /// Anything; every other time nearer to what makes sense.
    fn random(&self, id: u64, random: &mut Random) -> [u8; SLOT_BYTES_MAX] {
        let mut slot: [u8; SLOT_BYTES_MAX] = std::array::from_fn(|_| random.byte());
        if random.below(2) == 0 {
            return slot;
        }
        (slot[0], slot[1]) = (random.byte() % 8, random.byte() % 13);
        slot[2..4].copy_from_slice(&u16::from(random.byte()).to_le_bytes());
        let (id_at, body_at) = (self.id_offset(), self.body_offset());
        slot[id_at..id_at + 8].copy_from_slice(&id.to_le_bytes());
        slot[id_at + 8..body_at].copy_from_slice(&random.below(self.sectors).to_le_bytes());
        for segment in slot[body_at..].chunks_exact_mut(SEGMENT_BYTES) {
            segment.copy_from_slice(&Segment::page(self.good).encode());
        }
        if slot[0] == INDIRECT {
            slot[1] %= 2;
            slot[body_at + 4..body_at + 8].copy_from_slice(&self.list.to_le_bytes());
        }
        slot
    }

    fn segment_counts(&self, id: u64, random: &mut Random) -> [u8; SLOT_BYTES_MAX] {
        let segments: Vec<u8> = [Segment::page(self.good).encode(); 12].concat();
        let operation = random.byte() % 4;
        let count = match random.below(3) {
            // Flushes and barriers may be empty.
            0 if operation < 2 => 0,
            1 => 255,
            _ => 12 + random.byte() % 244,
        };
        if random.below(4) == 0 {
            let count = match random.below(3) {
                0 => 0,
                1 => INDIRECT_SEGMENTS_MAX + 1,
                _ => u16::MAX,
            };
            let [low, high] = count.to_le_bytes();
            let body = [[0; 4], self.list.to_le_bytes()].concat();
            return self.slot([INDIRECT, operation % 2, low, high], id, 0, &body);
        }
        self.slot([operation, count, 0, 0], id, 0, &segments)
    }

    fn sector_abuse(&self, operation: u8, id: u64, random: &mut Random) -> [u8; SLOT_BYTES_MAX] {
        let good = Segment::page(self.good).encode();
        let mut segment = good;
        let mut sector = 0;
        match random.below(6) {
            // Backwards; beyond the page; both at their most.
            0 => (segment[4], segment[5]) = (5, 4),
            1 => (segment[4], segment[5]) = (0, 8 + random.byte() % 248),
            2 => (segment[4], segment[5]) = (255, 255),
            // Across the end of the disk; far beyond; around the end of numbers.
            3 => sector = self.sectors - 7 + random.below(7),
            4 => sector = self.sectors + (random.next() >> 12),
            _ if random.below(2) == 0 => {
                let sectors = (u64::MAX - random.below(8)).to_le_bytes();
                return self.slot([DISCARD, 0, 0, 0], id, 8, &sectors);
            }
            _ => sector = u64::MAX - random.below(16),
        }
        // The abuse is the second segment, so that the first one has been looked at.
        let body = if sector == 0 { [good, segment].concat() } else { segment.to_vec() };
        self.slot([operation, if sector == 0 { 2 } else { 1 }, 0, 0], id, sector, &body)
    }

    fn indirect(&self, operation: u8, id: u64, sector: u64, random: &mut Random) -> [u8; SLOT_BYTES_MAX] {
        let nonsense = random.next().to_le_bytes();
        let far = u32::from_le_bytes([nonsense[0], nonsense[1], nonsense[2], nonsense[3] | 0x80]);
        let (operation, page) = match random.below(4) {
            // A page that is not there; one that holds no segments; one that only others may read; no such operation.
            0 => (operation, far),
            1 => (operation, self.good),
            2 => (operation, self.bad[0]),
            _ => (2 + random.byte() % 254, self.list),
        };
        let count = 1 + random.byte() % 200;
        let body = [[0; 4], page.to_le_bytes()].concat();
        self.slot([INDIRECT, operation, count, 0], id, sector, &body)
    }
}
