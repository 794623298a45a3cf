//! A ring's record: what is known of its requests, in memory that outlives the process that serves it. Whoever comes after a
//! process that was killed reads in it which requests were taken and have no answer, and goes on.
//!
//! ```text
//!     0 magic (8)   8 abi  12 slots  16 domain  20 port  24 pages  28 -  32 grants of the ring's pages (16 x 4)
//!   128 requests taken (8)         192 responses given (8)
//!   256 entries of 128 bytes, as many as slots:
//!         0 state   4 -   8 index of the request (8)   16 slot, as it was copied from the ring (112)
//!   behind them, for each entry the index of its response (8)
//! ```
//!
//! A process may be killed between any two stores, so each of both counts is what makes a change true:
//!
//! ```text
//!   taking:     slot and index --> state Taken --> [requests taken] --> the disk is asked
//!   answering:  index --> state Answering --> response into the ring --> [responses given] --> state Free --> the guest sees it
//! ```
//!
//! An entry counts if its request lies below the count of those taken, and its response does not lie below that of those
//! given. Counts have 64 bits, and never begin again; a ring's indices are their lower halves. Guests cannot reach any of it.

use std::sync::atomic::Ordering::{Acquire, Release};

use wire::blkif::{Abi, RawRequest, SLOT_BYTES_MAX};
use xen::{DomainId, GrantRef, PAGE_BYTES, Port, SharedMemory, Words};

/// Changes with the layout.
const MAGIC: [u8; 8] = *b"oxring\0\x01";

const ABI: usize = 8;
const SLOTS: usize = 12;
const DOMAIN: usize = 16;
const PORT: usize = 20;
const PAGES: usize = 24;
const GRANTS: usize = 32;
const TAKEN: usize = 128;
const GIVEN: usize = 192;
const ENTRIES: usize = 256;

const PAGES_MAX: usize = 16;

const STATE: usize = 0;
const REQUEST: usize = 8;
const SLOT: usize = 16;
const ENTRY_BYTES: usize = 128;
const RESPONSE_BYTES: usize = 8;

const FREE: u32 = 0;
const IS_TAKEN: u32 = 1;
const IS_ANSWERING: u32 = 2;

const _: () = assert!(SLOT + SLOT_BYTES_MAX == ENTRY_BYTES && GRANTS + 4 * PAGES_MAX <= TAKEN);

/// Where a ring is: what its record is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RingPlace {
    pub(super) domain: DomainId,
    pub(super) port: Port,
    pub(super) abi: Abi,
    pub(super) pages: Vec<GrantRef>,
}

impl RingPlace {
    /// Slots of such a ring; none if there is no such ring.
    fn slots(&self) -> Option<u32> {
        let count = self.pages.len();
        if count.is_power_of_two() { self.abi.slots(count.trailing_zeros()) } else { None }
    }
}

/// A request that was taken and has no answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unanswered {
    /// Its place in the record.
    pub(super) place: usize,
    /// Its place among all requests of the ring.
    pub(super) index: u64,
    pub(super) request: RawRequest,
}

/// What somebody before us has left of a ring.
#[derive(Clone, Debug)]
pub(super) struct Remembered {
    /// Requests taken, from the first of the ring.
    pub(super) taken: u64,
    /// Responses given.
    pub(super) given: u64,
    /// In the order of requests.
    pub(super) unanswered: Vec<Unanswered>,
}

/// The record of a ring that is served.
#[derive(Debug)]
pub(super) struct Record<M = SharedMemory> {
    memory: M,
    slots: u32,
}

/// Bytes of the record of the largest ring, in whole pages.
pub const RECORD_BYTES: usize = bytes(512).next_multiple_of(PAGE_BYTES);

const fn bytes(slots: usize) -> usize {
    ENTRIES + slots * (ENTRY_BYTES + RESPONSE_BYTES)
}

impl<M: Words> Record<M> {
    /// Begins a record: nothing of the ring is under way, and so many requests were ever answered in it. None if the memory
    /// has no room for such a ring.
    pub(super) fn begin(memory: M, place: &RingPlace, given: u64) -> Option<Record<M>> {
        let slots = place.slots().filter(|slots| bytes(*slots as usize) <= memory.length())?;
        memory.copy_in(0, &[0; MAGIC.len()]);
        memory.fence(Release);
        let record = Record { memory, slots };
        let words = [(ABI, number(place.abi)), (SLOTS, slots), (DOMAIN, place.domain.0.into()), (PORT, place.port.0)];
        let pages = u32::try_from(place.pages.len()).expect("it is a ring");
        let grants = place.pages.iter().enumerate().map(|(index, grant)| (GRANTS + 4 * index, grant.0));
        let states = (0..slots as usize).map(|place| (entry(place) + STATE, FREE));
        for (offset, value) in words.into_iter().chain([(PAGES, pages)]).chain(grants).chain(states) {
            record.memory.store(offset, value, Release);
        }
        record.set_long(TAKEN, given);
        record.set_long(GIVEN, given);
        record.memory.fence(Release);
        record.memory.copy_in(0, &MAGIC);
        Some(record)
    }

