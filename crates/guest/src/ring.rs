//! A ring in pages of a guest, granted to its backend.

use std::ops::{Deref, DerefMut};

use block_core::{Error, ErrorKind, Result};
use wire::blkif::Abi;
use xen::{
    Access, DomainId, GrantRef, SharedMemory,
    hosted::{EndAccess, Guest},
};

use crate::half::FrontHalf;

/// A ring in pages of a guest, granted to its backend.
#[derive(Debug)]
pub struct FrontRing {
    guest: Guest,
    half: FrontHalf<SharedMemory>,
    pages: Vec<u32>,
    grants: Vec<GrantRef>,
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
        let half = FrontHalf::new(memory, abi, slots);
        let grants = pages.iter().map(|page| guest.grant(*page, backend, Access::Write)).collect::<Result<Vec<_>>>()?;
        Ok(FrontRing { guest: guest.clone(), half, pages, grants })
    }

    /// The grants of its pages, in order.
    pub fn grants(&self) -> &[GrantRef] {
        &self.grants
    }

    /// Its pages in the guest's memory, in order.
    pub fn pages(&self) -> &[u32] {
        &self.pages
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

impl Deref for FrontRing {
    type Target = FrontHalf<SharedMemory>;

    fn deref(&self) -> &FrontHalf<SharedMemory> {
        &self.half
    }
}

impl DerefMut for FrontRing {
    fn deref_mut(&mut self) -> &mut FrontHalf<SharedMemory> {
        &mut self.half
    }
}
