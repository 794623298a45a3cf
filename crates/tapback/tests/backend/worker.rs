//! A tapdisk that serves nothing and remembers everything.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    pin::pin,
    rc::Rc,
};

use block_core::{Error, ErrorKind, Result};
use control_api::native::{ConnectRing, Geometry, RingConnected, RingEvent, RingOffer};
use futures_util::future::{Either, LocalBoxFuture, ready, select};
use storage_io::Signal;
use tapback::{DeviceName, Disk, Guest, ImageNodes, LetGo, NewImage, Opener, Reports, TurnBack, Worker};

/// What may be made to happen, and what has happened.
#[derive(Default)]
pub(crate) struct FakeWorker {
    inner: Rc<Inner>,
}

#[derive(Default)]
pub(crate) struct Inner {
    /// Rings that are connected, by domain and device.
    pub(crate) rings: RefCell<BTreeMap<(u16, u32), ConnectRing>>,
    /// How often rings were connected and disconnected, and asked for in vain.
    pub(crate) connected: Cell<u32>,
    pub(crate) disconnected: Cell<u32>,
    /// Whose data may be used, of those that were to be let go of.
    pub(crate) parted: RefCell<Vec<Guest>>,
    pub(crate) refused: Cell<u32>,
    /// Connecting, disconnecting takes until this is over, for all devices or for one.
    pub(crate) is_slow_to_connect: Cell<bool>,
    pub(crate) is_slow_to_disconnect: Cell<Option<u32>>,
    /// The next connections fail with this number.
    pub(crate) refusal: Cell<Option<i32>>,
    /// Devices that were settled, one after the other.
    pub(crate) settled: RefCell<Vec<(u16, u32)>>,
    /// Why what was written is not durable.
    pub(crate) not_durable: RefCell<Option<String>>,
    /// There is no process to be asked.
    pub(crate) has_gone: Cell<bool>,
    /// The next so many disconnections fail.
    pub(crate) failures: Cell<u32>,
    pub(crate) geometry: Cell<Option<Geometry>>,
    reports: RefCell<BTreeMap<(u16, u32), Rc<Reports>>>,
    /// Disks at rest, and with what images others were resumed.
    pub(crate) paused: RefCell<BTreeSet<Disk>>,
    pub(crate) resumed: RefCell<Vec<NewImage>>,
    /// Pausing takes until this is over, unless it is turned back.
    pub(crate) is_slow_to_pause: Cell<bool>,
    /// The next so many are not paused, not resumed.
    pub(crate) unpausable: Cell<u32>,
    pub(crate) unresumable: Cell<u32>,
    /// How many were turned back.
    pub(crate) turned_back: Cell<u32>,
    /// The processes that have died.
    pub(crate) dead: RefCell<BTreeSet<u32>>,
    changed: Signal,
}

impl std::ops::Deref for FakeWorker {
    type Target = Rc<Inner>;

    fn deref(&self) -> &Rc<Inner> {
        &self.inner
    }
}

impl Inner {
    pub(crate) fn set_slow_to_connect(&self, slow: bool) {
        self.is_slow_to_connect.set(slow);
        self.changed.notify();
    }

    pub(crate) fn set_slow_to_disconnect(&self, device: Option<u32>) {
        self.is_slow_to_disconnect.set(device);
        self.changed.notify();
    }

    pub(crate) fn is_connected(&self, domain: u16, device: u32) -> bool {
        self.rings.borrow().contains_key(&(domain, device))
    }

    pub(crate) fn ring(&self, domain: u16, device: u32) -> ConnectRing {
        self.rings.borrow()[&(domain, device)].clone()
    }

    /// Tells whoever watches a device.
    pub(crate) fn report(&self, domain: u16, device: u32, event: RingEvent) {
        self.reports.borrow()[&(domain, device)].put(event);
    }

    /// The process goes away, with all its rings.
    pub(crate) fn die(&self) {
        self.rings.borrow_mut().clear();
        self.changed.notify();
    }

    pub(crate) fn size() -> Geometry {
        Geometry { bytes: 4 << 20, logical_block_bytes: 512, physical_block_bytes: 4096, read_only: false }
    }

    async fn connect(self: Rc<Self>, ring: ConnectRing) -> Result<RingConnected> {
        self.changed.until(|| !self.is_slow_to_connect.get()).await;
        if let Some(number) = self.refusal.get() {
            self.refused.set(self.refused.get() + 1);
            return Err(Error::from_os("as the test wants it", std::io::Error::from_raw_os_error(number)));
        }
        let key = (ring.domain, ring.device);
        if ring.adopt && !self.rings.borrow().contains_key(&key) {
            return Err(Error::from_os("it was lost", std::io::Error::from_raw_os_error(107)));
        }
        let ring = ConnectRing { adopt: false, ..ring };
        let old = self.rings.borrow_mut().entry(key).or_insert_with(|| ring.clone()).clone();
        if old != ring {
            return Err(Error::from_os("it has others", std::io::Error::from_raw_os_error(114)));
        }
        self.connected.set(self.connected.get() + 1);
        let geometry = self.geometry.get().unwrap_or_else(Inner::size);
        let geometry = Geometry { read_only: ring.read_only, ..geometry };
        let offer = RingOffer {
            flush: true,
            barrier: true,
            discard: !ring.read_only && !ring.no_discard,
            discard_granularity: 4096,
            persistent: true,
            indirect_segments: ring.indirect_segments,
            ..RingOffer::default()
        };
        Ok(RingConnected { already: false, geometry, offer })
    }

