//! The hold-off of events, both halves of a ring in every order: nobody sleeps while there is something for him, and
//! what an index tells of is there.

use std::sync::atomic::Ordering;

use guest::FrontHalf;
use test_support::{Orders, Party, Wrong};
use wire::blkif::{Abi, Response, SLOT_BYTES_MAX, Status};
use xen::Words;

use super::ring::Ring;

const STATES_MAX: usize = 1_000_000;
/// An answer stands where its request stood, and is another number.
const ANSWER: u8 = 0x80;
const BEGIN: u32 = 0;
const TO_BACKEND: u32 = 1;
const TO_FRONTEND: u32 = 2;

/// A ring's memory as one party reaches it. A slot is one word: all its bytes are the same.
struct ModelMemory<'a> {
    party: &'a Party<'a>,
    has_fences: bool,
}

impl Words for ModelMemory<'_> {
    fn length(&self) -> usize {
        xen::PAGE_BYTES
    }

    fn load(&self, offset: usize, order: Ordering) -> u32 {
        self.party.load(word(offset), order)
    }

    fn store(&self, offset: usize, value: u32, order: Ordering) {
        self.party.store(word(offset), value, order);
    }

    fn fetch_add(&self, offset: usize, value: u32, order: Ordering) -> u32 {
        self.party.fetch_add(word(offset), value, order)
    }

    fn fence(&self, order: Ordering) {
        if self.has_fences {
            self.party.fence(order);
        }
    }

    fn copy_out(&self, offset: usize, bytes: &mut [u8]) {
        bytes.fill(self.party.load(word(offset), Ordering::Relaxed).to_le_bytes()[0]);
    }

    fn copy_in(&self, offset: usize, bytes: &[u8]) {
        self.party.store(word(offset), u32::from(bytes[0]), Ordering::Relaxed);
    }
}

fn word(offset: usize) -> u32 {
    u32::try_from(offset).unwrap()
}

/// Sends requests 1, 2, 3 ... as slots come free, and sleeps when there is no answer to take.
fn frontend(party: &Party<'_>, has_fences: bool, slots: u32, requests: u8) {
    let mut half = FrontHalf::new(ModelMemory { party, has_fences }, Abi::X86_64, slots);
    party.notify(BEGIN);
    let (mut sent, mut answered) = (0, 0);
    while answered < requests {
        while sent < requests && half.free() > 0 {
            sent += 1;
            half.put(&[sent; SLOT_BYTES_MAX]);
            if half.push() {
                party.notify(TO_BACKEND);
            }
        }
        match half.take() {
            Some(response) => {
                answered += 1;
                assert_eq!(response.id.to_le_bytes()[0], answered | ANSWER, "the answer is in its slot");
            }
            None if half.arm() => {}
            None => party.wait(TO_FRONTEND),
        }
    }
}

/// Takes requests, answers them in order, and sleeps when there is none; one that polls does not ask to be told before it
/// has looked twice.
fn backend(party: &Party<'_>, has_fences: bool, slots: u32, requests: u8, polls: bool) {
    party.wait(BEGIN);
    let mut ring = Ring::with_slots(ModelMemory { party, has_fences }, Abi::X86_64, slots).unwrap();
    let (mut done, mut looked) = (0, 0);
    while done < requests {
        let mut taken = Vec::new();
        ring.take(64, |raw| {
            taken.push(raw);
            true
        })
        .unwrap();
        if taken.is_empty() {
            looked += 1;
            if (!polls || looked > 1) && !ring.arm().unwrap() {
                party.wait(TO_BACKEND);
            }
            continue;
        }
        looked = 0;
        if polls {
            ring.disarm();
        }
        for raw in &taken {
            done += 1;
            assert!(raw.bytes().iter().all(|byte| *byte == done), "the request is in its slot");
            ring.put(Response { id: u64::from(done | ANSWER), operation: raw.operation(), status: Status::Okay });
        }
        if ring.push() {
            party.notify(TO_FRONTEND);
        }
    }
}

fn explore(slots: u32, requests: u8, fences: [bool; 2], polls: bool) -> Result<usize, Wrong> {
    let [frontend_has, backend_has] = fences;
    let orders = Orders::default()
        .party("frontend", move |party| frontend(party, frontend_has, slots, requests))
        .party("backend", move |party| backend(party, backend_has, slots, requests, polls));
    orders.explore(STATES_MAX)
}

/// Rings so small that they are full, and that their slots are used again.
#[test]
fn no_wake_up_is_lost_and_no_slot_is_read_before_it_is_written() {
    for (slots, requests) in [(1, 2), (2, 2)] {
        let states = explore(slots, requests, [true; 2], false).unwrap();
        println!("{requests} requests in a ring of {slots}: {states} states");
    }
}

#[test]
fn without_the_fence_of_either_half_a_wake_up_is_lost() {
    for fences in [[false, true], [true, false]] {
        assert!(matches!(explore(1, 2, fences, false), Err(Wrong::Stuck(_))), "{fences:?}");
    }
}

#[test]
fn nor_is_one_lost_by_a_backend_that_looks_for_a_while_before_it_sleeps() {
    let states = explore(1, 2, [true; 2], true).unwrap();
    println!("{states} states");
}
