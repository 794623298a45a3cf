//! The hands of a device: what its machine says is done here, one thing after the other.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    fmt,
    future::pending,
    pin::pin,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use block_core::{Error, ErrorKind, Result, ResultExt};
use futures_util::future::{Either, select};
use storage_io::{Executor, Moment, Signal};
use wire::{
    blkif::SEGMENTS_MAX,
    xenstore::{ErrorName, Path},
};
use xen::{
    Kernel,
    store::{Store, Watch},
};
use xenbus::{Frontend, FrontendAction as Action, FrontendEvent as Event, Outcome, Phase, State};

use super::{
    DeviceAccount, DeviceOptions,
    disk::{DiskProperties, gone},
    tree::{Peer, RingNodes, Seen, Tree, below},
};
use crate::{Front, FrontOptions};

/// Until XenStore is asked again, when it could not say what is there.
const LOOK_PAUSE: Duration = Duration::from_millis(100);

pub(super) struct Inner {
    executor: Executor,
    kernel: Arc<dyn Kernel>,
    tree: Tree,
    options: DeviceOptions,
    machine: Cell<Frontend>,
    peer: RefCell<Option<Peer>>,
    queues: RefCell<Vec<Front>>,
    order: Cell<u32>,
    next_queue: Cell<usize>,
    disk: Cell<Option<DiskProperties>>,
    /// Events that nobody sees in XenStore.
    wishes: RefCell<VecDeque<Event>>,
    wished: Signal,
    /// Something that somebody may wait for is different.
    changed: Signal,
    /// When the machine has waited long enough.
    timer: Cell<Option<Moment>>,
    /// No wait of the machine lasts longer: somebody shuts the device down.
    shutdown_end: Cell<Option<Moment>>,
    outcome: Cell<Option<Outcome>>,
    /// Counts backends: what one has not answered is asked of the next.
    generation: Cell<u64>,
    /// The device, or its backend, was taken away: nobody says any more when the backend is done.
    is_removed: Cell<bool>,
    holds: Cell<usize>,
    /// Requests without an answer.
    running: Cell<usize>,
    account: Cell<DeviceAccount>,
}

/// A request that is under way.
pub(super) struct Running<'a>(&'a Inner);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.set(self.0.running.get() - 1);
        self.0.changed.notify();
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Inner({}, {:?})", self.tree.own().as_str(), self.machine.get())
    }
}

impl Inner {
    pub(super) async fn open(
        executor: &Executor,
        kernel: Arc<dyn Kernel>,
        store: &Store,
        own: Path,
        options: DeviceOptions,
    ) -> Result<(Rc<Inner>, Vec<Action>)> {
        let tree = Tree::new(store.clone(), own);
        let seen = tree.look().await.context(tree.own().as_str())?;
        if seen.own == State::Unknown {
            return Err(Error::new(ErrorKind::NotFound, format!("{}: there is no such device", tree.own().as_str())));
        }
        let (machine, first) = Frontend::new(seen.own, seen.backend);
        let inner = Inner {
            executor: executor.clone(),
            kernel,
            tree,
            options,
            machine: Cell::new(machine),
            peer: RefCell::new(seen.peer),
            queues: RefCell::default(),
            order: Cell::new(0),
            next_queue: Cell::new(0),
            disk: Cell::new(None),
            wishes: RefCell::default(),
            wished: Signal::new(),
            changed: Signal::new(),
            timer: Cell::new(None),
            shutdown_end: Cell::new(None),
            outcome: Cell::new(None),
            generation: Cell::new(0),
            is_removed: Cell::new(false),
            holds: Cell::new(0),
            running: Cell::new(0),
            account: Cell::default(),
        };
        Ok((Rc::new(inner), first))
    }

    /// Looks and does until the device is left.
    pub(super) async fn run(self: Rc<Self>, first: Vec<Action>) {
        let own = self.tree.watch(self.tree.own());
        let mut peer = self.watch_peer();
        self.perform_all(first).await;
        while self.outcome.get().is_none() {
            match self.next(&own, peer.as_ref().map(|(_, watch)| watch)).await {
                Some(event) => self.apply(event).await,
                None => {
                    // Everything is looked at, so what else was told is old.
                    own.take();
                    peer.iter().for_each(|(_, watch)| drop(watch.take()));
                    self.look().await;
                }
            }
            if *self.peer.borrow() != peer.as_ref().map(|(peer, _)| peer.clone()) {
                peer = self.watch_peer();
            }
        }
    }

