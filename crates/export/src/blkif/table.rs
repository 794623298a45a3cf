//! What a ring's requests have become, as one table without pointers: if another process shall go on where this one was
//! killed, this is all that it must find.

use wire::blkif::{RawRequest, Response};

/// What a request has become.
#[derive(Clone, Copy, Debug)]
enum Entry {
    Free,
    /// Taken from the ring; its slot may hold a response by now, so this is the only copy.
    Taken(RawRequest),
    /// Its response is being put at this index.
    Answering(u32, Response),
}

/// The requests of a ring that were taken and are not answered.
#[derive(Debug, Default)]
pub(super) struct Table {
    entries: Vec<Entry>,
    free: Vec<usize>,
}

impl Table {
    pub(super) fn new(slots: u32) -> Table {
        Table { entries: vec![Entry::Free; slots as usize], free: (0..slots as usize).rev().collect() }
    }

    /// Every request that was taken and is not answered, in words: what it asks, with the grants of its pages.
    pub(super) fn describe(&self) -> Vec<String> {
        let words = |entry: &Entry| match entry {
            Entry::Free => None,
            Entry::Taken(request) => Some(format!("{request:?} {:02x?}", request.bytes())),
            Entry::Answering(index, response) => Some(format!("response {index}: {response:?}")),
        };
        self.entries.iter().filter_map(words).collect()
    }

    /// A request was taken; its place in the table.
    ///
    /// # Panics
    /// When more are taken than the ring has slots.
    pub(super) fn take(&mut self, request: RawRequest) -> usize {
        let place = self.free.pop().expect("a ring has no more requests outstanding than slots");
        self.entries[place] = Entry::Taken(request);
        place
    }

    /// A response is about to be put at `index`: written down before it is, since two would end the guest's disk.
    ///
    /// # Panics
    /// When the request is answered already.
    pub(super) fn answering(&mut self, place: usize, index: u32, response: Response) {
        assert!(matches!(self.entries[place], Entry::Taken(_)), "a request is answered once");
        self.entries[place] = Entry::Answering(index, response);
    }

    /// The response is in the ring.
    pub(super) fn answered(&mut self, place: usize) {
        assert!(matches!(self.entries[place], Entry::Answering(..)), "what is answered was about to be");
        self.entries[place] = Entry::Free;
        self.free.push(place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::blkif::{Abi, OperationCode, SLOT_BYTES_MAX, Status};

    const RESPONSE: Response = Response { id: 1, operation: OperationCode::Read, status: Status::Okay };

    #[test]
    fn places_are_used_again() {
        let mut table = Table::new(2);
        let request = RawRequest::new(Abi::X86_64, [0; SLOT_BYTES_MAX]);
        let (first, second) = (table.take(request), table.take(request));
        assert_ne!(first, second);
        table.answering(first, 0, RESPONSE);
        table.answered(first);
        assert_eq!(table.take(request), first);
    }

    #[test]
    #[should_panic(expected = "a request is answered once")]
    fn a_second_answer_shouts() {
        let mut table = Table::new(1);
        let place = table.take(RawRequest::new(Abi::X86_64, [0; SLOT_BYTES_MAX]));
        table.answering(place, 0, RESPONSE);
        table.answering(place, 1, RESPONSE);
    }
}
