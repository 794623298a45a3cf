//! The backend's side of the shared pages: indices that two run and none trusts.
//!
//! ```text
//!   0 req_prod   4 req_event   8 rsp_prod   12 rsp_event   ... 64 slots
//! ```
//!
//! Indices run freely and wrap. Before it sleeps, the one who consumes says from which index on it wants to be told, and
//! looks once more; the one who produces publishes first and looks at that index second. So one of both sees the other.

use std::{fmt, sync::atomic::Ordering};

use wire::blkif::{Abi, RawRequest, Response, SLOT_BYTES_MAX};
use xen::Words;

use super::account::MappedPages;

const REQ_PROD: usize = 0;
const REQ_EVENT: usize = 4;
const RSP_PROD: usize = 8;
const RSP_EVENT: usize = 12;

/// Why a ring is not looked at any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BrokenRing {
    /// The guest says that there are more requests than the ring holds.
    TooManyRequests {
        /// How many it says are there.
        count: u32,
        /// Slots of the ring.
        slots: u32,
    },
    /// The guest takes back requests that were taken from the ring already.
    TakenBack {
        /// How many.
        count: u32,
    },
    /// The ring has another length than its order says.
    WrongLength,
    /// The event channel is broken: nobody will be told of requests any more.
    NoEvents,
}

impl fmt::Display for BrokenRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BrokenRing::TooManyRequests { count, slots } => {
                write!(f, "the guest says that {count} requests are in a ring of {slots}")
            }
            BrokenRing::TakenBack { count } => {
                write!(f, "the guest takes back {count} requests that were taken from the ring already")
            }
            BrokenRing::WrongLength => f.write_str("a ring of 1, 2, 4, 8 or 16 pages is needed"),
            BrokenRing::NoEvents => f.write_str("the event channel is broken"),
        }
    }
}

impl std::error::Error for BrokenRing {}

/// The backend's side of a ring.
#[derive(Debug)]
pub(super) struct Ring<M = MappedPages> {
    memory: M,
    abi: Abi,
    slots: u32,
    /// The next request to be taken.
    req_cons: u32,
    /// Where the next response goes; all before it are in their slots.
    rsp_prod: u32,
}

impl<M: Words> Ring<M> {
    /// A ring on these pages, as an earlier backend may have left it when everything was answered.
    pub(super) fn attach(memory: M, abi: Abi) -> Result<Ring<M>, BrokenRing> {
        let slots = slots_in(&memory, abi)?;
        Ring::with_slots(memory, abi, slots)
    }

    /// As [`attach`](Self::attach), with so many slots, a power of two.
    pub(super) fn with_slots(memory: M, abi: Abi, slots: u32) -> Result<Ring<M>, BrokenRing> {
        let rsp_prod = memory.load(RSP_PROD, Ordering::Acquire);
        let ring = Ring { memory, abi, slots, req_cons: rsp_prod, rsp_prod };
        ring.produced()?;
        Ok(ring)
    }

    /// A ring of which somebody else has taken and answered so many requests, by their indices. The guest is shown all of
    /// those answers.
    pub(super) fn adopt(memory: M, abi: Abi, taken: u32, answered: u32) -> Result<Ring<M>, BrokenRing> {
        let slots = slots_in(&memory, abi)?;
        let ring = Ring { memory, abi, slots, req_cons: taken, rsp_prod: answered };
        ring.produced()?;
        // Whether it wants to be told does not matter: it is.
        ring.push();
        Ok(ring)
    }

    /// Its memory.
    #[cfg(test)]
    pub(super) fn memory(&self) -> &M {
        &self.memory
    }

    /// Slots of the ring.
    pub(super) fn slots(&self) -> u32 {
        self.slots
    }

    /// How many requests were answered, as an index.
    pub(super) fn answered(&self) -> u32 {
        self.rsp_prod
    }

    /// Requests that were taken and have no response in the ring.
    pub(super) fn outstanding(&self) -> u32 {
        self.req_cons.wrapping_sub(self.rsp_prod)
    }

    /// Whether every request that the guest has ever put there has its answer.
    pub(super) fn is_answered(&self) -> bool {
        self.memory.load(REQ_PROD, Ordering::Acquire) == self.rsp_prod
    }

    /// How far the guest has got. Read once for each batch.
    fn produced(&self) -> Result<u32, BrokenRing> {
        let produced = self.memory.load(REQ_PROD, Ordering::Acquire);
        let count = produced.wrapping_sub(self.rsp_prod);
        if count > self.slots {
            return Err(BrokenRing::TooManyRequests { count, slots: self.slots });
        }
        // Going on from here would take slots all around the ring.
        match self.outstanding().checked_sub(count) {
            None | Some(0) => Ok(produced),
            Some(count) => Err(BrokenRing::TakenBack { count }),
        }
    }

    /// Takes requests, at most so many, as copies of their slots, as long as `each` wants more.
    pub(super) fn take(
        &mut self,
        count_max: usize,
        mut each: impl FnMut(RawRequest) -> bool,
    ) -> Result<usize, BrokenRing> {
        let produced = self.produced()?;
        let mut count = 0;
        while count < count_max && self.req_cons != produced {
            let mut slot = [0; SLOT_BYTES_MAX];
            let at = self.abi.slot_offset(self.req_cons, self.slots);
            self.memory.copy_out(at, &mut slot[..self.abi.slot_bytes()]);
            self.req_cons = self.req_cons.wrapping_add(1);
            count += 1;
            if !each(RawRequest::new(self.abi, slot)) {
                break;
            }
        }
        Ok(count)
    }

    /// Asks to be told of the next request. True: there is one already.
    pub(super) fn arm(&self) -> Result<bool, BrokenRing> {
        self.memory.store(REQ_EVENT, self.req_cons.wrapping_add(1), Ordering::Relaxed);
        self.memory.fence(Ordering::SeqCst);
        Ok(self.produced()? != self.req_cons)
    }

    /// Puts a response into the next slot. The guest does not see it before [`push`](Self::push).
    ///
    /// # Panics
    /// When nothing is outstanding.
    pub(super) fn put(&mut self, response: Response) {
        assert!(self.outstanding() > 0, "a response answers a request");
        let (bytes, length) = response.encode(self.abi);
        self.memory.copy_in(self.abi.slot_offset(self.rsp_prod, self.slots), &bytes[..length]);
        self.rsp_prod = self.rsp_prod.wrapping_add(1);
    }

    /// Does not ask to be told any more.
    pub(super) fn disarm(&self) {
        self.memory.store(REQ_EVENT, self.req_cons, Ordering::Relaxed);
    }

    /// Shows the guest all responses; says whether it wants to be told.
    pub(super) fn push(&self) -> bool {
        // Ours: nobody else writes it, or the guest harms itself alone.
        let old = self.memory.load(RSP_PROD, Ordering::Relaxed);
        self.memory.store(RSP_PROD, self.rsp_prod, Ordering::Release);
        self.memory.fence(Ordering::SeqCst);
        let event = self.memory.load(RSP_EVENT, Ordering::Relaxed);
        self.rsp_prod.wrapping_sub(event) < self.rsp_prod.wrapping_sub(old)
    }
}

fn slots_in(memory: &impl Words, abi: Abi) -> Result<u32, BrokenRing> {
    let pages = memory.length() / xen::PAGE_BYTES;
    let slots = if pages.is_power_of_two() { abi.slots(pages.trailing_zeros()) } else { None };
    slots.ok_or(BrokenRing::WrongLength)
}
