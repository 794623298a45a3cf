//! What a tapdisk tells of a device, until somebody takes note.

use std::{cell::RefCell, rc::Rc};

use control_api::native::{Geometry, RingEvent, RingOperation};
use storage_io::Signal;

/// What a tapdisk has told of a device's rings and nobody has taken note of. The newest counts, so whoever tells a lot
/// costs no memory.
#[derive(Debug)]
pub struct Reports {
    told: RefCell<Told>,
    came: Rc<Signal>,
}

#[derive(Debug, Default)]
struct Told {
    geometry: Option<Geometry>,
    unsupported: Vec<RingOperation>,
    broken: Option<String>,
    has_ended: bool,
}

/// One thing that was told.
#[derive(Debug, PartialEq)]
pub(crate) enum Report {
    Event(RingEvent),
    /// The rings are not connected any more, and it was not we who disconnected them.
    Ended,
}

impl Reports {
    pub(crate) fn new(came: &Rc<Signal>) -> Rc<Reports> {
        Rc::new(Reports { told: RefCell::default(), came: came.clone() })
    }

    /// Takes note of what was told.
    pub fn put(&self, event: RingEvent) {
        let mut told = self.told.borrow_mut();
        match event {
            RingEvent::Resized { geometry } => told.geometry = Some(geometry),
            RingEvent::Unsupported { operation } if told.unsupported.contains(&operation) => {}
            RingEvent::Unsupported { operation } => told.unsupported.push(operation),
            RingEvent::Broken { reason } => told.broken = Some(reason),
        }
        drop(told);
        self.came.notify();
    }

    pub(crate) fn end(&self) {
        self.told.borrow_mut().has_ended = true;
        self.came.notify();
    }

    pub(crate) fn take(&self) -> Option<Report> {
        let mut told = self.told.borrow_mut();
        if let Some(geometry) = told.geometry.take() {
            return Some(Report::Event(RingEvent::Resized { geometry }));
        }
        if let Some(operation) = told.unsupported.pop() {
            return Some(Report::Event(RingEvent::Unsupported { operation }));
        }
        if let Some(reason) = told.broken.take() {
            return Some(Report::Event(RingEvent::Broken { reason }));
        }
        std::mem::take(&mut told.has_ended).then_some(Report::Ended)
    }

    pub(crate) fn is_empty(&self) -> bool {
        let told = self.told.borrow();
        told.geometry.is_none() && told.unsupported.is_empty() && told.broken.is_none() && !told.has_ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_counts_and_nothing_piles_up() {
        let reports = Reports::new(&Rc::default());
        for bytes in 0..1000 {
            let geometry = Geometry { bytes, ..Geometry::default() };
            reports.put(RingEvent::Resized { geometry });
            reports.put(RingEvent::Unsupported { operation: RingOperation::Flush });
            reports.put(RingEvent::Broken { reason: bytes.to_string() });
        }
        reports.end();
        let taken: Vec<Report> = std::iter::from_fn(|| reports.take()).collect();
        assert_eq!(taken.len(), 4);
        assert_eq!(taken[2], Report::Event(RingEvent::Broken { reason: "999".into() }));
        assert!(taken[3] == Report::Ended && reports.is_empty());
    }
}
