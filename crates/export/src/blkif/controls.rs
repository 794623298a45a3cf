//! What whoever connected a ring can see and say while it is served.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    task::Waker,
};

use storage_io::{Executor, Moment, RunningOperation, Signal, UnderWay};
use virtual_disk::Geometry;
use wire::blkif::{OperationCode, RawRequest};
use xen::DomainId;

use super::{account::PageAccount, device_account::DeviceAccount, ring::BrokenRing, status::RingStatus, table::Table};

/// How much a ring has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingCounters {
    /// Requests taken.
    pub requests: u64,
    /// Requests that were refused before they were begun.
    pub refused: u64,
    /// Events from the guest.
    pub kicks_in: u64,
    /// Events to the guest.
    pub kicks_out: u64,
    /// Segments that were copied by the hypervisor.
    pub grant_copies: u64,
    /// Segments that were copied by way of pages that stay mapped.
    pub mapped_copies: u64,
    /// How often it waited until the host's budget of pages had room for it.
    pub throttled: u64,
    /// How long it did, in nanoseconds.
    pub throttled_ns: u64,
}

/// How far a ring has come that is to do nothing more until its guest asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Settling {
    No,
    /// It is, once it is empty and all of it is answered.
    Wanted,
    /// It does nothing.
    Settled,
    /// Its guest has asked, and waits until the ring is told to go on.
    Asked,
}

/// What is shared between a ring's source and whoever connected it.
#[derive(Debug)]
pub(super) struct Controls {
    executor: Executor,
    domain: DomainId,
    /// No more requests are to be taken.
    pub(super) is_stopping: Cell<bool>,
    /// The guest may use its pages for something else: no data is copied from or to them.
    pub(super) is_cut: Cell<bool>,
    /// None is to be taken for now.
    pub(super) is_held: Cell<bool>,
    settling: Cell<Settling>,
    /// When requests were answered last.
    last_answer: Cell<Option<Moment>>,
    pub(super) waker: RefCell<Option<Waker>>,
    pub(super) counters: Cell<RingCounters>,
    pub(super) pages: Rc<PageAccount>,
    /// For other threads.
    pub(super) status: Arc<RingStatus>,
    /// Requests that were taken and not answered.
    pub(super) table: RefCell<Table>,
    broken: Cell<Option<BrokenRing>>,
    /// The disk, as it was when the ring was connected or when it changed last.
    geometry: Cell<Geometry>,
    /// Operations that turned out not to be possible: they are not offered any more.
    unsupported: RefCell<Vec<OperationCode>>,
    is_gone: Cell<bool>,
    changed: Signal,
}

impl Controls {
    pub(super) fn new(
        executor: &Executor,
        domain: DomainId,
        geometry: Geometry,
        device: Arc<DeviceAccount>,
    ) -> Controls {
        Controls {
            executor: executor.clone(),
            domain,
            is_stopping: Cell::new(false),
            is_cut: Cell::new(false),
            is_held: Cell::new(false),
            settling: Cell::new(Settling::No),
            last_answer: Cell::new(None),
            waker: RefCell::default(),
            counters: Cell::default(),
            pages: Rc::new(PageAccount::of(device)),
            status: Arc::default(),
            table: RefCell::default(),
            broken: Cell::new(None),
            geometry: Cell::new(geometry),
            unsupported: RefCell::default(),
            is_gone: Cell::new(false),
            changed: Signal::new(),
        }
    }

    /// Requests were taken; their places in the table.
    pub(super) fn takes(&self, requests: &[RawRequest], mut each: impl FnMut(usize)) {
        self.table.borrow_mut().take(requests, self.executor.turn_began(), &mut each);
    }

    /// Requests were answered, and the guest can see it.
    pub(super) fn answers(&self) {
        self.last_answer.set(Some(self.executor.turn_began()));
        if self.is_held.get() && self.table.borrow().is_empty() {
            self.changed.notify();
        }
        if self.wants_to_settle() {
            self.wake();
        }
    }

    /// Nothing more is done for the guest until it asks, once all that it has asked is answered.
    pub(super) fn settle(&self) {
        if self.settling.get() == Settling::No && !self.is_held.get() {
            self.settling.set(Settling::Wanted);
            self.wake();
        }
    }

    pub(super) fn wants_to_settle(&self) -> bool {
        self.settling.get() == Settling::Wanted
    }

    pub(super) fn is_settled(&self) -> bool {
        self.settling.get() == Settling::Settled
    }

    /// Whether it does nothing until it is told to go on.
    pub(super) fn rests(&self) -> bool {
        matches!(self.settling.get(), Settling::Settled | Settling::Asked)
    }

    /// The ring is empty, and its guest tells of the next request.
    pub(super) fn finds_nothing(&self) {
        if self.wants_to_settle() && self.table.borrow().is_empty() {
            self.settling.set(Settling::Settled);
            self.changed.notify();
        }
    }

