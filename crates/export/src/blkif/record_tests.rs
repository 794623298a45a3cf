//! Death between any two stores: what a ring's record and the ring itself hold then tells whoever comes after what was taken
//! and has no answer, neither less nor more.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc, sync::atomic::Ordering};

use storage_io::{Moment, SimulatedClock};
use test_support::Choices;
use wire::blkif::{Abi, OperationCode, RawRequest, Response, SLOT_BYTES_MAX, Status};
use xen::{DomainId, GrantRef, PAGE_BYTES, Port, Words};

use super::{
    record::{RECORD_BYTES, Record, RingPlace},
    ring::Ring,
    table::{Table, ring_index},
};

const SLOTS: u32 = 32;
/// Just enough for such a ring.
const BYTES: usize = 256 + 32 * 136;
const REQ_PROD: usize = 0;
const RSP_PROD: usize = 8;

/// The memory of a host: the ring's page, and its record. Each change of a few bytes is a step, behind which the process may
/// be killed.
#[derive(Debug)]
struct Host {
    ring: Vec<u8>,
    record: Vec<u8>,
    /// As it was behind each step, while it is kept.
    steps: Option<Vec<(Vec<u8>, Vec<u8>)>>,
}

/// Part of it.
#[derive(Clone, Debug)]
struct Part {
    host: Rc<RefCell<Host>>,
    is_record: bool,
}

impl Part {
    fn bytes<T>(&self, body: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        let mut host = self.host.borrow_mut();
        body(if self.is_record { &mut host.record } else { &mut host.ring })
    }

    /// Copies are made of words, each for itself: a process is killed in the middle of them, too.
    fn change(&self, offset: usize, bytes: &[u8]) {
        for (index, word) in bytes.chunks(8).enumerate() {
            self.bytes(|all| all[offset + 8 * index..][..word.len()].copy_from_slice(word));
            let mut host = self.host.borrow_mut();
            let now = (host.ring.clone(), host.record.clone());
            host.steps.iter_mut().for_each(|steps| steps.push(now.clone()));
        }
    }
}

impl Words for Part {
    fn length(&self) -> usize {
        self.bytes(|bytes| bytes.len())
    }

    fn load(&self, offset: usize, _: Ordering) -> u32 {
        self.bytes(|bytes| u32::from_le_bytes(*bytes[offset..].first_chunk().unwrap()))
    }

    fn store(&self, offset: usize, value: u32, _: Ordering) {
        self.change(offset, &value.to_le_bytes());
    }

    fn fetch_add(&self, _: usize, _: u32, _: Ordering) -> u32 {
        unreachable!("nothing is added to")
    }

    fn fence(&self, _: Ordering) {}

    fn copy_out(&self, offset: usize, bytes: &mut [u8]) {
        self.bytes(|all| bytes.copy_from_slice(&all[offset..][..bytes.len()]));
    }

    fn copy_in(&self, offset: usize, bytes: &[u8]) {
        self.change(offset, bytes);
    }
}

fn host(ring: Vec<u8>, record: Vec<u8>) -> [Part; 2] {
    let host = Rc::new(RefCell::new(Host { ring, record, steps: None }));
    [false, true].map(|is_record| Part { host: host.clone(), is_record })
}

fn place() -> RingPlace {
    RingPlace { domain: DomainId(5), port: Port(7), abi: Abi::X86_64, pages: vec![GrantRef(8)] }
}

fn now() -> Moment {
    SimulatedClock::new().now()
}

/// The slot of a request of this name.
fn slot(id: u64) -> [u8; SLOT_BYTES_MAX] {
    let mut slot = [0; SLOT_BYTES_MAX];
    slot[0] = OperationCode::FlushDiskCache.number();
    slot[8..16].copy_from_slice(&id.to_le_bytes());
    slot
}

fn slot_offset(index: u64) -> usize {
    Abi::X86_64.slot_offset(ring_index(index), SLOTS)
}

