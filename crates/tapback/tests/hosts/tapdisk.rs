//! What a tapdisk does for a backend, with a disk in simulated time: rings are scripts, everything else is the real thing.

use std::{cell::RefCell, collections::BTreeMap, future::Future, rc::Rc, time::Duration};

use block_core::Result;
use control_api::native::{ConnectRing, Geometry, RingConnected, RingOffer};
use futures_util::future::{LocalBoxFuture, ready};
use storage_io::{Executor, Signal, Task, reply};
use tapback::{DeviceName, Disk as NamedDisk, LetGo, NewImage, Reports, TurnBack, Worker};
use virtual_disk::{Disk, Writer};

use crate::support::Script;

/// Between two looks for a request of a guest that stood still.
const LOOK_PAUSE: Duration = Duration::from_millis(20);

pub(crate) struct Tapdisk {
    inner: Rc<Inner>,
}

struct Inner {
    executor: Executor,
    disk: Disk,
    rings: RefCell<BTreeMap<(u16, u32), Rc<Ring>>>,
    changed: Signal,
}

struct Ring {
    guest: RefCell<Script>,
    serving: RefCell<Option<(Task<Script>, Writer)>>,
}

impl Tapdisk {
    pub(crate) fn new(executor: &Executor, disk: &Disk) -> Tapdisk {
        let (executor, disk) = (executor.clone(), disk.clone());
        Tapdisk { inner: Rc::new(Inner { executor, disk, rings: RefCell::default(), changed: Signal::new() }) }
    }

    /// Where a guest puts its requests.
    pub(crate) fn guest(&self, domain: u16, device: u32) -> Option<Script> {
        self.inner.rings.borrow().get(&(domain, device)).map(|ring| ring.guest.borrow().clone())
    }

    /// Has something done where the disk is.
    fn there<T: Send + 'static>(&self, work: impl Future<Output = T> + 'static) -> LocalBoxFuture<'static, T> {
        let (to, answer) = reply();
        self.inner.executor.spawn(async move { drop(to.answer(work.await)) }).detach();
        Box::pin(async move { answer.await.expect("the host is there") })
    }
}

impl Inner {
    /// In a tapdisk's order: write access first.
    async fn connect(self: Rc<Self>, asked: ConnectRing) -> Result<RingConnected> {
        let writer = self.disk.writer();
        self.disk.begin_writing().await?;
        let guest = Script::default();
        let serving = self.disk.queue().serve(guest.clone());
        let ring = Ring { guest: RefCell::new(guest), serving: RefCell::new(Some((serving, writer))) };
        self.rings.borrow_mut().insert((asked.domain, asked.device), Rc::new(ring));
        let geometry = self.disk.status().geometry().expect("it is open");
        Ok(RingConnected {
            already: false,
            geometry: Geometry { bytes: geometry.bytes(), logical_block_bytes: 512, ..Geometry::default() },
            offer: RingOffer::default(),
        })
    }

    /// And last.
    async fn disconnect(self: Rc<Self>, name: (u16, u32)) -> LetGo {
        let ring = self.rings.borrow().get(&name).cloned();
        if let Some(ring) = ring {
            self.drain(&ring).await;
            self.rings.borrow_mut().remove(&name);
            self.changed.notify();
        }
        self.settled().await
    }

    async fn drain(&self, ring: &Ring) {
        ring.guest.borrow().end();
        let serving = ring.serving.take();
        if let Some((serving, writer)) = serving {
            serving.await;
            drop(writer);
        }
    }

    async fn settled(&self) -> LetGo {
        let flushed = self.disk.flush().await;
        let settled = flushed.and(self.disk.end_writing().await);
        LetGo { is_answered: true, not_durable: settled.err().map(|error| error.to_string()) }
    }

    async fn settle(self: Rc<Self>, name: (u16, u32)) -> LetGo {
        let ring = self.rings.borrow().get(&name).cloned();
        if let Some(ring) = ring {
            self.drain(&ring).await;
            ring.guest.replace(Script::default());
            self.executor.spawn(self.clone().wake(name, ring)).detach();
        }
        self.settled().await
    }

    /// A guest that asks again is served when it may write again.
    async fn wake(self: Rc<Self>, name: (u16, u32), ring: Rc<Ring>) {
        let guest = ring.guest.borrow().clone();
        while guest.waiting() == 0 {
            self.executor.sleep(LOOK_PAUSE).await;
            if !self.rings.borrow().contains_key(&name) {
                return;
            }
        }
        loop {
            let writer = self.disk.writer();
            if self.disk.begin_writing().await.is_ok() {
                ring.serving.replace(Some((self.disk.queue().serve(guest), writer)));
                return;
            }
        }
    }
}

impl Worker for Tapdisk {
    fn connect(&self, _: NamedDisk, ring: ConnectRing) -> LocalBoxFuture<'static, Result<RingConnected>> {
        self.there(self.inner.clone().connect(ring))
    }

    fn disconnect(
        &self,
        _: NamedDisk,
        device: DeviceName,
        _: tapback::Guest,
    ) -> LocalBoxFuture<'static, Result<LetGo>> {
        let inner = self.inner.clone();
        self.there(async move { Ok(inner.disconnect((device.domain.0, device.device)).await) })
    }

    fn settle(&self, _: NamedDisk, device: DeviceName) -> LocalBoxFuture<'static, Result<LetGo>> {
        let inner = self.inner.clone();
        self.there(async move { Ok(inner.settle((device.domain.0, device.device)).await) })
    }

    fn watch(&self, _: NamedDisk, device: DeviceName, _: Rc<Reports>) -> LocalBoxFuture<'static, Result<()>> {
        let inner = self.inner.clone();
        Box::pin(async move {
            let name = (device.domain.0, device.device);
            inner.changed.until(|| !inner.rings.borrow().contains_key(&name)).await;
            Ok(())
        })
    }

    fn pause(&self, _: NamedDisk, _: Rc<TurnBack>) -> LocalBoxFuture<'static, Result<bool>> {
        Box::pin(ready(Ok(false)))
    }

    fn resume(&self, _: NamedDisk, _: NewImage) -> LocalBoxFuture<'static, Result<bool>> {
        Box::pin(ready(Ok(false)))
    }
}
