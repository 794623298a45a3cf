//! A guest that moves within a host has two devices on one disk for a while: the one that it leaves, and the one that it
//! comes to. No request of the new one is taken before the last of the old one is answered.
//!
//! ```text
//!   old  Serving -----------------+---> Held (drained) -- the new one goes --> Serving, as if nothing had been
//!                                 |                   \-- disconnected ------> Leaving
//!   new  connecting .. waits .....+---> Serving
//! ```
//!
//! Whoever connects the new one says that it wants the disk for itself. Guests that share a disk never do.

use std::{rc::Rc, time::Duration};

use block_core::{Error, ErrorKind, Result};
use futures_util::future::join_all;
use storage_io::reply;

use super::{Entry, Life, RingName, Rings, queue::Order};

/// How long what a guest has asked may take to be answered before it is not held after all.
const DRAIN_MAX: Duration = Duration::from_secs(30);

impl Rings {
    /// Holds the devices of other guests that may write, if this one wants the disk for itself. Gives the guest before, and
    /// when it was answered last.
    ///
    /// # Errors
    /// `TimedOut` if what one of them has asked is not answered; then none is held.
    pub(super) async fn make_way(self: &Rc<Self>, entry: &Rc<Entry>) -> Result<Option<(RingName, Option<Duration>)>> {
        let Some(patience) = entry.device.exclusive.filter(|_| entry.may_write) else {
            return Ok(None);
        };
        let domain = entry.device.name.domain;
        let leaving = self.rivals(domain);
        let end = self.executor.now() + patience;
        self.in_time(Some(end), join_all(leaving.iter().map(|rival| rival.gone()))).await;
        let rivals = self.rivals(domain);
        let drained = join_all(rivals.iter().map(|rival| rival.hold()));
        let is_drained = self.in_time(Some(self.executor.now() + DRAIN_MAX), drained).await;
        entry.holds.replace(rivals.clone());
        if !is_drained {
            self.give_way(entry);
            let words = "what another guest has asked has not been answered in time";
            return Err(Error::new(ErrorKind::TimedOut, words));
        }
        rivals.iter().for_each(|rival| self.books.held(rival.device.name, entry.device.name));
        let held = rivals.iter().filter_map(|rival| rival.shown.get());
        let held = held.map(|shown| (shown.name(), shown.last_answer())).max_by_key(|(_, answer)| *answer);
        let gone = self.last_writer.get().filter(|(name, _)| name.domain != domain);
        Ok(held.or(gone))
    }

    /// Those that were held for a device go on, if they are still there.
    pub(super) fn give_way(self: &Rc<Self>, entry: &Entry) {
        for rival in entry.holds.take() {
            if rival.life.get() != Life::Held {
                continue;
            }
            if rival.may_write && rival.writer.borrow().is_none() {
                // It was settled before it was held.
                rival.enter(Life::Settled);
                rival.show_held(false);
                self.wakes(&rival);
            } else {
                rival.go_on();
                self.books.goes_on(rival.device.name);
            }
        }
    }

    /// Devices of other guests that may write.
    fn rivals(&self, domain: u32) -> Vec<Rc<Entry>> {
        let may_write = |entry: &&Rc<Entry>| {
            entry.device.name.domain != domain
                && entry.may_write
                && matches!(entry.life.get(), Life::Serving | Life::Settled | Life::Leaving)
        };
        self.entries.borrow().iter().filter(may_write).cloned().collect()
    }
}

impl Entry {
    /// Takes no more requests; ends when those that were taken have been answered, or it has gone.
    async fn hold(&self) {
        if !matches!(self.life.get(), Life::Serving | Life::Settled) {
            return self.gone().await;
        }
        self.enter(Life::Held);
        self.show_settled(false);
        self.show_held(true);
        let mut answers = Vec::new();
        for order in &*self.orders.borrow() {
            let (to, answer) = reply();
            // A ring whose thread has died takes nothing.
            let _ = order.send(Order::Hold(to));
            answers.push(answer);
        }
        join_all(answers).await;
    }

    /// Takes requests again.
    fn go_on(&self) {
        self.enter(Life::Serving);
        self.show_held(false);
        self.orders.borrow().iter().for_each(|order| drop(order.send(Order::GoOn)));
    }

    fn show_held(&self, is_held: bool) {
        if let Some(shown) = self.shown.get() {
            shown.set_held(is_held);
        }
    }
}
