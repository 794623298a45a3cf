//! The frontend's half of a ring: its indices and slots, in whatever memory they are.

use std::sync::atomic::Ordering;

use wire::blkif::{Abi, Response, SLOT_BYTES_MAX};
use xen::Words;

const REQ_PROD: usize = 0;
const REQ_EVENT: usize = 4;
const RSP_PROD: usize = 8;
const RSP_EVENT: usize = 12;

/// What a frontend does to a ring, and nothing of where its pages are from.
#[derive(Debug)]
pub struct FrontHalf<M> {
    memory: M,
    abi: Abi,
    slots: u32,
    /// Where the next request goes.
    req_prod: u32,
    /// The next response to be taken.
    rsp_cons: u32,
}

impl<M: Words> FrontHalf<M> {
    /// Begins a ring of so many slots in memory that is all zeroes.
    pub fn new(memory: M, abi: Abi, slots: u32) -> FrontHalf<M> {
        memory.store(REQ_EVENT, 1, Ordering::SeqCst);
        memory.store(RSP_EVENT, 1, Ordering::SeqCst);
        FrontHalf { memory, abi, slots, req_prod: 0, rsp_cons: 0 }
    }

    /// All its memory.
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// How it is laid out.
    pub fn abi(&self) -> Abi {
        self.abi
    }

    /// Slots of the ring.
    pub fn slots(&self) -> u32 {
        self.slots
    }

    /// Slots that hold no request without a response.
    pub fn free(&self) -> u32 {
        self.slots - self.req_prod.wrapping_sub(self.rsp_cons)
    }

    /// The index at which the next request goes.
    pub fn next_request(&self) -> u32 {
        self.req_prod
    }

    /// Up to which index the backend says that it has answered.
    pub fn answered(&self) -> u32 {
        self.memory.load(RSP_PROD, Ordering::Acquire)
    }

    /// Up to which index there are requests, as it stands in the ring.
    pub fn produced(&self) -> u32 {
        self.memory.load(REQ_PROD, Ordering::Acquire)
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
        let old = self.memory.load(REQ_PROD, Ordering::Relaxed);
        self.memory.store(REQ_PROD, self.req_prod, Ordering::Release);
        self.memory.fence(Ordering::SeqCst);
        let event = self.memory.load(REQ_EVENT, Ordering::Relaxed);
        self.req_prod.wrapping_sub(event) < self.req_prod.wrapping_sub(old)
    }

    /// The next response.
    ///
    /// # Panics
    /// When the backend says that there are more responses than there were requests: it would end a guest's disk.
    pub fn take(&mut self) -> Option<Response> {
        self.try_take().unwrap_or_else(|index| panic!("responses run ahead of requests: {index}"))
    }

    /// The next response, for one who may have written over the ring himself.
    ///
    /// # Errors
    /// The index up to which there should be responses, where no request was.
    pub fn try_take(&mut self) -> Result<Option<Response>, u32> {
        let produced = self.memory.load(RSP_PROD, Ordering::Acquire);
        if produced.wrapping_sub(self.rsp_cons) > self.req_prod.wrapping_sub(self.rsp_cons) {
            return Err(produced);
        }
        if produced == self.rsp_cons {
            return Ok(None);
        }
        let mut bytes = [0; 16];
        let at = self.abi.slot_offset(self.rsp_cons, self.slots);
        self.memory.copy_out(at, &mut bytes[..self.abi.response_bytes()]);
        self.rsp_cons = self.rsp_cons.wrapping_add(1);
        Ok(Some(Response::decode(&bytes)))
    }

    /// Asks to be told of the next response. True: there is one already.
    pub fn arm(&self) -> bool {
        self.memory.store(RSP_EVENT, self.rsp_cons.wrapping_add(1), Ordering::Relaxed);
        self.memory.fence(Ordering::SeqCst);
        self.memory.load(RSP_PROD, Ordering::Acquire) != self.rsp_cons
    }

    /// Says that there are requests up to this index, whatever is in the slots.
    pub fn set_produced(&self, index: u32) {
        self.memory.store(REQ_PROD, index, Ordering::SeqCst);
    }
}
