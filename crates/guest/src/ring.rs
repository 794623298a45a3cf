//! A ring in pages of a guest, granted to its backend.

use std::{
    ops::{Deref, DerefMut},
    sync::Arc,
};

use block_core::{Error, ErrorKind, Result};
use wire::blkif::Abi;
use xen::{Access, DomainId, EndAccess, GrantRef, Kernel, SharedMemory};

use crate::half::FrontHalf;

/// A ring in pages of a guest, granted to its backend.
#[derive(Debug)]
pub struct FrontRing {
    kernel: Arc<dyn Kernel>,
    half: FrontHalf<SharedMemory>,
    pages: Vec<u32>,
    grants: Vec<GrantRef>,
}

impl FrontRing {
    /// A ring of two to the power of `order` pages.
    ///
    /// # Errors
    /// `Invalid` if rings are never so large, or what the guest has run out of.
    pub fn new(kernel: &(impl Kernel + Clone + 'static), backend: DomainId, abi: Abi, order: u32) -> Result<FrontRing> {
        let slots = abi.slots(order).ok_or_else(|| Error::new(ErrorKind::Invalid, "no ring is so large"))?;
        let (pages, grants): (Vec<u32>, Vec<GrantRef>) = granted(kernel, backend, 1 << order)?.into_iter().unzip();
        let memory = kernel.map_pages(&pages)?;
        memory.copy_in(0, &vec![0; memory.length()]);
        let half = FrontHalf::new(memory, abi, slots);
        Ok(FrontRing { kernel: Arc::new(kernel.clone()), half, pages, grants })
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
            if self.kernel.take_back(page, grant)? == EndAccess::InUse {
                in_use += 1;
            }
        }
        Ok(in_use)
    }
}

/// So many pages, or none.
fn granted(kernel: &impl Kernel, backend: DomainId, count: usize) -> Result<Vec<(u32, GrantRef)>> {
    let mut pages = Vec::with_capacity(count);
    while pages.len() < count {
        match kernel.grant_page(backend, Access::Write) {
            Ok(page) => pages.push(page),
            Err(error) => {
                for (page, grant) in pages {
                    // Nobody has seen it; why there is no other is what matters.
                    let _ = kernel.take_back(page, grant);
                }
                return Err(error);
            }
        }
    }
    Ok(pages)
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
