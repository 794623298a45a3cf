//! Rings of guests that are connected to a disk.
//!
//! ```text
//!   Connecting --all rings are served--> Serving --disconnect--> Leaving --the last ring has gone--> Gone
//!       |                                  |  ^                     ^                                  ^
//!       |              another guest comes v  | it has gone         | disconnect                       |
//!       |                                  Held --------------------+                                  |
//!       |             (or Settled: the guest stands still)          |                                  |
//!       |                                   |                                                          |
//!       +----- a ring cannot be served, ----+------------ let go of by force, or its thread died -----+
//!              or let go of by force
//! ```
//!
//! A guest, its device and the pages of its rings are named by whoever talks to XenStore; this process never does. The
//! rings of a device are spread over the queues of the disk as connections are; all of them are served, or none.

mod books;
mod budget;
mod device;
mod failing;
mod fence;
mod platform;
mod queue;
mod records;
mod settle;
mod shown;

use std::{
    cell::{Cell, OnceCell, RefCell},
    pin::pin,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use block_core::{Error, ErrorKind, Result, ResultExt};
use control_api::{RingRecordFile, RingRecords};
use export::blkif::{DeviceAccount, RingChange, RingCounters, RingPages};
use futures_util::future::{Either, join_all, select};
use rustix::io::Errno;
use storage_io::{Executor, Moment, Receiver, Sender, Signal, mailbox, reply};
use virtual_disk::{Disk, Geometry, Writer};
use wire::blkif::Limits;
use xen::Grants;

use self::queue::{Order, RingSeed};
pub(crate) use self::{
    books::Books,
    budget::{BUDGET_VARIABLE, BudgetChoice, HostBudget},
    device::{Adoption, Device, RingName},
    failing::FailingDevice,
    platform::{PLATFORM_VARIABLE, Platform},
    shown::{ShownDevice, ShownRing},
};
use crate::exports::Exports;

/// How long rings may take to end that are let go of by force: their threads need only be there.
const FORCED_GRACE: Duration = Duration::from_secs(2);

/// What whoever has connected a device may tell its guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Connected {
    /// It was connected before, with the same parameters.
    pub(crate) already: bool,
    /// The disk as the guest may see it.
    pub(crate) geometry: Geometry,
    /// What it may ask.
    pub(crate) offer: Limits,
}

/// How a guest is let go of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Parting {
    /// How long that may take before it is let go of without its answers.
    pub(crate) deadline: Option<Duration>,
    /// It may use its pages for something else already.
    pub(crate) is_removed: bool,
}

/// How a device ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Disconnected {
    /// Whether it was connected at all.
    pub(crate) was_connected: bool,
    /// It was let go of without the answers to all that it had asked: storage may still hold requests of it.
    pub(crate) is_abandoned: bool,
    /// What it had done.
    pub(crate) counters: RingCounters,
    /// Its pages, after they were given back.
    pub(crate) pages: RingPages,
    /// What was wrong with one of its rings.
    pub(crate) broken: Option<String>,
    /// Why what it was answered is not all durable, if it is not.
    pub(crate) not_durable: Option<String>,
}

/// Where a device is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Connecting,
    Serving,
    /// No request of it is taken: another guest has the disk for itself.
    Held,
    /// Its guest stands still: nothing is done before it asks.
    Settled,
    Leaving,
    Gone,
}

impl Life {
    const fn may_become(self, next: Life) -> bool {
        use Life::*;
        matches!(
            (self, next),
            (Connecting, Serving | Gone)
                | (Serving, Held | Settled | Leaving | Gone)
                | (Held, Serving | Settled | Leaving | Gone)
                | (Settled, Serving | Held | Leaving | Gone)
                | (Leaving, Gone)
        )
    }
}

/// A device that is or was connected.
struct Entry {
    device: Device,
    life: Cell<Life>,
    /// To each of its rings; none any more: they are let go of at once.
    orders: RefCell<Vec<Sender<Order>>>,
    shown: OnceCell<Arc<ShownDevice>>,
    /// Its guest may change the disk.
    may_write: bool,
    /// It counts as a writer until all its rings have gone, or are settled.
    writer: RefCell<Option<Writer>>,
    /// Its guest has asked while it was being settled.
    asks: Cell<bool>,
    /// Those that are held as long as it is there.
    holds: RefCell<Vec<Rc<Entry>>>,
    /// What outlives this process of its rings, held as long as it is there.
    records: RefCell<Vec<RingRecordFile>>,
    changed: Signal,
}

