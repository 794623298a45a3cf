//! A ring whose traffic is counted, as those see it who look at one guest among many: what it asks of the disk, how long
//! that takes, and what has become of it.

use std::{
    rc::Rc,
    task::{Context, Poll},
};

use block_core::{SECTOR, Tag};
use storage_io::{Executor, Moment};
use virtual_disk::{Geometry, Operation, Outcome, Request, RequestSource};

use super::{
    controls::Controls,
    source::RingSource,
    status::{RingTraffic, SideTraffic},
};

/// A ring as the disk is given it.
pub(super) struct MeteredRing {
    source: RingSource,
    controls: Rc<Controls>,
    executor: Executor,
    traffic: RingTraffic,
    /// By tag: what the disk has, and since when.
    running: Vec<Option<(Side, Moment)>>,
    /// Read once for what comes together.
    now: Option<Moment>,
}

#[derive(Clone, Copy, Debug)]
enum Side {
    Read,
    Write,
}

impl MeteredRing {
    pub(super) fn new(source: RingSource, controls: Rc<Controls>, executor: &Executor) -> MeteredRing {
        let (traffic, running) = (RingTraffic::default(), Vec::new());
        MeteredRing { source, controls, executor: executor.clone(), traffic, running, now: None }
    }

    /// The ring itself.
    pub(super) fn into_source(self) -> RingSource {
        self.source
    }

    fn begin(&mut self, request: &Request) {
        let (side, range) = match &request.operation {
            Operation::Read { range, .. } => (Side::Read, range),
            Operation::Write { range, .. } => (Side::Write, range),
            _ => return,
        };
        let sectors = range.length() / SECTOR;
        let counted = self.side(side);
        (counted.begun, counted.sectors) = (counted.begun + 1, counted.sectors + sectors);
        let place = place(request.tag);
        if self.running.len() <= place {
            self.running.resize(place + 1, None);
        }
        self.running[place] = Some((side, self.now()));
    }

    fn end(&mut self, tag: Tag, outcome: &Outcome) {
        self.traffic.errors += u64::from(matches!(outcome, Outcome::Failed(_)));
        let Some((side, since)) = self.running.get_mut(place(tag)).and_then(Option::take) else { return };
        let took = u64::try_from((self.now() - since).as_micros()).unwrap_or(u64::MAX);
        let counted = self.side(side);
        (counted.ended, counted.microseconds) = (counted.ended + 1, counted.microseconds + took);
    }

    fn side(&mut self, side: Side) -> &mut SideTraffic {
        match side {
            Side::Read => &mut self.traffic.read,
            Side::Write => &mut self.traffic.write,
        }
    }

    fn now(&mut self) -> Moment {
        *self.now.get_or_insert_with(|| self.executor.now())
    }

    /// Shows other threads where the ring is.
    fn show(&mut self) {
        self.now = None;
        self.controls.show();
        self.controls.status.publish_traffic(self.traffic);
    }
}

/// Tags of a ring are few and small.
fn place(tag: Tag) -> usize {
    usize::try_from(tag.0).expect("tags are places of a table")
}

impl RequestSource for MeteredRing {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Request>> {
        let next = self.source.poll_next(cx);
        match &next {
            Poll::Ready(Some(request)) => self.begin(request),
            Poll::Ready(None) | Poll::Pending => self.show(),
        }
        next
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.source.poll_gone(cx)
    }

    fn answer(&mut self, tag: Tag, outcome: Outcome) {
        self.end(tag, &outcome);
        self.source.answer(tag, outcome);
    }

    fn publish(&mut self) {
        self.source.publish();
        self.show();
    }

    fn rests(&self) -> bool {
        self.source.rests()
    }

    fn resized(&mut self, geometry: &Geometry) {
        self.source.resized(geometry);
    }
}
