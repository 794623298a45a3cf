//! The data of one request: pages of the guest, granted while the request runs.

use block_core::Result;
use wire::blkif::{INDIRECT_PAGES_MAX, SEGMENT_BYTES, SEGMENTS_PER_PAGE, Segment};
use xen::{
    Access, DomainId, GrantRef, PAGE_BYTES,
    hosted::{EndAccess, Guest},
};

const PAGE_SECTORS: usize = PAGE_BYTES / 512;

/// Granted pages with sectors in them, one segment each.
#[derive(Debug)]
pub(crate) struct Data {
    guest: Guest,
    pages: Vec<(u32, GrantRef)>,
    sectors: usize,
}

impl Data {
    /// Pages for so many sectors.
    pub(crate) fn new(guest: &Guest, backend: DomainId, sectors: usize, access: Access) -> Result<Data> {
        let count = sectors.div_ceil(PAGE_SECTORS);
        let mut data = Data { guest: guest.clone(), pages: Vec::with_capacity(count), sectors };
        for _ in 0..count {
            let page = guest.allocate_page()?;
            data.pages.push((page, guest.grant(page, backend, access)?));
        }
        Ok(data)
    }

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
            self.guest.memory().copy_in(*page as usize * PAGE_BYTES, part);
        }
    }

    /// What the pages hold, in order.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.sectors * 512];
        for ((page, _), part) in self.pages.iter().zip(bytes.chunks_mut(PAGE_BYTES)) {
            self.guest.memory().copy_out(*page as usize * PAGE_BYTES, part);
        }
        bytes
    }

    /// Takes the pages back; says how many somebody still uses, which are lost.
    pub(crate) fn release(self) -> Result<u64> {
        let mut stray = 0;
        for (page, grant) in self.pages {
            match self.guest.end_access(grant)? {
                EndAccess::Ended => self.guest.free_page(page),
                EndAccess::InUse => stray += 1,
            }
        }
        Ok(stray)
    }
}

/// Pages that name the segments of an indirect request.
#[derive(Debug)]
pub(crate) struct SegmentPages(Data);

impl SegmentPages {
    pub(crate) fn new(guest: &Guest, backend: DomainId, segments: &[Segment]) -> Result<SegmentPages> {
        let pages = segments.len().div_ceil(SEGMENTS_PER_PAGE);
        let data = Data::new(guest, backend, pages * PAGE_SECTORS, Access::Read)?;
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