    fn watch_peer(&self) -> Option<(Peer, Watch)> {
        let peer = self.peer.borrow().clone()?;
        let state = below(&peer.path, "state").ok()?;
        Some((peer, self.tree.watch(&state)))
    }

    /// What happens next; none: look at what there is.
    async fn next(&self, own: &Watch, peer: Option<&Watch>) -> Option<Event> {
        let peer = async {
            match peer {
                Some(watch) => watch.next().await,
                None => pending().await,
            }
        };
        let timer = async {
            match self.timer.get() {
                Some(moment) => self.executor.sleep_until(moment).await,
                None => pending().await,
            }
        };
        let (own, peer, timer) = (pin!(own.next()), pin!(peer), pin!(timer));
        let told = select(own, peer);
        let wish = pin!(self.wished.find(|| self.next_wish()));
        match select(wish, select(told, timer)).await {
            Either::Left((event, _)) => Some(event),
            Either::Right((Either::Left(_), _)) => None,
            Either::Right((Either::Right(_), _)) => {
                self.timer.set(None);
                Some(Event::Timeout)
            }
        }
    }

    fn next_wish(&self) -> Option<Event> {
        self.wishes.borrow_mut().pop_front()
    }

    async fn look(&self) {
        let seen = loop {
            match self.tree.look().await {
                Ok(seen) => break seen,
                Err(_) => self.executor.sleep(LOOK_PAUSE).await,
            }
        };
        if self.is_another_device(&seen) {
            return self.begin_anew(seen).await;
        }
        // Whoever has opened the disk before the backend closes it has it.
        while let Some(event) = self.next_wish() {
            self.apply(event).await;
        }
        let is_there = seen.own != State::Unknown && seen.peer.is_some();
        self.is_removed.set(!is_there || seen.backend == State::Unknown);
        self.apply(Event::Backend(if is_there { seen.backend } else { State::Unknown })).await;
        self.look_at_disk().await;
    }

    /// Whether the toolstack has given us another backend, or has made our directory anew: after a resume, for one.
    fn is_another_device(&self, seen: &Seen) -> bool {
        let machine = self.machine.get();
        let has_moved = seen.peer.is_some() && seen.peer != *self.peer.borrow();
        let was_made_anew =
            seen.own == State::Initialising && !matches!(machine.own(), State::Initialising | State::Unknown);
        (has_moved || was_made_anew) && self.shutdown_end.get().is_none()
    }

    /// What the old backend has not answered is asked again. It does not say when it is done with our pages.
    async fn begin_anew(&self, seen: Seen) {
        self.generation.set(self.generation.get() + 1);
        self.disk.set(None);
        let (machine, first) = Frontend::new(seen.own, seen.backend);
        self.machine.set(machine);
        self.peer.replace(seen.peer);
        self.timer.set(None);
        self.release_rings(Front::remove);
        if self.holds.get() > 0 {
            self.wish(Event::InUse(true));
        }
        self.perform_all(first).await;
    }

    /// What the backend shows of the disk, while it is used: its size may be another.
    async fn look_at_disk(&self) {
        let Some(old) = self.disk.get().filter(|_| self.phase() == Phase::Connected) else { return };
        let Some(peer) = self.peer.borrow().clone() else { return };
        let Ok(new) = self.tree.disk(&peer.path).await else { return };
        if new == old {
            return;
        }
        if new.sectors != old.sectors {
            self.count(|account| account.resizes += 1);
        }
        self.disk.set(Some(new));
        self.changed.notify();
    }

    async fn apply(&self, event: Event) {
        let (machine, actions) = self.machine.get().apply(event);
        self.machine.set(machine);
        self.perform_all(actions).await;
    }

    /// Does what the machine says, and what it says to what comes of that.
    async fn perform_all(&self, actions: Vec<Action>) {
        let mut actions = VecDeque::from(actions);
        while let Some(action) = actions.pop_front() {
            if self.outcome.get().is_some() {
                return;
            }
            if let Some(event) = self.perform(action).await {
                let (machine, more) = self.machine.get().apply(event);
                self.machine.set(machine);
                actions.extend(more);
            }
        }
        self.changed.notify();
    }

