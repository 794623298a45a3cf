//! Copies between a guest's pages and buffers of ours, many in one call.

use std::sync::Arc;

use block_core::Result;
use storage_io::Buffer;
use wire::blkif::Segment;
use xen::{CopyStatus, DomainId, GrantCopy, GrantRef, Grants, Local};

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    FromGuest,
    ToGuest,
}

/// The pages of one guest.
#[derive(Clone, Debug)]
pub(super) struct Pages {
    pub(super) grants: Arc<dyn Grants>,
    pub(super) domain: DomainId,
}

/// Bytes of some segments.
pub(super) fn length_of(segments: &[Segment]) -> usize {
    segments.iter().map(|segment| usize::from(segment.length())).sum()
}

impl Pages {
    /// Copies between buffers and the segments that belong to each, in one call; says of each buffer whether all of it was
    /// copied.
    ///
    /// # Panics
    /// When a buffer is not as long as its segments.
    pub(super) fn copy<'a>(
        &self,
        way: Way,
        buffers: impl ExactSizeIterator<Item = (&'a mut Buffer, &'a [Segment])>,
    ) -> Vec<bool> {
        let mut whole = vec![true; buffers.len()];
        let (mut batch, mut owners) = (Vec::new(), Vec::new());
        for (owner, (buffer, segments)) in buffers.enumerate() {
            assert_eq!(buffer.len(), length_of(segments), "a buffer is as long as its segments");
            let before = batch.len();
            self.add(way, buffer, segments, &mut batch);
            owners.resize(owners.len() + batch.len() - before, owner);
        }
        match self.carry_out(&mut batch) {
            Ok(()) => {
                let failed = batch.iter().zip(&owners).filter(|(copy, _)| copy.status != CopyStatus::Okay);
                failed.for_each(|(_, owner)| whole[*owner] = false);
            }
            Err(_) => whole.fill(false),
        }
        whole
    }

    /// The copies of one buffer: where its memory ends and goes on elsewhere, so does a copy.
    fn add<'a>(&self, way: Way, buffer: &'a mut Buffer, segments: &[Segment], batch: &mut Vec<GrantCopy<'a>>) {
        let mut parts = buffer.segments_mut();
        let mut part: &mut [u8] = &mut [];
        for segment in segments {
            let (mut offset, mut left) = (segment.offset(), usize::from(segment.length()));
            while left > 0 {
                if part.is_empty() {
                    part = parts.next().expect("a buffer is as long as its segments");
                    continue;
                }
                let length = left.min(part.len());
                let (now, rest) = std::mem::take(&mut part).split_at_mut(length);
                part = rest;
                let local = match way {
                    Way::FromGuest => Local::To(now),
                    Way::ToGuest => Local::From(now),
                };
                batch.push(GrantCopy::new(self.domain, GrantRef(segment.grant()), offset, local));
                offset += u16::try_from(length).expect("a page at most");
                left -= length;
            }
        }
    }

    /// Copies the beginnings of pages of the guest: each the reference, and how many bytes.
    pub(super) fn read_pages(&self, pages: &[(u32, usize)]) -> Vec<Option<Vec<u8>>> {
        let mut contents: Vec<Vec<u8>> = pages.iter().map(|(_, length)| vec![0; *length]).collect();
        let mut batch: Vec<_> = contents
            .iter_mut()
            .zip(pages)
            .map(|(bytes, (grant, _))| GrantCopy::new(self.domain, GrantRef(*grant), 0, Local::To(bytes)))
            .collect();
        let done = self.carry_out(&mut batch).is_ok();
        let okay: Vec<bool> = batch.iter().map(|copy| done && copy.status == CopyStatus::Okay).collect();
        contents.into_iter().zip(okay).map(|(bytes, okay)| okay.then_some(bytes)).collect()
    }

    fn carry_out(&self, batch: &mut [GrantCopy<'_>]) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        self.grants.copy(batch)
    }
}
