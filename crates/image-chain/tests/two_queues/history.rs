//! The oracle: for each cell of the disk, what was written when, and therefore what a read may see.
//!
//! A read may see a write that began before the read ended, unless another write took its place for certain: one that
//! began after the first had ended, and had ended itself before the read began. A write that failed, or whose requester
//! went away, may have happened or not, so it takes nobody's place.

/// Bytes that carry one stamp; four to a sector, so that a lost part of a sector is seen.
pub(crate) const CELL: u64 = 128;

/// What a cell holds: zero, or the number of the write that filled it.
pub(crate) type Stamp = u32;

#[derive(Clone, Copy, Debug)]
struct Event {
    id: usize,
    stamp: Stamp,
    begin: u64,
    /// `None`: it may still happen.
    end: Option<u64>,
    /// It has happened, and what was there before is gone.
    is_certain: bool,
}

/// The histories of all cells, and the present time in steps.
pub(crate) struct History {
    cells: Vec<Vec<Event>>,
    next: usize,
    pub(crate) now: u64,
}

impl History {
    pub(crate) fn new(content: &[Stamp]) -> History {
        let event = |stamp: &Stamp| vec![Event { id: 0, stamp: *stamp, begin: 0, end: Some(0), is_certain: true }];
        History { cells: content.iter().map(event).collect(), next: 1, now: 1 }
    }

    /// A write of `stamp` begins; gives its id.
    pub(crate) fn begin(&mut self, cells: std::ops::Range<usize>, stamp: Stamp) -> usize {
        let event = Event { id: self.next, stamp, begin: self.now, end: None, is_certain: false };
        self.cells[cells].iter_mut().for_each(|cell| cell.push(event));
        self.next += 1;
        event.id
    }

    /// A write has ended; `is_certain`: it took the place of what was there before.
    pub(crate) fn end(&mut self, cells: std::ops::Range<usize>, id: usize, is_certain: bool) {
        for cell in &mut self.cells[cells] {
            let event = cell.iter_mut().find(|event| event.id == id).expect("a write ends after it began");
            event.end = Some(self.now);
            event.is_certain = is_certain;
        }
    }

    /// What a read that began at `begin` and ends now may not see is an error.
    pub(crate) fn check(&self, first: usize, seen: &[Stamp], begin: u64) -> Result<(), String> {
        for (index, stamp) in seen.iter().enumerate() {
            let cell = &self.cells[first + index];
            let is_legal = |event: &Event| event.stamp == *stamp && !self.is_replaced(cell, event, begin);
            if !cell.iter().any(is_legal) {
                return Err(format!("cell {} reads {stamp} from {begin} to {}: {cell:?}", first + index, self.now));
            }
        }
        Ok(())
    }

    fn is_replaced(&self, cell: &[Event], event: &Event, before: u64) -> bool {
        let Some(end) = event.end else { return false };
        cell.iter().any(|later| later.is_certain && later.begin > end && later.end.is_some_and(|end| end < before))
    }

    /// Nothing runs any more, and this is what is there.
    pub(crate) fn settle(&mut self, content: &[Stamp]) {
        let now = self.now;
        *self = History::new(content);
        self.now = now + 1;
    }
}

/// The bytes of a cell.
pub(crate) fn fill(stamp: Stamp, cells: usize) -> Vec<u8> {
    stamp.to_be_bytes().repeat(cells * usize::try_from(CELL).unwrap() / 4)
}

/// The stamps that bytes carry; a cell that is torn is an error.
pub(crate) fn stamps(bytes: &[u8]) -> Result<Vec<Stamp>, String> {
    let stamp_of = |cell: &[u8]| {
        let stamp = Stamp::from_be_bytes(cell[..4].try_into().unwrap());
        if cell == fill(stamp, 1) { Ok(stamp) } else { Err(format!("a torn cell: {cell:?}")) }
    };
    bytes.chunks(usize::try_from(CELL).unwrap()).map(stamp_of).collect()
}

#[test]
fn the_oracle_knows_what_a_read_may_see() {
    let mut history = History::new(&[7]);
    history.now = 10;
    let first = history.begin(0..1, 1);
    history.now = 11;
    assert!(history.check(0, &[7], 10).is_ok() && history.check(0, &[1], 10).is_ok());
    history.end(0..1, first, true);
    history.now = 20;
    assert!(history.check(0, &[7], 11).is_ok(), "the read began before the write had ended");
    assert!(history.check(0, &[7], 15).is_err(), "the old content came back");
    assert!(history.check(0, &[2], 15).is_err(), "nobody wrote this");
    let failed = history.begin(0..1, 3);
    history.end(0..1, failed, false);
    history.now = 30;
    assert!(
        history.check(0, &[1], 29).is_ok() && history.check(0, &[3], 29).is_ok(),
        "a failed write may be there or not"
    );
}
