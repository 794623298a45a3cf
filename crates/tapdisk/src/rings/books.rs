//! What is written down of guests' devices: for other threads, for readers of shared memory, and for people.

use std::{rc::Rc, sync::Arc, time::Duration};

use block_core::Error;
use control_api::Minor;
use export::blkif::{RingChange, RingCounters, RingPages};

use super::{RingName, ShownDevice};
use crate::{log::Log, pages::Pages, slot::Published};

/// The books of one disk.
pub(crate) struct Books {
    pub(crate) minor: Minor,
    pub(crate) log: Log,
    pub(crate) published: Arc<Published>,
    pub(crate) pages: Rc<Pages>,
}

impl Books {
    /// A device is served.
    pub(super) fn serves(&self, device: &Arc<ShownDevice>) {
        self.published.words().rings.push(device.clone());
        if let Err(error) = self.pages.add_device(device.clone()) {
            self.log.warning(format!("minor={}: {error}", self.minor));
        }
        let queues: Vec<u16> = device.rings().iter().map(|ring| ring.queue).collect();
        let pages: u16 = device.rings().iter().map(|ring| ring.pages).sum();
        self.say(device.name(), &format!("connected: {pages} pages, by queues {queues:?}"));
        let repeated: usize = device.rings().iter().map(|ring| ring.repeated).sum();
        if repeated > 0 {
            self.say(
                device.name(),
                &format!("goes on where another tapdisk has ended: {repeated} requests are repeated"),
            );
        }
    }

    /// If this process is killed, nobody will know what was under way in one of its rings.
    pub(super) fn has_no_record(&self, name: RingName, error: &Error) {
        self.log.warning(format!("minor={}: ring {name} has no record: {error}", self.minor));
    }

    /// No request of a device is taken as long as another guest has the disk for itself.
    pub(super) fn held(&self, name: RingName, other: RingName) {
        self.say(name, &format!("is held: ring {other} has the disk for itself"));
    }

    /// It is held no more.
    pub(super) fn goes_on(&self, name: RingName) {
        self.say(name, "goes on");
    }

    /// The guest of a device stands still: all that it has asked is answered.
    pub(super) fn settled(&self, name: RingName) {
        self.say(name, "is settled: nothing is done until its guest asks");
    }

    /// Its guest asks after all, and must wait.
    pub(super) fn waits(&self, name: RingName, error: &Error) {
        self.log.warning(format!("minor={}: ring {name}: its guest asks and has to wait: {error}", self.minor));
    }

    /// It was the turn of the guest before for the last time so long before the first request of this one.
    pub(super) fn handed_over(&self, name: RingName, before: RingName, blackout: Duration) {
        let blackout = blackout.as_micros();
        self.say(name, &format!("has taken the place of ring {before}: nobody was served for {blackout} us"));
    }

    /// A device takes no more requests; those that it has taken are waited for.
    pub(super) fn leaves(&self, name: RingName) {
        self.say(name, "takes no more requests");
    }

    /// One of its rings says this.
    pub(super) fn changes(&self, name: RingName, change: &RingChange) {
        match change {
            RingChange::Resized(geometry) => self.say(name, &format!("told of {} sectors", geometry.sectors)),
            RingChange::Unsupported(operation) => {
                self.log.warning(format!("minor={}: ring {name}: storage cannot do {operation:?}", self.minor));
            }
            RingChange::Broken(broken) => {
                self.log.warning(format!("minor={}: ring {name} is not looked at any more: {broken}", self.minor));
            }
            RingChange::Asks => self.say(name, "is asked for something by a guest that stood still"),
        }
    }

    /// All that it had mapped and bound was given back.
    pub(super) fn gone(&self, device: &Arc<ShownDevice>, was_told_to: bool) {
        let (counters, pages) = (device.counters(), device.pages());
        {
            let mut words = self.published.words();
            words.rings.retain(|other| !Arc::ptr_eq(other, device));
            let past = words.ring_pages;
            let (peak, leaked) = (past.peak.max(pages.peak), past.leaked + pages.leaked);
            words.ring_pages = RingPages { peak, leaked, ..past };
        }
        self.pages.remove_device(device);
        let RingCounters { requests, refused, kicks_in, kicks_out, .. } = counters;
        let RingPages { peak, leaked, .. } = pages;
        let words = format!(
            "{}: {requests} requests, {refused} refused, {kicks_in} kicks in, {kicks_out} out, \
             {peak} pages at most, {leaked} not given back",
            if was_told_to { "disconnected" } else { "let go of" }
        );
        self.say(device.name(), &words);
    }

    fn say(&self, name: RingName, words: &str) {
        self.log.info(format!("minor={}: ring {name} {words}", self.minor));
    }
}
