//! What the rings of one device hold together, each on the thread of its queue.
//!
//! ```text
//!   ring 0: |requests  |kept| ----\
//!   ring 1: |kept|           -------> bytes of the device: from 32 MiB on, a ring takes a request only if it has none
//!   ring 2: |requests    |kept| --/
//! ```
//!
//! A ring keeps a little of what it has asked for, so that small requests touch nothing that other threads write. A ring
//! that must wait has requests under way, whose answers wake it: no ring waits for another.

use std::sync::{
    Arc,
    atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed},
};

/// Bytes of a device's requests in memory, above which a ring with requests under way takes no more.
const BYTES_MAX: usize = 32 << 20;
/// What is asked for at once, and what a ring keeps: 32 requests of one page.
const KEPT_BYTES: usize = 128 << 10;

/// What the rings of one device hold together. Nothing is locked.
#[derive(Debug, Default)]
pub struct DeviceAccount {
    bytes: AtomicUsize,
    mapped: AtomicU32,
    peak: AtomicU32,
}

impl DeviceAccount {
    /// The most pages of the guest that were mapped at one time, for all rings together.
    pub fn peak(&self) -> u32 {
        self.peak.load(Relaxed)
    }

    /// So many more pages are mapped.
    pub(super) fn mapped(&self, count: u32) {
        let mapped = self.mapped.fetch_add(count, Relaxed) + count;
        self.peak.fetch_max(mapped, Relaxed);
    }

    /// So many were unmapped.
    pub(super) fn unmapped(&self, count: u32) {
        self.mapped.fetch_sub(count, Relaxed);
    }
}

/// Bytes of one ring's requests in memory.
#[derive(Debug)]
pub(super) struct HeldBytes {
    held: usize,
    /// What is in the device's account of it.
    asked: usize,
    device: Arc<DeviceAccount>,
}

impl HeldBytes {
    pub(super) fn new(device: Arc<DeviceAccount>) -> HeldBytes {
        HeldBytes { held: 0, asked: 0, device }
    }

    /// Whether one more request may be taken.
    pub(super) fn has_room(&self) -> bool {
        self.held == 0 || self.device.bytes.load(Relaxed) < BYTES_MAX
    }

    /// So many bytes will be held besides those that are. Whether there is room for more.
    pub(super) fn ask(&mut self, coming: usize) -> bool {
        let missing = (self.held + coming).saturating_sub(self.asked).next_multiple_of(KEPT_BYTES);
        if missing == 0 {
            return true;
        }
        self.asked += missing;
        self.device.bytes.fetch_add(missing, Relaxed) + missing < BYTES_MAX
    }

    /// So many more are held.
    pub(super) fn add(&mut self, bytes: usize) {
        self.held += bytes;
    }

    /// So many are not held any more.
    pub(super) fn remove(&mut self, bytes: usize) {
        self.held -= bytes;
    }

    /// Nothing is coming: gives back what was asked for and is not needed, but for what a ring keeps.
    pub(super) fn settle(&mut self) {
        let needed = self.held.next_multiple_of(KEPT_BYTES).max(KEPT_BYTES);
        if self.asked > needed {
            self.device.bytes.fetch_sub(self.asked - needed, Relaxed);
            self.asked = needed;
        }
    }
}

impl Drop for HeldBytes {
    fn drop(&mut self) {
        self.device.bytes.fetch_sub(self.asked, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_requests_are_asked_for_once() {
        let device = Arc::<DeviceAccount>::default();
        let mut ring = HeldBytes::new(device.clone());
        for _ in 0..10 {
            for _ in 0..32 {
                assert!(ring.ask(4096));
                ring.add(4096);
            }
            assert_eq!(device.bytes.load(Relaxed), KEPT_BYTES);
            ring.remove(32 * 4096);
            ring.settle();
            assert_eq!(device.bytes.load(Relaxed), KEPT_BYTES);
        }
        drop(ring);
        assert_eq!(device.bytes.load(Relaxed), 0);
    }

    #[test]
    fn rings_share_what_is_there_and_each_may_take_one_request() {
        let device = Arc::<DeviceAccount>::default();
        let mut rings = [(); 3].map(|()| HeldBytes::new(device.clone()));
        let mut taken = [0, 0, 0];
        for (ring, taken) in rings.iter_mut().zip(&mut taken) {
            let mut has_room = ring.has_room();
            while has_room {
                has_room = ring.ask(1 << 20);
                ring.add(1 << 20);
                *taken += 1;
            }
            assert!(!ring.has_room());
        }
        assert_eq!(taken, [32, 1, 1]);
        rings[0].remove(8 << 20);
        rings[0].settle();
        assert!(rings[1].has_room(), "it was given back");
        rings[1].remove(1 << 20);
        rings[1].settle();
        assert_eq!(device.bytes.load(Relaxed), (24 << 20) + KEPT_BYTES + (1 << 20));
    }
}