/// The rings of one disk, on its home thread.
pub(crate) struct Rings {
    executor: Executor,
    disk: Disk,
    platform: Platform,
    grants: OnceCell<Arc<dyn Grants>>,
    budget: HostBudget,
    records: RingRecords,
    /// Those that have not gone.
    entries: RefCell<Vec<Rc<Entry>>>,
    /// The last guest that could write and has gone, and when it was answered last.
    last_writer: Cell<Option<(RingName, Option<Duration>)>>,
    books: Books,
}

impl Rings {
    pub(crate) fn new(
        executor: &Executor,
        disk: &Disk,
        platform: Platform,
        budget: HostBudget,
        records: RingRecords,
        books: Books,
    ) -> Rc<Rings> {
        let (executor, disk) = (executor.clone(), disk.clone());
        let (grants, entries) = (OnceCell::new(), RefCell::default());
        let last_writer = Cell::new(None);
        Rc::new(Rings { executor, disk, platform, grants, budget, records, entries, last_writer, books })
    }

    /// Connects a device; its guest is served from now on. Without a platform nothing else matters. Answers come in any order
    /// and take the places of requests, so what is in a ring does not tell what is still to be done: of one that is to be
    /// adopted the records do, or everything in it has been answered.
    pub(crate) async fn connect(
        self: &Rc<Self>,
        exports: Option<Rc<Exports>>,
        geometry: Option<Geometry>,
        device: Device,
        adoption: Adoption,
        writer: Option<Writer>,
    ) -> Result<Connected> {
        let grants = self.grants()?;
        let not_open = || Error::new(ErrorKind::Closed, "the disk is not open");
        let (exports, geometry) = (exports.ok_or_else(not_open)?, geometry.ok_or_else(not_open)?);
        let connected = Connected { already: false, geometry: device.sees(geometry), offer: device.offer(&geometry) };
        if let Some(entry) = self.find(device.name) {
            return match entry.life.get() {
                Life::Leaving => Err(leaving(device.name)),
                Life::Serving | Life::Held | Life::Settled if entry.device == device => {
                    Ok(Connected { already: true, ..connected })
                }
                _ => Err(known(device.name)),
            };
        }
        let grants = self.budget.limit(&grants).context(format!("ring {}", device.name))?;
        let (name, entry) = (device.name, Entry::new(device, writer));
        let before = self.make_way(&entry).await.context(format!("ring {name}"))?;
        self.entries.borrow_mut().push(entry.clone());
        let serving = self.start(&entry, &grants, &exports, &geometry, adoption).await;
        if let (Some(shown), Some(before)) = (entry.shown.get(), before) {
            shown.comes_after(before);
            self.executor.spawn(self.clone().tell_handover(entry.clone())).detach();
        }
        serving.map(|()| connected).context(format!("ring {name}"))
    }

    /// Has queues serve all rings of a device.
    async fn start(
        self: &Rc<Self>,
        entry: &Rc<Entry>,
        grants: &Arc<dyn Grants>,
        exports: &Exports,
        geometry: &Geometry,
        adoption: Adoption,
    ) -> Result<()> {
        let (changes, changing) = mailbox();
        let account = Arc::<DeviceAccount>::default();
        let mut starting = Vec::new();
        let records = self.hold_records(entry);
        for (ring, record) in entry.device.rings.iter().zip(records) {
            let (order, orders) = mailbox();
            let (up, is_up) = reply();
            let seed = RingSeed {
                changes: changes.clone(),
                options: entry.device.options(ring, geometry, adoption),
                record,
                device: account.clone(),
                platform: self.platform.clone(),
                grants: grants.clone(),
                orders,
                up,
            };
            entry.orders.borrow_mut().push(order);
            starting.push(is_up);
            exports.serve_on_queue(Box::new(move |queue| seed.serve(queue)));
        }
        drop(changes);
        let lost = || Err(Error::new(ErrorKind::Closed, "its queue has gone"));
        let forced = || Err(Error::new(ErrorKind::Closed, "the disk was closed by force"));
        let started: Result<Vec<ShownRing>> = match select(join_all(starting), pin!(entry.let_go_of())).await {
            Either::Left((rings, _)) => rings.into_iter().map(|ring| ring.unwrap_or_else(lost)).collect(),
            Either::Right(_) => forced(),
        };
        let failed = match started {
            Ok(rings) => {
                let shown = ShownDevice::new(&entry.device, rings, account, *geometry);
                self.books.serves(&shown);
                entry.shown.set(shown).expect("a device is served once");
                entry.enter(Life::Serving);
                self.executor.spawn(self.clone().attend(entry.clone(), changing)).detach();
                return Ok(());
            }
            Err(error) => error,
        };
        if !adoption.is_wanted {
            // Nobody was served, so nobody comes for it.
            entry.remove_records();
        }
        entry.let_go();
        self.executor.spawn(self.clone().attend_to_end(entry.clone(), changing)).detach();
        self.in_time(Some(self.executor.now() + FORCED_GRACE), entry.gone()).await;
        Err(failed)
    }