    /// What the memory says that it is about; none if it is no record.
    pub(super) fn place(memory: &M) -> Option<RingPlace> {
        if memory.length() < bytes(0) {
            return None;
        }
        let mut magic = [0; MAGIC.len()];
        memory.copy_out(0, &mut magic);
        memory.fence(Acquire);
        let word = |offset| memory.load(offset, Acquire);
        let count = usize::try_from(word(PAGES)).ok().filter(|count| *count <= PAGES_MAX)?;
        let place = RingPlace {
            domain: DomainId(u16::try_from(word(DOMAIN)).ok()?),
            port: Port(word(PORT)),
            abi: [Abi::X86_64, Abi::X86_32].into_iter().find(|abi| number(*abi) == word(ABI))?,
            pages: (0..count).map(|index| GrantRef(word(GRANTS + 4 * index))).collect(),
        };
        let slots = place.slots().filter(|slots| *slots == word(SLOTS))?;
        (magic == MAGIC && bytes(slots as usize) <= memory.length()).then_some(place)
    }

    /// The record of a ring that somebody else has served, and what is in it; the memory again if it makes no sense.
    pub(super) fn adopt(memory: M) -> Result<(Record<M>, Remembered), M> {
        let Some((place, slots)) = Record::place(&memory).and_then(|place| Some((place.clone(), place.slots()?)))
        else {
            return Err(memory);
        };
        let record = Record { memory, slots };
        match record.remembered(place.abi) {
            Some(remembered) => Ok((record, remembered)),
            None => Err(record.memory),
        }
    }

    fn remembered(&self, abi: Abi) -> Option<Remembered> {
        let [taken, given] = [TAKEN, GIVEN].map(|offset| self.long(offset));
        let outstanding = taken.checked_sub(given).filter(|count| *count <= self.slots.into())?;
        let mut unanswered = Vec::new();
        for place in 0..self.slots as usize {
            let state = self.memory.load(entry(place) + STATE, Acquire);
            let index = self.long(entry(place) + REQUEST);
            let is_given = state == IS_ANSWERING && self.long(self.response(place)) < given;
            if state == FREE || is_given || index >= taken {
                // Free, or as good as that.
                self.memory.store(entry(place) + STATE, FREE, Release);
                continue;
            }
            let mut slot = [0; SLOT_BYTES_MAX];
            self.memory.copy_out(entry(place) + SLOT, &mut slot);
            self.memory.store(entry(place) + STATE, IS_TAKEN, Release);
            unanswered.push(Unanswered { place, index, request: RawRequest::new(abi, slot) });
        }
        unanswered.sort_unstable_by_key(|unanswered| unanswered.index);
        let are_all = unanswered.len() as u64 == outstanding;
        are_all.then_some(Remembered { taken, given, unanswered })
    }

    /// Its memory, for another record.
    pub(super) fn into_memory(self) -> M {
        self.memory
    }

    /// A request was copied out of the ring.
    pub(super) fn take(&self, place: usize, index: u64, request: &RawRequest) {
        let bytes = request.bytes();
        self.memory.copy_in(entry(place) + SLOT, bytes);
        self.set_long(entry(place) + REQUEST, index);
        self.memory.store(entry(place) + STATE, IS_TAKEN, Release);
    }

    /// From now on so many count as taken, and the disk may be asked.
    pub(super) fn taken(&self, count: u64) {
        self.memory.fence(Release);
        self.set_long(TAKEN, count);
    }

    /// The response at this index is going to be put into the ring.
    pub(super) fn answering(&self, place: usize, index: u64) {
        self.set_long(self.response(place), index);
        self.memory.store(entry(place) + STATE, IS_ANSWERING, Release);
    }

    /// From now on so many count as answered: their responses are in the ring, and the guest may see them.
    pub(super) fn given(&self, count: u64) {
        self.memory.fence(Release);
        self.set_long(GIVEN, count);
    }

    /// A place whose request counts as answered is free.
    pub(super) fn free(&self, place: usize) {
        self.memory.store(entry(place) + STATE, FREE, Release);
    }

    fn response(&self, place: usize) -> usize {
        ENTRIES + self.slots as usize * ENTRY_BYTES + place * RESPONSE_BYTES
    }

    /// Eight aligned bytes are one access.
    fn set_long(&self, offset: usize, value: u64) {
        self.memory.copy_in(offset, &value.to_le_bytes());
    }

    fn long(&self, offset: usize) -> u64 {
        let mut bytes = [0; 8];
        self.memory.copy_out(offset, &mut bytes);
        u64::from_le_bytes(bytes)
    }
}

fn entry(place: usize) -> usize {
    ENTRIES + place * ENTRY_BYTES
}

fn number(abi: Abi) -> u32 {
    match abi {
        Abi::X86_64 => 1,
        Abi::X86_32 => 2,
    }
}