    async fn perform(&self, action: Action) -> Option<Event> {
        match action {
            Action::Publish(state) => {
                // A directory that has gone is seen at the next look.
                let _ = self.tree.publish(state).await;
            }
            Action::MakeRing => {
                let made = self.make_rings().await;
                return Some(Event::RingMade(self.is_okay(made).await));
            }
            Action::ReadDisk => {
                let read = self.read_disk().await;
                return Some(Event::DiskRead(self.is_okay(read).await));
            }
            Action::StartDisk => self.count(|account| account.connections += 1),
            // Requests look at the machine before they begin.
            Action::StopDisk => {}
            Action::ReleaseRing if self.is_removed.get() => self.release_rings(Front::remove),
            Action::ReleaseRing if self.options.waits_for_answers => self.release_rings(Front::end_without_answers),
            Action::ReleaseRing => self.release_rings(Front::end),
            Action::RefuseClosing => {
                // That it stays is seen from the state, too.
                let _ = self.tree.report(ErrorName::Ebusy, "Device in use; refusing to close").await;
            }
            Action::StartTimer => self.start_timer(),
            Action::StopTimer => self.timer.set(None),
            Action::Finish(outcome) => self.finish(outcome),
        }
        None
    }

    /// Says in XenStore why something could not be done.
    async fn is_okay(&self, result: Result<()>) -> bool {
        if let Err(error) = &result {
            let name = if error.kind() == ErrorKind::LimitReached { ErrorName::Enospc } else { ErrorName::Einval };
            // Whoever cannot be told sees the device closed.
            let _ = self.tree.report(name, &error.to_string()).await;
        }
        result.is_ok()
    }

    async fn make_rings(&self) -> Result<()> {
        let peer = self.peer.borrow().clone().ok_or_else(gone)?;
        let offers = self.tree.offers(&peer.path).await?;
        let order = self.options.order.min(offers.order_max);
        let options = FrontOptions {
            backend: peer.domain,
            abi: self.options.abi,
            order,
            segments_max: self.options.segments_max.min(offers.segments_max).max(SEGMENTS_MAX),
            persistent: self.options.persistent,
        };
        let count = self.options.queues.clamp(1, offers.queues_max);
        self.order.set(order);
        for _ in 0..count {
            match Front::new(&self.executor, &self.kernel, options) {
                Ok(front) => self.queues.borrow_mut().push(front),
                Err(error) => {
                    self.release_rings(Front::end);
                    return Err(error);
                }
            }
        }
        let state = if self.options.jumps { State::Connected } else { State::Initialised };
        let written = self.tree.write_ring(&self.ring_nodes(&options), state).await;
        if written.is_err() {
            self.release_rings(Front::end);
        }
        written
    }

    fn ring_nodes(&self, options: &FrontOptions) -> RingNodes {
        let of = |front: &Front| (front.ring_grants().iter().map(|grant| grant.0).collect(), front.port().0);
        let queues = self.queues.borrow().iter().map(of).collect();
        RingNodes { abi: options.abi, order: options.order, persistent: options.persistent, queues }
    }

    async fn read_disk(&self) -> Result<()> {
        let peer = self.peer.borrow().clone().ok_or_else(gone)?;
        let disk = self.tree.disk(&peer.path).await?;
        let are_kept = self.options.persistent && disk.persistent;
        self.queues.borrow().iter().for_each(|front| front.keep_pages(are_kept));
        self.disk.set(Some(disk));
        Ok(())
    }

    /// There are no rings any more. Requests without an answer will not get one.
    fn release_rings(&self, release: impl Fn(&Front) -> Result<usize>) {
        for front in self.queues.take() {
            // A platform that has gone has taken everything along.
            let kept = release(&front).unwrap_or_default();
            self.count(|account| {
                account.kept_ring_pages += kept as u64;
                account.stray_pages += front.stray_pages();
            });
        }
    }

    fn start_timer(&self) {
        let moment = self.executor.now() + self.options.patience;
        self.timer.set(Some(self.shutdown_end.get().map_or(moment, |end| moment.min(end))));
    }