/// A backend and its guest, of which everything is known.
struct World {
    parts: [Part; 2],
    ring: Ring<Part>,
    table: Table<Part>,
    /// Requests that the guest has put there: their names are their numbers.
    asked: u64,
    /// Of what was taken and not answered the places.
    running: BTreeMap<u64, usize>,
    /// Names in the order of answers.
    answered: Vec<u64>,
}

/// What is known at one instant, between two steps of the backend.
#[derive(Clone, Debug)]
struct Truth {
    asked: u64,
    /// What the disk was asked for must be remembered as taken.
    taken: u64,
    /// In the order of answers, with those that are being given.
    answered: Vec<u64>,
    /// How many of them must be remembered.
    known: usize,
}

impl World {
    fn new(first: u64) -> World {
        let parts = host(vec![0; PAGE_BYTES], vec![0xee; BYTES]);
        for index in [REQ_PROD, RSP_PROD] {
            parts[0].store(index, ring_index(first), Ordering::Relaxed);
        }
        let ring = Ring::attach(parts[0].clone(), Abi::X86_64).unwrap();
        let record = Record::begin(parts[1].clone(), &place(), first).unwrap();
        let table = Table::new(SLOTS, first, Some(record));
        World { parts, ring, table, asked: first, running: BTreeMap::new(), answered: Vec::new() }
    }

    fn truth(&self, first: u64) -> Truth {
        let taken = first + (self.answered.len() + self.running.len()) as u64;
        Truth { asked: self.asked, taken, answered: self.answered.clone(), known: self.answered.len() }
    }

    /// As the guest: puts requests into the ring, as long as there is room.
    fn ask(&mut self, first: u64, count: u64) {
        let answered = first + self.answered.len() as u64;
        for _ in 0..count.min(answered + u64::from(SLOTS) - self.asked) {
            self.parts[0].copy_in(slot_offset(self.asked), &slot(self.asked));
            self.asked += 1;
            self.parts[0].store(REQ_PROD, ring_index(self.asked), Ordering::Relaxed);
        }
    }

    fn take(&mut self, count: usize) {
        let mut taken = Vec::new();
        let took = self.ring.take(count, |raw| {
            taken.push(raw);
            true
        });
        took.unwrap();
        if taken.is_empty() {
            return;
        }
        let mut places = Vec::new();
        self.table.take(&taken, now(), |place| places.push(place));
        self.running.extend(taken.iter().map(RawRequest::id).zip(places));
    }

    fn answer(&mut self, choices: &mut Choices<'_>, count: usize) -> Vec<u64> {
        let mut ended = Vec::new();
        for _ in 0..count.min(self.running.len()) {
            let id = *self.running.keys().nth(choices.index(self.running.len())).unwrap();
            ended.push((id, self.running.remove(&id).unwrap()));
        }
        for (id, place) in &ended {
            let response = Response { id: *id, operation: OperationCode::FlushDiskCache, status: Status::Okay };
            self.table.answering(*place, response);
            self.ring.put(response);
        }
        self.table.answered(ended.iter().map(|(_, place)| *place));
        self.ring.push();
        ended.into_iter().map(|(id, _)| id).collect()
    }
}

/// Does something, and looks at what is left if the process is killed behind any step of it.
fn die_everywhere(world: &mut World, first: u64, body: impl FnOnce(&mut World)) -> usize {
    let before = world.truth(first);
    world.parts[0].host.borrow_mut().steps = Some(Vec::new());
    body(world);
    let steps = world.parts[0].host.borrow_mut().steps.take().unwrap();
    let after = world.truth(first);
    let during = Truth { answered: after.answered.clone(), ..before };
    let last = steps.len();
    for (step, (ring, record)) in steps.into_iter().enumerate() {
        let truth = if step + 1 == last { &after } else { &during };
        is_remembered(truth, first, ring, record, &format!("step {step} of {last}"));
    }
    last
}

