//! What a ring's requests have become, as one table without pointers: if another process shall go on where this one was
//! killed, this is all that it must find.

use storage_io::{Moment, RunningOperation};
use wire::blkif::{INDIRECT_PAGES_MAX, Limits, RawRequest, Request, RequestBody, Response, SEGMENTS_PER_PAGE, Segment};
use xen::DomainId;

/// What a request has become.
#[derive(Clone, Copy, Debug)]
enum Entry {
    Free,
    /// Taken from the ring, and when; its slot may hold a response by now, so this is the only copy.
    Taken(RawRequest, Moment),
    /// Its response is being put at this index; when it was taken.
    Answering(u32, Response, Moment),
}

/// Everything that a slot can ask for.
const ANYTHING: Limits = Limits {
    flush: true,
    barrier: true,
    discard: true,
    #[allow(clippy::cast_possible_truncation, reason = "eight times 512")]
    indirect_segments: (INDIRECT_PAGES_MAX * SEGMENTS_PER_PAGE) as u16,
};

/// The requests of a ring that were taken and are not answered.
#[derive(Debug, Default)]
pub(super) struct Table {
    entries: Vec<Entry>,
    free: Vec<usize>,
    /// Of each place the grants of the data of an indirect request: the guest may have changed the pages that name them.
    indirect: Vec<Vec<u32>>,
}

impl Table {
    pub(super) fn new(slots: u32) -> Table {
        let slots = slots as usize;
        Table { entries: vec![Entry::Free; slots], free: (0..slots).rev().collect(), indirect: vec![Vec::new(); slots] }
    }

    /// Every request of a guest that was taken and is not answered: what it asks, with the grants of its pages.
    pub(super) fn describe(&self, domain: DomainId) -> Vec<RunningOperation> {
        let words = |(entry, indirect): (&Entry, &Vec<u32>)| match entry {
            Entry::Free => None,
            Entry::Taken(request, since) => {
                Some((format!("request {:#x}: {}", request.id(), words(request, indirect)), *since))
            }
            Entry::Answering(index, Response { id, status, .. }, since) => {
                Some((format!("request {id:#x}: answering {status:?} at {index}"), *since))
            }
        };
        let all = self.entries.iter().zip(&self.indirect).filter_map(words);
        all.map(|(words, since)| RunningOperation { what: format!("domain {domain}: {words}"), since }).collect()
    }

    /// Whether all that was taken has been answered.
    pub(super) fn is_empty(&self) -> bool {
        self.free.len() == self.entries.len()
    }

    /// A request was taken; its place in the table.
    ///
    /// # Panics
    /// When more are taken than the ring has slots.
    pub(super) fn take(&mut self, request: RawRequest, now: Moment) -> usize {
        let place = self.free.pop().expect("a ring has no more requests outstanding than slots");
        self.entries[place] = Entry::Taken(request, now);
        self.indirect[place].clear();
        place
    }

    /// An indirect request turned out to have these segments.
    pub(super) fn has_segments(&mut self, place: usize, segments: &[Segment]) {
        self.indirect[place].extend(segments.iter().map(|segment| segment.grant()));
    }

    /// A response is about to be put at `index`: written down before it is, since two would end the guest's disk.
    ///
    /// # Panics
    /// When the request is answered already.
    pub(super) fn answering(&mut self, place: usize, index: u32, response: Response) {
        let Entry::Taken(_, since) = self.entries[place] else { panic!("a request is answered once") };
        self.entries[place] = Entry::Answering(index, response, since);
    }

    /// The response is in the ring.
    pub(super) fn answered(&mut self, place: usize) {
        assert!(matches!(self.entries[place], Entry::Answering(..)), "what is answered was about to be");
        self.entries[place] = Entry::Free;
        self.free.push(place);
    }
}

/// What a request asks, and which pages of the guest it is about.
fn words(request: &RawRequest, indirect: &[u32]) -> String {
    let Ok(Request { operation, body, .. }) = request.check(&ANYTHING) else {
        return format!("{:?}, which makes no sense", request.operation());
    };
    let grants = |segments: &[Segment]| segments.iter().map(|segment| segment.grant()).collect::<Vec<_>>();
    match body {
        RequestBody::Transfer { sector, segments, .. }
        | RequestBody::Flush { sector, segments }
        | RequestBody::Barrier { sector, segments } => {
            format!("{operation:?} at sector {sector}, grants {:?}", grants(&segments))
        }
        RequestBody::Indirect { sector, pages, .. } => {
            let pages: Vec<u32> = pages.pages().map(|(grant, _)| grant).collect();
            format!("{operation:?} at sector {sector}, grants {indirect:?} named by {pages:?}")
        }
        RequestBody::Discard { sector, sectors, .. } => format!("{operation:?} of {sectors} sectors at {sector}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::blkif::{Abi, OperationCode, SLOT_BYTES_MAX, Status};

    const RESPONSE: Response = Response { id: 1, operation: OperationCode::Read, status: Status::Okay };

    fn now() -> Moment {
        storage_io::SimulatedClock::new().now()
    }

    #[test]
    fn places_are_used_again() {
        let mut table = Table::new(2);
        let request = RawRequest::new(Abi::X86_64, [0; SLOT_BYTES_MAX]);
        let (first, second) = (table.take(request, now()), table.take(request, now()));
        assert_ne!(first, second);
        table.answering(first, 0, RESPONSE);
        table.answered(first);
        assert_eq!(table.take(request, now()), first);
    }

    #[test]
    #[should_panic(expected = "a request is answered once")]
    fn a_second_answer_shouts() {
        let mut table = Table::new(1);
        let place = table.take(RawRequest::new(Abi::X86_64, [0; SLOT_BYTES_MAX]), now());
        table.answering(place, 0, RESPONSE);
        table.answering(place, 1, RESPONSE);
    }
}
