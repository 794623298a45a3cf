//! The data of requests: pages of the guest, granted while a request runs, or for good.

use std::{
    cell::{Cell, RefCell},
    sync::Arc,
};

use block_core::Result;
use wire::blkif::{INDIRECT_PAGES_MAX, SEGMENT_BYTES, SEGMENTS_PER_PAGE, Segment};
use xen::{Access, DomainId, EndAccess, GrantRef, Kernel, PAGE_BYTES};

const PAGE_SECTORS: usize = PAGE_BYTES / 512;

/// Where the pages of requests come from and go to: granted for one request each, or granted once and used again and again.
#[derive(Debug)]
pub(crate) struct DataPages {
    kernel: Arc<dyn Kernel>,
    backend: DomainId,
    /// Pages stay granted, for reading and writing.
    are_kept: Cell<bool>,
    /// Those that no request uses.
    unused: RefCell<Vec<(u32, GrantRef)>>,
}

impl DataPages {
    pub(crate) fn new(kernel: Arc<dyn Kernel>, backend: DomainId, are_kept: bool) -> DataPages {
        DataPages { kernel, backend, are_kept: Cell::new(are_kept), unused: RefCell::default() }
    }

    /// From now on pages stay granted, or not.
    pub(crate) fn keep(&self, are_kept: bool) {
        self.are_kept.set(are_kept);
    }

    /// Pages for so many sectors.
    pub(crate) fn take(&self, sectors: usize, access: Access) -> Result<Data> {
        let count = sectors.div_ceil(PAGE_SECTORS);
        let mut data = Data { kernel: self.kernel.clone(), pages: Vec::with_capacity(count), sectors };
        for _ in 0..count {
            // The one that was used last: the backend has it at hand.
            let unused = if self.are_kept.get() { self.unused.borrow_mut().pop() } else { None };
            data.pages.push(unused.map_or_else(|| self.grant(access), Ok)?);
        }
        Ok(data)
    }

    fn grant(&self, access: Access) -> Result<(u32, GrantRef)> {
        let access = if self.are_kept.get() { Access::Write } else { access };
        self.kernel.grant_page(self.backend, access)
    }

    /// The pages of a request that has ended; says how many somebody still uses although they were granted for it alone.
    pub(crate) fn give_back(&self, data: Data) -> Result<u64> {
        if !self.are_kept.get() {
            return data.release();
        }
        self.unused.borrow_mut().extend(data.pages);
        Ok(0)
    }

    /// Takes back what stays granted and no request uses; says how many somebody still uses, which are lost.
    pub(crate) fn end(&self) -> Result<u64> {
        Data { kernel: self.kernel.clone(), pages: self.unused.take(), sectors: 0 }.release()
    }
}

/// Granted pages with sectors in them, one segment each.
#[derive(Debug)]
pub(crate) struct Data {
    kernel: Arc<dyn Kernel>,
    pages: Vec<(u32, GrantRef)>,
    sectors: usize,
}

impl Data {
    pub(crate) fn segments(&self) -> Vec<Segment> {
        let last = |index: usize| (self.sectors - index * PAGE_SECTORS).min(PAGE_SECTORS) - 1;
        let all = self.pages.iter().enumerate();
        all.map(|(index, (_, grant))| {
            let last = u8::try_from(last(index)).expect("a page has eight sectors");
            Segment::new(grant.0, 0, last).expect("sectors of a page")
        })
        .collect()
    }

    /// Puts bytes into the pages, in order.
    pub(crate) fn fill(&self, bytes: &[u8]) {
        for ((page, _), part) in self.pages.iter().zip(bytes.chunks(PAGE_BYTES)) {
            self.kernel.copy_in(*page, part);
        }
    }

    /// What the pages hold, in order.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.sectors * 512];
        for ((page, _), part) in self.pages.iter().zip(bytes.chunks_mut(PAGE_BYTES)) {
            self.kernel.copy_out(*page, part);
        }
        bytes
    }

    /// Takes the pages back; says how many somebody still uses, which are lost.
    pub(crate) fn release(self) -> Result<u64> {
        self.take_back(|kernel, page, grant| kernel.take_back(page, grant))
    }

    /// The same, from a backend that has not said that it is done with them.
    pub(crate) fn retire(self) -> Result<u64> {
        self.take_back(|kernel, page, grant| kernel.retire(page, grant))
    }

    fn take_back(self, take: impl Fn(&dyn Kernel, u32, GrantRef) -> Result<EndAccess>) -> Result<u64> {
        let mut stray = 0;
        for (page, grant) in self.pages {
            if take(&*self.kernel, page, grant)? == EndAccess::InUse {
                stray += 1;
            }
        }
        Ok(stray)
    }
}

/// Pages that name the segments of an indirect request.
#[derive(Debug)]
pub(crate) struct SegmentPages(Data);

impl SegmentPages {
    pub(crate) fn new(from: &DataPages, segments: &[Segment]) -> Result<SegmentPages> {
        let pages = segments.len().div_ceil(SEGMENTS_PER_PAGE);
        let data = from.take(pages * PAGE_SECTORS, Access::Read)?;
        let bytes: Vec<u8> = segments.iter().flat_map(|segment| segment.encode()).collect();
        debug_assert_eq!(bytes.len(), segments.len() * SEGMENT_BYTES);
        data.fill(&bytes);
        Ok(SegmentPages(data))
    }

    pub(crate) fn grants(&self) -> [u32; INDIRECT_PAGES_MAX] {
        let mut grants = [0; INDIRECT_PAGES_MAX];
        grants.iter_mut().zip(&self.0.pages).for_each(|(place, (_, grant))| *place = grant.0);
        grants
    }

    pub(crate) fn into_data(self) -> Data {
        self.0
    }
}
