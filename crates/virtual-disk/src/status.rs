//! What a disk tells other threads about itself, without asking its own.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU8, AtomicU64, Ordering::Relaxed},
};

use block_core::{Error, SECTOR};
use image_chain::{ChainStatistics, ImageName, LayerStatus};

use crate::{DiskState, counters::Counters};

/// What a disk looks like to its users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Its size, in sectors of 512 bytes.
    pub sectors: u64,
    /// The smallest unit that storage moves, in bytes. Requests may be smaller.
    pub logical_block_size: u32,
    /// The unit that storage likes, in bytes.
    pub physical_block_size: u32,
    /// Whether changes are refused.
    pub read_only: bool,
    /// Whether discarding gives room back.
    pub can_discard: bool,
}

impl Geometry {
    /// Its size in bytes.
    pub fn bytes(&self) -> u64 {
        self.sectors * SECTOR
    }
}

/// What a disk publishes about itself. Any thread may look, also while the disk's own thread hangs.
#[derive(Debug)]
pub struct Status {
    state: AtomicU8,
    in_flight: AtomicU64,
    counters: Counters,
    /// Guards a few small values that are replaced together; nobody waits for I/O while holding it.
    published: Mutex<Published>,
}

#[derive(Debug, Default)]
struct Published {
    geometry: Option<Geometry>,
    image: Option<ImageName>,
    chain: Option<ChainStatistics>,
    step: &'static str,
    trouble: Option<Error>,
}

impl Status {
    pub(crate) fn new() -> Self {
        Status {
            state: AtomicU8::new(DiskState::Attached as u8),
            in_flight: AtomicU64::new(0),
            counters: Counters::default(),
            published: Mutex::default(),
        }
    }

    fn published(&self) -> MutexGuard<'_, Published> {
        self.published.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the disk is in its life.
    pub fn state(&self) -> DiskState {
        DiskState::ALL[usize::from(self.state.load(Relaxed))]
    }

    /// Requests that were taken and have not ended.
    pub fn in_flight(&self) -> u64 {
        self.in_flight.load(Relaxed)
    }

    /// How much was done.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The size and shape that the disk had when it was last opened; it stays when the disk is paused or closed.
    pub fn geometry(&self) -> Option<Geometry> {
        self.published().geometry
    }

    /// The image that is open, or that a paused disk will open again.
    pub fn image(&self) -> Option<ImageName> {
        self.published().image.clone()
    }

    /// The images of the chain, leaf first, with their counters; empty when they are closed.
    pub fn layers(&self) -> Vec<LayerStatus> {
        self.published().chain.as_ref().map(ChainStatistics::layers).unwrap_or_default()
    }

    /// What is being done, or waited for, in words for people; nothing in a state that lasts.
    pub fn step(&self) -> Option<&'static str> {
        use DiskState::*;
        let is_passing = matches!(self.state(), Opening | Pausing | Resuming | Closing | Stuck);
        Some(self.published().step).filter(|step| is_passing && !step.is_empty())
    }

    /// Why the disk is where it is, if something went wrong: why it could not be resumed, or what it is stuck in.
    pub fn trouble(&self) -> Option<Error> {
        self.published().trouble.clone()
    }

    pub(crate) fn set_state(&self, state: DiskState) {
        self.state.store(state as u8, Relaxed);
    }

    pub(crate) fn set_in_flight(&self, count: usize) {
        self.in_flight.store(count as u64, Relaxed);
    }

    pub(crate) fn set_geometry(&self, geometry: Geometry) {
        self.published().geometry = Some(geometry);
    }

    pub(crate) fn set_image(&self, image: Option<ImageName>) {
        self.published().image = image;
    }

    pub(crate) fn set_chain(&self, chain: Option<ChainStatistics>) {
        self.published().chain = chain;
    }

    pub(crate) fn set_step(&self, step: &'static str) {
        self.published().step = step;
    }

    pub(crate) fn set_trouble(&self, trouble: Option<Error>) {
        self.published().trouble = trouble;
    }
}