    fn finish(&self, outcome: Outcome) {
        self.outcome.set(Some(outcome));
        for front in self.queues.take() {
            front.abandon();
            self.count(|account| account.stray_pages += front.stray_pages());
        }
        self.changed.notify();
    }

    pub(super) async fn shutdown(&self, timeout: Duration) -> Outcome {
        let start = self.executor.now();
        // The machine gives up a little earlier, and does what is to be done then.
        let machine_end = start + timeout * 9 / 10;
        self.shutdown_end.set(Some(machine_end));
        self.timer.set(self.timer.get().map(|timer| timer.min(machine_end)));
        self.changed.notify();
        let idle = self.changed.until(|| self.running.get() == 0 || self.outcome.get().is_some());
        select(pin!(idle), pin!(self.executor.sleep_until(start + timeout / 2))).await;
        self.wish(Event::Shutdown);
        match select(pin!(self.left()), pin!(self.executor.sleep_until(start + timeout))).await {
            Either::Left((outcome, _)) => outcome,
            Either::Right(_) => {
                self.finish(Outcome::TimedOut);
                Outcome::TimedOut
            }
        }
    }

    pub(super) async fn left(&self) -> Outcome {
        self.changed.find(|| self.outcome.get()).await
    }

    pub(super) async fn connected(&self) -> Result<DiskProperties> {
        self.changed.find(|| self.if_connected(|| self.disk.get())).await
    }

    pub(super) async fn changed_from(&self, old: DiskProperties) -> Result<DiskProperties> {
        self.changed.find(|| self.if_connected(|| self.disk.get().filter(|disk| *disk != old))).await
    }

    /// The next queue, when there is a disk.
    pub(super) async fn queue(&self) -> Result<(Front, u64)> {
        self.changed.find(|| self.if_connected(|| Some((self.pick_queue()?, self.generation.get())))).await
    }

    fn pick_queue(&self) -> Option<Front> {
        let queues = self.queues.borrow();
        let index = self.next_queue.get();
        self.next_queue.set(index.wrapping_add(1));
        queues.get(index % queues.len().max(1)).cloned()
    }

    /// What `look` finds, if there is a disk; an error if there will be none.
    fn if_connected<T>(&self, look: impl FnOnce() -> Option<T>) -> Option<Result<T>> {
        let is_leaving = matches!(self.phase(), Phase::Leaving | Phase::Left);
        if is_leaving || self.outcome.get().is_some() || self.shutdown_end.get().is_some() {
            return Some(Err(gone()));
        }
        if self.phase() == Phase::Connected { look().map(Ok) } else { None }
    }

    pub(super) fn begin_request(&self) -> Running<'_> {
        self.running.set(self.running.get() + 1);
        Running(self)
    }

    fn wish(&self, event: Event) {
        self.wishes.borrow_mut().push_back(event);
        self.wished.notify();
    }

    pub(super) fn hold(&self) {
        self.holds.set(self.holds.get() + 1);
        if self.holds.get() == 1 {
            self.wish(Event::InUse(true));
        }
    }

    pub(super) fn let_go(&self) {
        self.holds.set(self.holds.get() - 1);
        if self.holds.get() == 0 {
            self.wish(Event::InUse(false));
        }
    }

    fn count(&self, change: impl FnOnce(&mut DeviceAccount)) {
        let mut account = self.account.get();
        change(&mut account);
        self.account.set(account);
    }

    pub(super) fn account(&self) -> DeviceAccount {
        let stray: u64 = self.queues.borrow().iter().map(Front::stray_pages).sum();
        let account = self.account.get();
        DeviceAccount { stray_pages: account.stray_pages + stray, in_flight: self.running.get(), ..account }
    }

    pub(super) fn rings(&self) -> (usize, u32) {
        (self.queues.borrow().len(), self.order.get())
    }

    pub(super) fn phase(&self) -> Phase {
        self.machine.get().phase()
    }

    pub(super) fn disk(&self) -> Option<DiskProperties> {
        self.disk.get()
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation.get()
    }

    pub(super) fn executor(&self) -> &Executor {
        &self.executor
    }
}