    /// Waits for the rings of a device that is not served.
    async fn attend_to_end(self: Rc<Self>, entry: Rc<Entry>, mut changing: Receiver<RingChange>) {
        while changing.recv().await.is_some() {}
        self.forget(&entry);
    }

    /// Tells what the rings of a device say, until the last has gone.
    async fn attend(self: Rc<Self>, entry: Rc<Entry>, mut changing: Receiver<RingChange>) {
        let shown = entry.shown.get().expect("it is served");
        while let Some(change) = changing.recv().await {
            self.books.changes(shown.name(), &change);
            if change == RingChange::Asks {
                self.asks(&entry);
            }
            shown.tell(change);
        }
        self.books.gone(shown, entry.life.get() == Life::Leaving);
        self.forget(&entry);
        shown.end();
    }

    fn forget(self: &Rc<Self>, entry: &Rc<Entry>) {
        self.entries.borrow_mut().retain(|other| !Rc::ptr_eq(other, entry));
        let writer = entry.writer.take();
        drop(writer);
        if let Some(shown) = entry.shown.get().filter(|_| entry.may_write) {
            self.last_writer.set(Some((shown.name(), shown.last_answer())));
        }
        self.give_way(entry);
        entry.drop_records();
        entry.enter(Life::Gone);
    }

    /// Touches the pages of a guest's data no more: it may use them for something else.
    pub(crate) fn cut(&self, name: RingName) {
        if let Some(entry) = self.find(name) {
            entry.orders.borrow().iter().for_each(|order| drop(order.send(Order::Cut)));
        }
    }

    /// Lets a guest go: no more requests are taken, and those that were taken have been answered. If they have not been by
    /// the deadline, the guest is let go of without.
    pub(crate) async fn disconnect(&self, name: RingName, deadline: Option<Moment>) -> Result<Disconnected> {
        let Some(entry) = self.find(name) else { return Ok(Disconnected::default()) };
        self.leave(&entry);
        let is_abandoned = !self.in_time(deadline, entry.gone()).await;
        if is_abandoned {
            entry.let_go();
            if !self.in_time(Some(self.executor.now() + FORCED_GRACE), entry.gone()).await {
                return Err(Error::new(ErrorKind::TimedOut, format!("ring {name}: its thread hangs")));
            }
        }
        let shown = entry.shown.get();
        let ended = |shown: &Arc<ShownDevice>| Disconnected {
            was_connected: true,
            is_abandoned,
            counters: shown.counters(),
            pages: shown.pages(),
            broken: shown.broken(),
            not_durable: None,
        };
        Ok(shown.map(ended).unwrap_or_default())
    }

    /// Lets all guests go, as one.
    pub(crate) async fn disconnect_all(&self, deadline: Moment) -> Vec<Error> {
        let names: Vec<RingName> = self.entries.borrow().iter().map(|entry| entry.device.name).collect();
        let ended = join_all(names.into_iter().map(|name| self.disconnect(name, Some(deadline)))).await;
        ended.into_iter().filter_map(Result::err).collect()
    }

    /// Lets go of all rings at once: what storage still holds is not answered any more.
    pub(crate) async fn let_all_go(&self) -> Vec<Error> {
        self.entries.borrow().iter().for_each(|entry| entry.let_go());
        self.disconnect_all(self.executor.now()).await
    }