    /// The guest of a ring that is settled has asked.
    pub(super) fn asks(&self) {
        self.settling.set(Settling::Asked);
        self.is_held.set(true);
        self.changed.notify();
    }

    /// Ends when it is settled, or will not be.
    pub(super) async fn settled(&self) {
        let ends = || self.is_gone.get() || self.is_stopping.get() || self.broken.get().is_some();
        self.changed.until(|| !self.wants_to_settle() || ends()).await;
        self.show_last_answer();
    }

    /// Holds the ring, or lets it go on.
    pub(super) fn hold(&self, is_held: bool) {
        self.settling.set(Settling::No);
        self.is_held.set(is_held);
        self.changed.notify();
        self.wake();
    }

    /// Ends when all that was taken of a ring that is held has been answered, or it is held no more.
    pub(super) async fn at_rest(&self) {
        let is_at_rest = || !self.is_held.get() || self.is_gone.get() || self.table.borrow().is_empty();
        self.changed.until(is_at_rest).await;
        self.show_last_answer();
    }

    fn show_last_answer(&self) {
        self.status.publish_last_answer(self.last_answer.get());
    }

    /// Shows other threads what the ring has done and holds.
    pub(super) fn show(&self) {
        self.status.publish(self.counters.get(), self.pages.get());
    }

    /// Wakes the loop that serves the ring.
    pub(super) fn wake(&self) {
        let waker = self.waker.borrow_mut().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub(super) fn broken(&self) -> Option<BrokenRing> {
        self.broken.get()
    }

    /// The ring cannot be served any more. The first reason is the one that counts.
    pub(super) fn breaks(&self, broken: BrokenRing) {
        if self.broken.get().is_none() {
            self.broken.set(Some(broken));
            self.changed.notify();
        }
    }

    pub(super) fn resizes(&self, geometry: Geometry) {
        self.geometry.set(geometry);
        self.changed.notify();
    }

    /// An operation turned out not to be possible.
    pub(super) fn lacks(&self, operation: OperationCode) {
        let mut unsupported = self.unsupported.borrow_mut();
        if !unsupported.contains(&operation) {
            unsupported.push(operation);
            self.changed.notify();
        }
    }
}

impl UnderWay for Controls {
    fn under_way(&self) -> Vec<RunningOperation> {
        self.table.borrow().describe(self.domain)
    }
}

/// Says when it is dropped that the ring is connected no more.
#[derive(Debug)]
pub(super) struct Presence(pub(super) Rc<Controls>);

impl Drop for Presence {
    fn drop(&mut self) {
        // What is mapped now will not be given back.
        self.0.pages.close();
        self.0.show();
        self.0.show_last_answer();
        self.0.is_gone.set(true);
        self.0.changed.notify();
    }
}

/// What whoever has told a guest of its disk must tell it now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingChange {
    /// The disk has another size.
    Resized(Geometry),
    /// An operation that was offered turned out not to be possible: it is refused from now on.
    Unsupported(OperationCode),
    /// The ring makes no sense, or its event channel is broken, and it is not looked at any more.
    Broken(BrokenRing),
    /// The guest of a ring that was settled has asked: it waits until the ring is told to go on.
    Asks,
}

/// The changes of one ring since it was connected, for one who waits for them. Several may wait; each is told of all. What
/// changes several times before somebody looks is told as it is then.
#[derive(Debug)]
pub struct RingChanges {
    controls: Rc<Controls>,
    geometry: Geometry,
    unsupported: usize,
    is_broken_told: bool,
    is_asking_told: bool,
}

impl RingChanges {
    pub(super) fn new(controls: Rc<Controls>, connected_with: Geometry) -> RingChanges {
        RingChanges { controls, geometry: connected_with, unsupported: 0, is_broken_told: false, is_asking_told: false }
    }

    /// The next change; none when the ring is connected no more.
    pub async fn next(&mut self) -> Option<RingChange> {
        let controls = self.controls.clone();
        controls.changed.find(|| self.look().map(Some).or_else(|| self.controls.is_gone.get().then_some(None))).await
    }

    fn look(&mut self) -> Option<RingChange> {
        if let Some(broken) = self.controls.broken.get().filter(|_| !self.is_broken_told) {
            self.is_broken_told = true;
            return Some(RingChange::Broken(broken));
        }
        let asks = self.controls.settling.get() == Settling::Asked;
        if !std::mem::replace(&mut self.is_asking_told, asks) && asks {
            return Some(RingChange::Asks);
        }
        let operation = self.controls.unsupported.borrow().get(self.unsupported).copied();
        if let Some(operation) = operation {
            self.unsupported += 1;
            return Some(RingChange::Unsupported(operation));
        }
        let geometry = self.controls.geometry.get();
        (std::mem::replace(&mut self.geometry, geometry) != geometry).then_some(RingChange::Resized(geometry))
    }
}