    async fn disconnect(self: Rc<Self>, key: (u16, u32)) -> Result<LetGo> {
        self.changed.until(|| self.is_slow_to_disconnect.get() != Some(key.1)).await;
        if self.failures.get() > 0 {
            self.failures.set(self.failures.get() - 1);
            return Err(Error::new(ErrorKind::Io, "as the test wants it"));
        }
        self.disconnected.set(self.disconnected.get() + 1);
        self.rings.borrow_mut().remove(&key);
        self.changed.notify();
        Ok(LetGo { is_answered: !self.has_gone.get(), not_durable: self.not_durable.borrow().clone() })
    }

    pub(crate) fn set_slow_to_pause(&self, slow: bool) {
        self.is_slow_to_pause.set(slow);
        self.changed.notify();
    }

    async fn pause(self: Rc<Self>, disk: Disk, turn_back: Rc<TurnBack>) -> Result<bool> {
        let slow = pin!(self.changed.until(|| !self.is_slow_to_pause.get()));
        let is_turned_back = matches!(select(pin!(turn_back.wanted()), slow).await, Either::Left(_));
        if self.dead.borrow().contains(&disk.pid) {
            return Ok(false);
        }
        if is_turned_back {
            self.turned_back.set(self.turned_back.get() + 1);
            return Err(Error::from_os("turned back", std::io::Error::from_raw_os_error(125)));
        }
        if self.unpausable.get() > 0 {
            self.unpausable.set(self.unpausable.get() - 1);
            return Err(Error::from_os("as the test wants it", std::io::Error::from_raw_os_error(5)));
        }
        self.paused.borrow_mut().insert(disk);
        Ok(true)
    }

    async fn resume(self: Rc<Self>, disk: Disk, image: NewImage) -> Result<bool> {
        if self.dead.borrow().contains(&disk.pid) {
            return Ok(false);
        }
        if self.unresumable.get() > 0 {
            self.unresumable.set(self.unresumable.get() - 1);
            return Err(Error::from_os("another parent", std::io::Error::from_raw_os_error(22)));
        }
        if self.paused.borrow_mut().remove(&disk) {
            self.resumed.borrow_mut().push(image);
        }
        Ok(true)
    }

    pub(crate) fn is_paused(&self) -> bool {
        !self.paused.borrow().is_empty()
    }

    async fn watch(self: Rc<Self>, key: (u16, u32), reports: Rc<Reports>) -> Result<()> {
        self.reports.borrow_mut().insert(key, reports);
        self.changed.until(|| !self.rings.borrow().contains_key(&key)).await;
        Ok(())
    }
}

impl Worker for FakeWorker {
    fn connect(&self, _: Disk, ring: ConnectRing) -> LocalBoxFuture<'static, Result<RingConnected>> {
        Box::pin(self.inner.clone().connect(ring))
    }

    fn disconnect(&self, _: Disk, device: DeviceName, guest: Guest) -> LocalBoxFuture<'static, Result<LetGo>> {
        self.parted.borrow_mut().push(guest);
        Box::pin(self.inner.clone().disconnect((device.domain.0, device.device)))
    }

    fn settle(&self, _: Disk, device: DeviceName) -> LocalBoxFuture<'static, Result<LetGo>> {
        self.inner.settled.borrow_mut().push((device.domain.0, device.device));
        Box::pin(ready(Ok(LetGo { is_answered: true, not_durable: None })))
    }

    fn watch(&self, _: Disk, device: DeviceName, reports: Rc<Reports>) -> LocalBoxFuture<'static, Result<()>> {
        Box::pin(self.inner.clone().watch((device.domain.0, device.device), reports))
    }

    fn pause(&self, disk: Disk, turn_back: Rc<TurnBack>) -> LocalBoxFuture<'static, Result<bool>> {
        Box::pin(self.inner.clone().pause(disk, turn_back))
    }

    fn resume(&self, disk: Disk, image: NewImage) -> LocalBoxFuture<'static, Result<bool>> {
        Box::pin(self.inner.clone().resume(disk, image))
    }
}

/// Gives every image the process and the minor that its nodes say, and counts.
#[derive(Default)]
pub(crate) struct FakeOpener {
    inner: Rc<OpenerInner>,
}

#[derive(Default)]
pub(crate) struct OpenerInner {
    /// Disks that were opened and not closed.
    pub(crate) open: Cell<i32>,
    /// Disks that were opened, ever.
    pub(crate) opened: Cell<u32>,
    pub(crate) fails: Cell<bool>,
    is_slow: Cell<bool>,
    changed: Signal,
}

impl std::ops::Deref for FakeOpener {
    type Target = Rc<OpenerInner>;

    fn deref(&self) -> &Rc<OpenerInner> {
        &self.inner
    }
}

impl OpenerInner {
    pub(crate) fn set_slow(&self, slow: bool) {
        self.is_slow.set(slow);
        self.changed.notify();
    }
}

impl Opener for FakeOpener {
    fn open(&self, _: &DeviceName, image: ImageNodes) -> LocalBoxFuture<'static, Result<Disk>> {
        let inner = self.inner.clone();
        Box::pin(async move {
            inner.changed.until(|| !inner.is_slow.get()).await;
            if inner.fails.get() {
                return Err(Error::new(ErrorKind::NotFound, "no such image"));
            }
            inner.open.set(inner.open.get() + 1);
            inner.opened.set(inner.opened.get() + 1);
            let minor = image.minor.as_deref().unwrap_or("0").parse().unwrap();
            let pid = image.pid.as_deref().unwrap_or("4711").parse().unwrap();
            Ok(Disk { pid, minor })
        })
    }

    fn close(&self, _: &DeviceName, _: Disk) {
        self.inner.open.set(self.inner.open.get() - 1);
    }
}
