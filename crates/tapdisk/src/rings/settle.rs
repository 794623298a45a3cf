//! A guest that stands still, as before it goes on somewhere else: what it has asked is answered and durable, and nobody
//! writes for it. If it goes on here after all, it finds everything as it was.
//!
//! ```text
//!   Serving --all answered--> Settled: no writer --its guest asks--> write access, waited for --> Serving
//!                                |
//!                                +-- another guest comes --> Held --that goes--> Settled, and asks for write access
//! ```

use std::{rc::Rc, time::Duration};

use futures_util::future::join_all;
use storage_io::reply;

use super::{Entry, Life, RingName, Rings, queue::Order};

/// Between two attempts to have write access for a guest that asks again: another host has it.
const ATTEMPT_PAUSE: Duration = Duration::from_secs(1);
/// Between two looks for the first request of a guest that has come, at first and at most.
const LOOK_PAUSES: [Duration; 2] = [Duration::from_millis(5), Duration::from_millis(500)];

impl Rings {
    /// Does nothing more for a guest until it asks; ends when all that it has asked is answered. Says whether its device is
    /// connected.
    pub(crate) async fn settle(self: &Rc<Self>, name: RingName) -> bool {
        let Some(entry) = self.find(name) else { return false };
        if entry.life.get() != Life::Serving {
            return true;
        }
        let mut answers = Vec::new();
        for order in &*entry.orders.borrow() {
            let (to, answer) = reply();
            // A ring whose thread has died asks nothing.
            let _ = order.send(Order::Settle(to));
            answers.push(answer);
        }
        join_all(answers).await;
        if entry.life.get() == Life::Serving {
            entry.settles();
            self.books.settled(name);
            if entry.asks.take() {
                self.wakes(&entry);
            }
        }
        true
    }

    /// The guest of a device that is settled has asked.
    pub(super) fn asks(self: &Rc<Self>, entry: &Rc<Entry>) {
        match entry.life.get() {
            Life::Settled => self.wakes(entry),
            _ => entry.asks.set(true),
        }
    }

    /// Has a device that is settled served again, as soon as it may write.
    pub(super) fn wakes(self: &Rc<Self>, entry: &Rc<Entry>) {
        self.executor.spawn(self.clone().wake(entry.clone())).detach();
    }

    async fn wake(self: Rc<Self>, entry: Rc<Entry>) {
        let mut is_told = false;
        while entry.life.get() == Life::Settled {
            let writer = entry.may_write.then(|| self.disk.writer());
            let may_write = if writer.is_some() { self.disk.begin_writing().await } else { Ok(()) };
            match may_write {
                Ok(()) if entry.life.get() == Life::Settled => {
                    entry.writer.replace(writer);
                    entry.serves_again();
                    self.books.goes_on(entry.device.name);
                }
                Ok(()) => {}
                Err(error) => {
                    if !std::mem::replace(&mut is_told, true) {
                        self.books.waits(entry.device.name, &error);
                    }
                    drop(writer);
                    self.executor.sleep(ATTEMPT_PAUSE).await;
                }
            }
        }
    }

    /// Tells how long nobody was served, as soon as a guest has asked that has taken the place of another.
    pub(super) async fn tell_handover(self: Rc<Self>, entry: Rc<Entry>) {
        let [mut pause, pause_max] = LOOK_PAUSES;
        while entry.life.get() != Life::Gone {
            if let Some((before, Some(blackout))) = entry.shown.get().and_then(|shown| shown.handover()) {
                return self.books.handed_over(entry.device.name, before, blackout);
            }
            self.executor.sleep(pause).await;
            pause = (pause * 2).min(pause_max);
        }
    }
}

impl Entry {
    /// Nobody writes for it.
    fn settles(&self) {
        self.enter(Life::Settled);
        self.show_settled(true);
        let writer = self.writer.take();
        drop(writer);
    }

    fn serves_again(&self) {
        self.enter(Life::Serving);
        self.show_settled(false);
        self.orders.borrow().iter().for_each(|order| drop(order.send(Order::GoOn)));
    }

    pub(super) fn show_settled(&self, is_settled: bool) {
        if let Some(shown) = self.shown.get() {
            shown.set_settled(is_settled);
        }
    }
}
