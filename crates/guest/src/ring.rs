//! The frontend's side of a ring.

use std::sync::atomic::{Ordering, fence};

use block_core::{Error, ErrorKind, Result};
use wire::blkif::{Abi, Response, SLOT_BYTES_MAX};
use xen::{
    Access, DomainId, GrantRef, SharedMemory,
    hosted::{EndAccess, Guest},
};

const REQ_PROD: usize = 0;
const REQ_EVENT: usize = 4;
const RSP_PROD: usize = 8;
const RSP_EVENT: usize = 12;

/// A ring in pages of a guest, granted to its backend.
#[derive(Debug)]
pub struct FrontRing {
    guest: Guest,
    memory: SharedMemory,
    pages: Vec<u32>,
    grants: Vec<GrantRef>,
    abi: Abi,
    slots: u32,
    /// Where the next request goes.
    req_prod: u32,
    /// The next response to be taken.
    rsp_cons: u32,
}

impl FrontRing {
    /// A ring of two to the power of `order` pages.
    ///
    /// # Errors
    /// `Invalid` if rings are never so large, or what the guest has run out of.
    pub fn new(guest: &Guest, backend: DomainId, abi: Abi, order: u32) -> Result<FrontRing> {
        let slots = abi.slots(order).ok_or_else(|| Error::new(ErrorKind::Invalid, "no ring is so large"))?;
        let pages = (0..1 << order).map(|_| guest.allocate_page()).collect::<Result<Vec<_>>>()?;
        let memory = guest.map_pages(&pages)?;
        memory.copy_in(0, &vec![0; memory.length()]);
        memory.word(REQ_EVENT).store(1, Ordering::SeqCst);
        memory.word(RSP_EVENT).store(1, Ordering::SeqCst);
        let grants = pages.iter().map(|page| guest.grant(*page, backend, Access::Write)).collect::<Result<Vec<_>>>()?;
        Ok(FrontRing { guest: guest.clone(), memory, pages, grants, abi, slots, req_prod: 0, rsp_cons: 0 })
    }

    /// The grants of its pages, in order.
    pub fn grants(&self) -> &[GrantRef] {
        &self.grants
    }

    /// How it is laid out.
    pub fn abi(&self) -> Abi {
        self.abi
    }

    /// All its memory, for those who mean harm.
    pub fn memory(&self) -> &SharedMemory {
        &self.memory
    }

    /// Slots of the ring.
    pub fn slots(&self) -> u32 {
        self.slots
    }

    /// Slots that hold no request without a response.
    pub fn free(&self) -> u32 {
        self.slots - self.req_prod.wrapping_sub(self.rsp_cons)
    }

    /// Puts a request into the next slot.
    ///
    /// # Panics
    /// When there is none free.
    pub fn put(&mut self, slot: &[u8; SLOT_BYTES_MAX]) {
        assert!(self.free() > 0, "the ring is full");
        let at = self.abi.slot_offset(self.req_prod, self.slots);
        self.memory.copy_in(at, &slot[..self.abi.slot_bytes()]);
        self.req_prod = self.req_prod.wrapping_add(1);
    }

    /// Shows the backend all requests; says whether it wants to be told.
    pub fn push(&self) -> bool {
        let shared = self.memory.word(REQ_PROD);
        let old = shared.load(Ordering::Relaxed);
        shared.store(self.req_prod, Ordering::Release);
        fence(Ordering::SeqCst);
        let event = self.memory.word(REQ_EVENT).load(Ordering::Relaxed);
        self.req_prod.wrapping_sub(event) < self.req_prod.wrapping_sub(old)
    }

    /// The next response.
    ///
    /// # Panics
    /// When the backend says that there are more responses than there were requests: it would end a guest's disk.
    pub fn take(&mut self) -> Option<Response> {
        let produced = self.memory.word(RSP_PROD).load(Ordering::Acquire);
        let ahead = self.req_prod.wrapping_sub(produced);
        assert!(ahead <= self.slots, "responses run ahead of requests");
        if produced == self.rsp_cons {
            return None;
        }
        let mut bytes = [0; 16];
        let at = self.abi.slot_offset(self.rsp_cons, self.slots);
        self.memory.copy_out(at, &mut bytes[..self.abi.response_bytes()]);
        self.rsp_cons = self.rsp_cons.wrapping_add(1);
        Some(Response::decode(&bytes))
    }

    /// Asks to be told of the next response. True: there is one already.
    pub fn arm(&self) -> bool {
        self.memory.word(RSP_EVENT).store(self.rsp_cons.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::SeqCst);
        self.memory.word(RSP_PROD).load(Ordering::Acquire) != self.rsp_cons
    }

    /// Says that there are requests up to this index, whatever is in the slots.
    pub fn set_produced(&self, index: u32) {
        self.memory.word(REQ_PROD).store(index, Ordering::SeqCst);
    }

    /// Takes the pages back; says how many the backend still has.
    ///
    /// # Errors
    /// When the platform has gone.
    pub fn release(mut self) -> Result<usize> {
        self.take_back()
    }

    /// As [`release`](Self::release); the second time there is nothing to take back.
    pub(crate) fn take_back(&mut self) -> Result<usize> {
        let mut in_use = 0;
        for (grant, page) in self.grants.drain(..).zip(self.pages.drain(..)) {
            match self.guest.end_access(grant)? {
                EndAccess::Ended => self.guest.free_page(page),
                EndAccess::InUse => in_use += 1,
            }
        }
        Ok(in_use)
    }
}
