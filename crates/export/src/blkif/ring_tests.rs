//! What a ring looks at, and how often: memory that changes at every look is looked at once.

use std::{cell::RefCell, sync::atomic::Ordering};

use wire::blkif::Abi;
use xen::Words;

use super::ring::{BrokenRing, Ring};

/// Memory of a guest that writes to it between any two looks, and notes each of them.
#[derive(Debug, Default)]
struct Restless {
    /// What is seen at the indices, one look after the other; then nothing changes any more.
    produced: RefCell<Vec<u32>>,
    /// Offsets and lengths of what was copied.
    copied: RefCell<Vec<(usize, usize)>>,
}

impl Words for Restless {
    fn length(&self) -> usize {
        xen::PAGE_BYTES
    }

    fn load(&self, offset: usize, _: Ordering) -> u32 {
        let mut produced = self.produced.borrow_mut();
        match offset {
            0 if produced.len() > 1 => produced.remove(0),
            0 => produced[0],
            _ => 0,
        }
    }

    fn store(&self, _: usize, _: u32, _: Ordering) {}

    fn fetch_add(&self, _: usize, _: u32, _: Ordering) -> u32 {
        unreachable!("a ring adds to nothing")
    }

    fn fence(&self, _: Ordering) {}

    fn copy_out(&self, offset: usize, bytes: &mut [u8]) {
        let mut copied = self.copied.borrow_mut();
        copied.push((offset, bytes.len()));
        bytes.fill(u8::try_from(copied.len()).unwrap());
    }

    fn copy_in(&self, _: usize, _: &[u8]) {}
}

fn ring(produced: &[u32]) -> Ring<Restless> {
    let memory = Restless { produced: RefCell::new(produced.to_vec()), ..Restless::default() };
    Ring::attach(memory, Abi::X86_32).unwrap()
}

#[test]
fn each_slot_is_copied_once_and_whole() {
    // The index is looked at once for the batch: what it becomes meanwhile is for the next.
    let mut ring = ring(&[0, 3, 32]);
    let mut seen = Vec::new();
    let count = ring.take(64, |raw| {
        seen.push(raw.bytes().to_vec());
        true
    });
    assert_eq!(count, Ok(3));
    assert_eq!(seen, [vec![1; 108], vec![2; 108], vec![3; 108]]);
    assert_eq!(*ring.memory().copied.borrow(), [(64, 108), (64 + 108, 108), (64 + 216, 108)]);
}

#[test]
fn indices_that_make_no_sense_are_never_followed() {
    for (produced, expected) in [
        (33, BrokenRing::TooManyRequests { count: 33, slots: 32 }),
        (u32::MAX, BrokenRing::TooManyRequests { count: u32::MAX, slots: 32 }),
        (2, BrokenRing::TakenBack { count: 3 }),
    ] {
        let mut ring = ring(&[0, 5, produced]);
        assert_eq!(ring.take(64, |_| true), Ok(5));
        assert_eq!(ring.take(64, |_| unreachable!("nothing is taken")), Err(expected));
        assert_eq!((ring.arm(), ring.outstanding()), (Err(expected), 5));
    }
}