fn is_remembered(truth: &Truth, first: u64, ring: Vec<u8>, record: Vec<u8>, words: &str) {
    let seen_by_guest = u32::from_le_bytes(*ring[RSP_PROD..].first_chunk().unwrap());
    let [ring, record] = host(ring, record);
    assert_eq!(Record::place(&record), Some(place()), "{words}");
    let (_, found) = Record::adopt(record).unwrap();
    let outstanding: Vec<u64> = found.unanswered.iter().map(|unanswered| unanswered.request.id()).collect();
    assert!(found.taken >= truth.taken && found.taken <= truth.asked, "{words}: {found:?}");
    let given = usize::try_from(found.given - first).unwrap();
    assert!(given >= truth.known && given <= truth.answered.len(), "{words}: {given} {truth:?}");
    let mut all = [&truth.answered[..given], &outstanding].concat();
    all.sort_unstable();
    assert_eq!(all, (first..found.taken).collect::<Vec<_>>(), "each was answered, or is done again: {words}");
    assert!(outstanding.is_sorted(), "in their order: {words}");
    for unanswered in &found.unanswered {
        assert_eq!(unanswered.request.bytes(), slot(unanswered.index), "{words}");
    }
    // Whatever the guest has seen counts as given, and it is shown the rest.
    assert!(ring_index(found.given).wrapping_sub(seen_by_guest) <= SLOTS, "{words}");
    let adopted = Ring::adopt(ring.clone(), Abi::X86_64, ring_index(found.taken), ring_index(found.given)).unwrap();
    assert_eq!(ring.load(RSP_PROD, Ordering::Relaxed), ring_index(found.given), "{words}");
    assert_eq!(adopted.outstanding() as usize, outstanding.len(), "{words}");
    for (index, id) in (first..).zip(&truth.answered).take(given).skip(given.saturating_sub(SLOTS as usize)) {
        let mut bytes = [0; 8];
        let is_overwritten = index + u64::from(SLOTS) < truth.asked;
        ring.copy_out(slot_offset(index), &mut bytes);
        assert!(is_overwritten || u64::from_le_bytes(bytes) == *id, "the answer is there: {words}");
    }
}

/// A random story; says how often the process was killed.
fn story(seed: &[u8], first: u64) -> usize {
    let mut choices = Choices::new(seed);
    let mut world = World::new(first);
    let mut deaths = 0;
    while !choices.is_over() {
        world.ask(first, u64::from(choices.byte() % 8));
        let count = 1 + choices.index(6);
        deaths += if choices.one_in(2) {
            die_everywhere(&mut world, first, |world| world.take(count))
        } else {
            die_everywhere(&mut world, first, |world| {
                let ended = world.answer(&mut choices, count);
                world.answered.extend(ended);
            })
        };
    }
    deaths
}

fn random(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    std::iter::repeat_with(next).take(length).collect()
}

#[test]
fn whoever_comes_after_a_death_finds_what_was_taken_and_not_answered() {
    let deaths: usize = (1..=40).map(|seed| story(&random(seed * 7919, 120), 0)).sum();
    assert!(deaths > 5000, "{deaths}");
}

#[test]
fn indices_that_wrap_confuse_nobody() {
    for first in [u64::from(u32::MAX) - 20, (1 << 33) - 3] {
        story(&random(first, 200), first);
    }
}

#[test]
fn what_is_no_record_is_not_believed() {
    let begin = |bytes: Vec<u8>| {
        let [_, record] = host(Vec::new(), bytes);
        let begun = Record::begin(record.clone(), &place(), 0).is_some();
        (begun, record)
    };
    assert!(!begin(vec![0; 256 + 31 * 136]).0, "it has no room");
    for (offset, value) in [(0, 1), (8, 9), (12, 64), (24, 17), (24, 3), (128, 33), (192, 1)] {
        let (_, record) = begin(vec![0; RECORD_BYTES]);
        record.store(offset, value, Ordering::Relaxed);
        assert!(Record::adopt(record).is_err(), "{offset}");
    }
    let [_, empty] = host(Vec::new(), vec![0; RECORD_BYTES]);
    assert!(Record::place(&empty).is_none());
}
