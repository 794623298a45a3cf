//! Copies between a guest's pages and buffers of ours, many in one call.

use std::{cell::RefCell, rc::Rc, sync::Arc};

use storage_io::{Buffer, Moment};
use wire::blkif::Segment;
use xen::{CopyStatus, DomainId, GrantCopy, GrantRef, Grants, Local, budget::Share};

use super::{controls::RingCounters, kept::KeptPages};

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    FromGuest,
    ToGuest,
}

/// The pages of one guest. Whatever way a byte takes, it is copied once.
#[derive(Debug)]
pub(super) struct Pages {
    grants: Arc<dyn Grants>,
    domain: DomainId,
    /// Those that stay mapped, if the guest has agreed.
    kept: Option<Rc<RefCell<KeptPages>>>,
    /// Segments that were copied by the hypervisor, and through pages that stay mapped.
    copied: [u64; 2],
    /// How many are copied in one call, at most.
    at_once: usize,
    /// Empty between calls; they keep their memory.
    batch: Vec<GrantCopy<'static>>,
    owners: Vec<usize>,
    whole: Vec<bool>,
}

/// Bytes of some segments.
pub(super) fn length_of(segments: &[Segment]) -> usize {
    segments.iter().map(|segment| usize::from(segment.length())).sum()
}

/// An empty vector with the memory of another.
fn emptied<'a>(mut batch: Vec<GrantCopy<'_>>) -> Vec<GrantCopy<'a>> {
    batch.clear();
    batch.into_iter().map(|_| unreachable!("it is empty")).collect()
}

impl Pages {
    pub(super) fn new(grants: Arc<dyn Grants>, domain: DomainId, kept: Option<Rc<RefCell<KeptPages>>>) -> Pages {
        let (batch, owners, whole) = Default::default();
        Pages { grants, domain, kept, copied: [0; 2], at_once: usize::MAX, batch, owners, whole }
    }

    /// The share in the host's budget, if there is one.
    pub(super) fn share(&self) -> Option<&Share> {
        self.grants.share()
    }

    /// From now on, no more are copied in one call.
    pub(super) fn copy_at_once(&mut self, count: usize) {
        self.at_once = count;
    }

    /// How many of these pages the hypervisor may be asked to copy.
    pub(super) fn to_copy(&self, segments: &[Segment]) -> u32 {
        let count = match &self.kept {
            None => segments.len(),
            Some(kept) => {
                let kept = kept.borrow();
                segments.iter().filter(|segment| !kept.has(GrantRef(segment.grant()))).count()
            }
        };
        u32::try_from(count).expect("few")
    }

    /// Counts what was copied.
    pub(super) fn count(&self, counters: &mut RingCounters) {
        [counters.grant_copies, counters.mapped_copies] = self.copied;
    }

    /// Copies between buffers and the segments that belong to each, in one call. [`is_whole`](Self::is_whole) says of each
    /// whether all of it was copied.
    ///
    /// # Panics
    /// When a buffer is not as long as its segments.
    pub(super) fn copy<'a>(
        &mut self,
        way: Way,
        now: Moment,
        buffers: impl Iterator<Item = (&'a mut Buffer, &'a [Segment])>,
    ) {
        let mut batch = self.begin();
        for (buffer, segments) in buffers {
            assert_eq!(buffer.len(), length_of(segments), "a buffer is as long as its segments");
            self.add(way, now, buffer, segments, &mut batch);
            self.added(batch.len());
        }
        self.carry_out(batch);
    }

    /// Copies the beginnings of pages of the guest, one behind the other: each the reference, and how many bytes.
    ///
    /// # Panics
    /// When there are fewer bytes.
    pub(super) fn read_pages(&mut self, now: Moment, pages: &[(u32, usize)], mut bytes: &mut [u8]) {
        let mut batch = self.begin();
        for (grant, length) in pages {
            let (piece, rest) = std::mem::take(&mut bytes).split_at_mut(*length);
            bytes = rest;
            let copy = GrantCopy::new(self.domain, GrantRef(*grant), 0, Local::To(piece));
            batch.extend(self.copy_mapped(copy, now));
            self.added(batch.len());
        }
        self.carry_out(batch);
    }

    /// Whether all of what was named in this place in the last call was copied.
    pub(super) fn is_whole(&self, place: usize) -> bool {
        self.whole[place]
    }

    fn begin<'a>(&mut self) -> Vec<GrantCopy<'a>> {
        self.owners.clear();
        self.whole.clear();
        emptied(std::mem::take(&mut self.batch))
    }

    /// The next owner has added its copies to the batch, which has so many now.
    fn added(&mut self, copies: usize) {
        self.owners.resize(copies, self.whole.len());
        self.whole.push(true);
    }

    /// The one place where the hypervisor is asked to copy.
    fn carry_out(&mut self, mut batch: Vec<GrantCopy<'_>>) {
        let mut owners = self.owners.as_slice();
        for piece in batch.chunks_mut(self.at_once) {
            let is_begun = self.grants.copy(piece).is_ok();
            let (own, rest) = owners.split_at(piece.len());
            owners = rest;
            for (copy, owner) in piece.iter().zip(own) {
                if !is_begun || copy.status != CopyStatus::Okay {
                    self.whole[*owner] = false;
                }
            }
        }
        self.batch = emptied(batch);
    }

    /// The copies of one buffer, but those through pages that are mapped: they are made at once. Where its memory ends and
    /// goes on elsewhere, so does a copy.
    fn add<'a>(
        &mut self,
        way: Way,
        now: Moment,
        buffer: &'a mut Buffer,
        segments: &[Segment],
        batch: &mut Vec<GrantCopy<'a>>,
    ) {
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
                let (piece, rest) = std::mem::take(&mut part).split_at_mut(length);
                part = rest;
                let local = match way {
                    Way::FromGuest => Local::To(piece),
                    Way::ToGuest => Local::From(piece),
                };
                let copy = GrantCopy::new(self.domain, GrantRef(segment.grant()), offset, local);
                batch.extend(self.copy_mapped(copy, now));
                offset += u16::try_from(length).expect("a page at most");
                left -= length;
            }
        }
    }

    /// Makes a copy through a page that is mapped, or gives it back.
    fn copy_mapped<'a>(&mut self, mut copy: GrantCopy<'a>, now: Moment) -> Option<GrantCopy<'a>> {
        let is_done = self.kept.as_ref().is_some_and(|kept| {
            let offset = usize::from(copy.offset);
            kept.borrow_mut().copy(copy.grant, now, |memory| match &mut copy.local {
                Local::To(bytes) => memory.copy_out(offset, bytes),
                Local::From(bytes) => memory.copy_in(offset, bytes),
            })
        });
        self.copied[usize::from(is_done)] += 1;
        (!is_done).then_some(copy)
    }
}
