//! What a ring has done and holds, published by its queue's thread for any other to read.
//!
//! One thread writes, so nothing is locked and nothing is added up twice; a reader may see one figure newer than another.

use std::{
    iter::Sum,
    ops::Add,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use storage_io::Moment;

use super::{RingCounters, RingPages};

/// What a ring has done and holds.
#[derive(Debug, Default)]
pub struct RingStatus {
    counters: Figures<COUNTERS>,
    pages: Figures<PAGES>,
    traffic: Figures<TRAFFIC>,
    /// Nanoseconds of the clock of all executors; 0: not yet.
    first_request: AtomicU64,
    last_answer: AtomicU64,
}

/// Reads or writes of a guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SideTraffic {
    /// Requests that were given to the disk.
    pub begun: u64,
    /// Requests that the disk has answered.
    pub ended: u64,
    /// Sectors of those that were begun.
    pub sectors: u64,
    /// How long those took that have ended, all together.
    pub microseconds: u64,
}

/// What a guest has moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingTraffic {
    /// To the guest.
    pub read: SideTraffic,
    /// To the disk.
    pub write: SideTraffic,
    /// Requests of any kind that have failed.
    pub errors: u64,
}

const COUNTERS: usize = 8;
const PAGES: usize = 4;
const TRAFFIC: usize = 9;

impl RingStatus {
    /// What it has done.
    pub fn counters(&self) -> RingCounters {
        RingCounters::from_figures(self.counters.load())
    }

    /// The pages of the guest that it makes use of.
    pub fn pages(&self) -> RingPages {
        RingPages::from_figures(self.pages.load())
    }

    /// What it has moved.
    pub fn traffic(&self) -> RingTraffic {
        RingTraffic::from_figures(self.traffic.load())
    }

    /// When its first request was taken, on the clock of all executors.
    pub fn first_request(&self) -> Option<Duration> {
        Some(self.first_request.load(Relaxed)).filter(|at| *at > 0).map(Duration::from_nanos)
    }

    /// When the last of its requests was answered: known once it is held or has gone.
    pub fn last_answer(&self) -> Option<Duration> {
        Some(self.last_answer.load(Relaxed)).filter(|at| *at > 0).map(Duration::from_nanos)
    }

    pub(super) fn publish_first_request(&self, at: Moment) {
        self.first_request.store(nanoseconds(at), Relaxed);
    }

    pub(super) fn publish_last_answer(&self, at: Option<Moment>) {
        self.last_answer.store(at.map_or(0, nanoseconds), Relaxed);
    }

    pub(super) fn publish(&self, counters: RingCounters, pages: RingPages) {
        self.counters.store(counters.figures());
        self.pages.store(pages.figures());
    }

    pub(super) fn publish_traffic(&self, traffic: RingTraffic) {
        self.traffic.store(traffic.figures());
    }
}

fn nanoseconds(at: Moment) -> u64 {
    u64::try_from(at.since_start().as_nanos()).unwrap_or(u64::MAX)
}

/// Figures that one thread writes.
#[derive(Debug)]
struct Figures<const COUNT: usize>([AtomicU64; COUNT]);

impl<const COUNT: usize> Default for Figures<COUNT> {
    fn default() -> Self {
        Figures(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl<const COUNT: usize> Figures<COUNT> {
    fn store(&self, figures: [u64; COUNT]) {
        self.0.iter().zip(figures).for_each(|(place, figure)| place.store(figure, Relaxed));
    }

    fn load(&self) -> [u64; COUNT] {
        std::array::from_fn(|index| self.0[index].load(Relaxed))
    }
}

impl RingCounters {
    fn figures(self) -> [u64; COUNTERS] {
        let RingCounters { requests, refused, kicks_in, kicks_out, grant_copies, mapped_copies, .. } = self;
        let RingCounters { throttled, throttled_ns, .. } = self;
        [requests, refused, kicks_in, kicks_out, grant_copies, mapped_copies, throttled, throttled_ns]
    }

    fn from_figures(figures: [u64; COUNTERS]) -> RingCounters {
        let [requests, refused, kicks_in, kicks_out, grant_copies, mapped_copies, throttled, throttled_ns] = figures;
        let copies = RingCounters { grant_copies, mapped_copies, ..RingCounters::default() };
        RingCounters { requests, refused, kicks_in, kicks_out, throttled, throttled_ns, ..copies }
    }
}

impl RingPages {
    fn figures(self) -> [u64; PAGES] {
        let RingPages { granted, mapped, peak, leaked } = self;
        [granted, mapped, peak, leaked].map(u64::from)
    }

    fn from_figures(figures: [u64; PAGES]) -> RingPages {
        let count = |figure| u32::try_from(figure).expect("it was one");
        let [granted, mapped, peak, leaked] = figures.map(count);
        RingPages { granted, mapped, peak, leaked }
    }
}

impl RingTraffic {
    fn figures(self) -> [u64; TRAFFIC] {
        let RingTraffic { read, write, errors } = self;
        let [a, b] = [read, write].map(|side| [side.begun, side.ended, side.sectors, side.microseconds]);
        [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], errors]
    }

    fn from_figures(figures: [u64; TRAFFIC]) -> RingTraffic {
        let side = |at: usize| SideTraffic {
            begun: figures[at],
            ended: figures[at + 1],
            sectors: figures[at + 2],
            microseconds: figures[at + 3],
        };
        RingTraffic { read: side(0), write: side(4), errors: figures[8] }
    }
}

fn sum<const COUNT: usize>(one: [u64; COUNT], other: [u64; COUNT]) -> [u64; COUNT] {
    std::array::from_fn(|index| one[index] + other[index])
}

impl Add for RingCounters {
    type Output = RingCounters;

    fn add(self, other: RingCounters) -> RingCounters {
        RingCounters::from_figures(sum(self.figures(), other.figures()))
    }
}

/// The most of both is the most that there can have been.
impl Add for RingPages {
    type Output = RingPages;

    fn add(self, other: RingPages) -> RingPages {
        RingPages::from_figures(sum(self.figures(), other.figures()))
    }
}

impl Add for RingTraffic {
    type Output = RingTraffic;

    fn add(self, other: RingTraffic) -> RingTraffic {
        RingTraffic::from_figures(sum(self.figures(), other.figures()))
    }
}

impl Sum for RingCounters {
    fn sum<I: Iterator<Item = RingCounters>>(all: I) -> RingCounters {
        all.fold(RingCounters::default(), Add::add)
    }
}

impl Sum for RingPages {
    fn sum<I: Iterator<Item = RingPages>>(all: I) -> RingPages {
        all.fold(RingPages::default(), Add::add)
    }
}

impl Sum for RingTraffic {
    fn sum<I: Iterator<Item = RingTraffic>>(all: I) -> RingTraffic {
        all.fold(RingTraffic::default(), Add::add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_published_is_read() {
        let counters = RingCounters::from_figures([1, 2, 3, 4, 5, 6, 7, 8]);
        let (pages, traffic) =
            (RingPages::from_figures([1, 2, 3, 4]), RingTraffic::from_figures([1, 2, 3, 4, 5, 6, 7, 8, 9]));
        let status = RingStatus::default();
        status.publish(counters, pages);
        status.publish_traffic(traffic);
        assert_eq!((status.counters(), status.pages(), status.traffic()), (counters, pages, traffic));
        assert_eq!((counters.kicks_out, pages.leaked, traffic.write.sectors, traffic.errors), (4, 4, 7, 9));
        let both: RingPages = [pages, pages].into_iter().sum();
        assert_eq!(both, RingPages { granted: 2, mapped: 4, peak: 6, leaked: 8 });
    }
}