    /// Takes no more requests of any guest, and waits for a while until those that were taken have been answered.
    pub(crate) async fn drain_all(&self, time: Duration) {
        let all: Vec<Rc<Entry>> = self.entries.borrow().clone();
        all.iter().for_each(|entry| self.leave(entry));
        self.in_time(Some(self.executor.now() + time), join_all(all.iter().map(|entry| entry.gone()))).await;
    }

    fn leave(&self, entry: &Entry) {
        if matches!(entry.life.get(), Life::Serving | Life::Held | Life::Settled) {
            entry.enter(Life::Leaving);
            self.books.leaves(entry.device.name);
            entry.orders.borrow().iter().for_each(|order| drop(order.send(Order::Leave)));
        }
    }

    /// Whether something ended in time.
    async fn in_time<T>(&self, end: Option<Moment>, future: impl Future<Output = T>) -> bool {
        let Some(end) = end else {
            future.await;
            return true;
        };
        matches!(select(pin!(future), pin!(self.executor.sleep_until(end))).await, Either::Left(_))
    }

    /// Whether the rings of a device are there already.
    pub(crate) fn are_connected(&self, name: RingName) -> bool {
        self.find(name).is_some()
    }

    fn find(&self, name: RingName) -> Option<Rc<Entry>> {
        self.entries.borrow().iter().find(|entry| entry.device.name == name).cloned()
    }

    fn grants(&self) -> Result<Arc<dyn Grants>> {
        if let Some(grants) = self.grants.get() {
            return Ok(grants.clone());
        }
        let grants = self.platform.grants()?;
        Ok(self.grants.get_or_init(|| grants).clone())
    }
}

impl Entry {
    fn new(device: Device, writer: Option<Writer>) -> Rc<Entry> {
        Rc::new(Entry {
            device,
            life: Cell::new(Life::Connecting),
            orders: RefCell::default(),
            shown: OnceCell::new(),
            may_write: writer.is_some(),
            writer: RefCell::new(writer),
            asks: Cell::new(false),
            holds: RefCell::default(),
            records: RefCell::default(),
            changed: Signal::new(),
        })
    }

    fn enter(&self, next: Life) {
        let life = self.life.replace(next);
        assert!(life.may_become(next), "a device that is {life:?} does not become {next:?}");
        self.changed.notify();
    }

    /// Hangs up: each ring ends as soon as its thread looks.
    fn let_go(&self) {
        let orders = self.orders.take();
        drop(orders);
        self.changed.notify();
    }

    /// Ends when it has been let go of.
    async fn let_go_of(&self) {
        self.changed.until(|| self.orders.borrow().is_empty()).await;
    }

    async fn gone(&self) {
        self.changed.until(|| self.life.get() == Life::Gone).await;
    }
}

/// The refusal of a ring whose last connection has not ended.
fn leaving(name: RingName) -> Error {
    Error::from_os(format!("ring {name} is being disconnected"), Errno::BUSY.into())
}

/// The refusal of a ring that is not there.
pub(crate) fn unknown(name: RingName) -> Error {
    Error::from_os(format!("ring {name} is not connected"), Errno::NODEV.into())
}

/// The refusal of a ring that is there already.
pub(crate) fn known(name: RingName) -> Error {
    Error::from_os(format!("ring {name} is connected already"), Errno::ALREADY.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_life_of_a_device_is_the_drawing() {
        use Life::*;
        let all = [Connecting, Serving, Held, Settled, Leaving, Gone];
        let pairs = all.iter().flat_map(|life| all.map(|next| (*life, next)));
        let allowed: Vec<_> = pairs.filter(|(life, next)| life.may_become(*next)).collect();
        let expected = [
            (Connecting, Serving),
            (Connecting, Gone),
            (Serving, Held),
            (Serving, Settled),
            (Serving, Leaving),
            (Serving, Gone),
            (Held, Serving),
            (Held, Settled),
            (Held, Leaving),
            (Held, Gone),
            (Settled, Serving),
            (Settled, Held),
            (Settled, Leaving),
            (Settled, Gone),
            (Leaving, Gone),
        ];
        assert_eq!(allowed, expected);
    }
}
