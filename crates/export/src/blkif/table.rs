//! What a ring's requests have become. What somebody must know who goes on where this process was killed is written into the
//! ring's [`Record`] as well, if it has one.

use storage_io::{Moment, RunningOperation};
use wire::blkif::{INDIRECT_PAGES_MAX, Limits, RawRequest, Request, RequestBody, Response, SEGMENTS_PER_PAGE, Segment};
use xen::{DomainId, SharedMemory, Words};

use super::record::{Record, Remembered};

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
pub(super) const ANYTHING: Limits = Limits {
    flush: true,
    barrier: true,
    discard: true,
    #[allow(clippy::cast_possible_truncation, reason = "eight times 512")]
    indirect_segments: (INDIRECT_PAGES_MAX * SEGMENTS_PER_PAGE) as u16,
};

/// The requests of a ring that were taken and are not answered.
#[derive(Debug)]
pub(super) struct Table<M = SharedMemory> {
    entries: Vec<Entry>,
    free: Vec<usize>,
    /// Of each place the grants of the data of an indirect request: the guest may have changed the pages that name them.
    indirect: Vec<Vec<u32>>,
    /// Requests that were ever taken, and that were answered; a ring's indices are the lower halves.
    taken: u64,
    given: u64,
    record: Option<Record<M>>,
}

impl<M> Default for Table<M> {
    fn default() -> Self {
        let (entries, free, indirect) = Default::default();
        Table { entries, free, indirect, taken: 0, given: 0, record: None }
    }
}

impl<M: Words> Table<M> {
    /// The table of a ring in which everything is answered, as many as `given` say.
    pub(super) fn new(slots: u32, given: u64, record: Option<Record<M>>) -> Table<M> {
        let slots = slots as usize;
        Table {
            entries: vec![Entry::Free; slots],
            free: (0..slots).rev().collect(),
            indirect: vec![Vec::new(); slots],
            taken: given,
            given,
            record,
        }
    }

    /// The table of a ring that somebody else has served, as he has left it.
    pub(super) fn adopted(slots: u32, record: Record<M>, remembered: &Remembered, now: Moment) -> Table<M> {
        let mut table = Table { taken: remembered.taken, ..Table::new(slots, remembered.given, Some(record)) };
        for unanswered in &remembered.unanswered {
            table.entries[unanswered.place] = Entry::Taken(unanswered.request, now);
        }
        let entries = &table.entries;
        table.free.retain(|place| matches!(entries[*place], Entry::Free));
        table
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

    /// Requests were taken; their places in the table. Nothing may be done for them before that.
    ///
    /// # Panics
    /// When more are taken than the ring has slots.
    pub(super) fn take(&mut self, requests: &[RawRequest], now: Moment, mut each: impl FnMut(usize)) {
        for request in requests {
            let place = self.free.pop().expect("a ring has no more requests outstanding than slots");
            self.entries[place] = Entry::Taken(*request, now);
            self.indirect[place].clear();
            if let Some(record) = &self.record {
                record.take(place, self.taken, request);
            }
            self.taken += 1;
            each(place);
        }
        if let Some(record) = &self.record {
            record.taken(self.taken);
        }
    }

    /// An indirect request turned out to have these segments.
    pub(super) fn has_segments(&mut self, place: usize, segments: &[Segment]) {
        self.indirect[place].extend(segments.iter().map(|segment| segment.grant()));
    }

    /// A response is about to be put into the ring, behind those that were: written down before it is, since two would end
    /// the guest's disk.
    ///
    /// # Panics
    /// When the request is answered already.
    pub(super) fn answering(&mut self, place: usize, response: Response) {
        let Entry::Taken(_, since) = self.entries[place] else { panic!("a request is answered once") };
        let index = ring_index(self.given);
        self.entries[place] = Entry::Answering(index, response, since);
        if let Some(record) = &self.record {
            record.answering(place, self.given);
        }
        self.given += 1;
    }

    /// All those responses are in the ring, and the guest may see them.
    pub(super) fn answered(&mut self, places: impl Iterator<Item = usize>) {
        if let Some(record) = &self.record {
            record.given(self.given);
        }
        for place in places {
            assert!(matches!(self.entries[place], Entry::Answering(..)), "what is answered was about to be");
            self.entries[place] = Entry::Free;
            self.free.push(place);
            if let Some(record) = &self.record {
                record.free(place);
            }
        }
    }
}

/// What a count of all requests is in the ring.
pub(super) fn ring_index(count: u64) -> u32 {
    #[allow(clippy::cast_possible_truncation, reason = "indices wrap")]
    let index = count as u32;
    index
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

    fn table(slots: u32) -> Table {
        Table::new(slots, 0, None)
    }

    fn take(table: &mut Table, count: usize) -> Vec<usize> {
        let mut places = Vec::new();
        let request = RawRequest::new(Abi::X86_64, [0; SLOT_BYTES_MAX]);
        table.take(&vec![request; count], now(), |place| places.push(place));
        places
    }

    #[test]
    fn places_are_used_again() {
        let mut table = table(2);
        let places = take(&mut table, 2);
        assert_ne!(places[0], places[1]);
        table.answering(places[0], RESPONSE);
        table.answered([places[0]].into_iter());
        assert_eq!(take(&mut table, 1), [places[0]]);
    }

    #[test]
    #[should_panic(expected = "a request is answered once")]
    fn a_second_answer_shouts() {
        let mut table = table(1);
        let places = take(&mut table, 1);
        table.answering(places[0], RESPONSE);
        table.answering(places[0], RESPONSE);
    }
}
