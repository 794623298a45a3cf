//! A ring's life: connected, served, disconnected.

use std::{fmt, rc::Rc, sync::Arc};

use block_core::{Error, ErrorKind, Result, ResultExt};
use storage_io::Task;
use virtual_disk::{DiskQueue, Geometry};
use wire::blkif::{Abi, Limits, OperationCode};
use xen::{Access, DomainId, EventChannels, GrantRef, Grants, Port};

use super::{
    doorbell::Doorbell,
    ring::{BrokenRing, Ring},
    source::{Controls, RingCounters, RingSource},
    transfers::Pages,
};

/// What a guest has said of its ring, and what it is offered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RingOptions {
    /// The guest.
    pub domain: DomainId,
    /// The pages of the ring, in order: 1, 2, 4, 8 or 16.
    pub pages: Vec<GrantRef>,
    /// The guest's end of the event channel.
    pub port: Port,
    /// How it is laid out.
    pub abi: Abi,
    /// What was offered; anything else is answered as unsupported.
    pub offer: Limits,
}

/// A ring that is served, on the thread of its queue. Dropping it lets go of the ring at once; what storage still holds
/// is not answered any more.
pub struct ConnectedRing {
    controls: Rc<Controls>,
    serving: Task<RingSource>,
}

/// How a ring ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingEnd {
    /// What it had done.
    pub counters: RingCounters,
    /// What was wrong with it, if anything.
    pub broken: Option<BrokenRing>,
}

impl ConnectedRing {
    /// Maps a ring, binds its event channel, and serves it. Requests may be in it already.
    ///
    /// # Errors
    /// `Invalid` if the ring makes no sense or its pages are not granted, or what the platform says.
    pub fn connect(
        queue: &DiskQueue,
        grants: Arc<dyn Grants>,
        channels: &dyn EventChannels,
        options: &RingOptions,
    ) -> Result<ConnectedRing> {
        let RingOptions { domain, pages, port, abi, offer } = options;
        if pages.is_empty() || pages.len() > 16 {
            return Err(Error::new(ErrorKind::Invalid, BrokenRing::WrongLength.to_string()));
        }
        let geometry = queue.status().geometry();
        let geometry = geometry.ok_or_else(|| Error::new(ErrorKind::Closed, "the disk is not open"))?;
        let memory = grants.map(*domain, pages, Access::Write).context("the ring")?;
        let ring = Ring::attach(memory, *abi).map_err(|broken| Error::new(ErrorKind::Invalid, broken.to_string()))?;
        let channel = channels.bind(queue.executor(), *domain, *port)?;
        let controls = Rc::<Controls>::default();
        let source = RingSource::new(
            ring,
            Pages { grants, domain: *domain },
            queue.pool().clone(),
            Doorbell::new(queue.executor(), channel),
            geometry,
            *offer,
            controls.clone(),
        );
        Ok(ConnectedRing { controls, serving: queue.serve(source) })
    }

    /// What it has done until now.
    pub fn counters(&self) -> RingCounters {
        self.controls.counters.get()
    }

    /// Every request that was taken and is not answered, in words.
    pub fn outstanding(&self) -> Vec<String> {
        self.controls.table.borrow().describe()
    }

    /// What is wrong with it, if anything.
    pub fn broken(&self) -> Option<BrokenRing> {
        self.controls.broken.get()
    }

    /// What the disk has become, if it has changed since this was asked last.
    pub fn take_resized(&self) -> Option<Geometry> {
        self.controls.resized.take()
    }

    /// Operations that turned out not to be possible since this was asked last.
    pub fn take_unsupported(&self) -> Vec<OperationCode> {
        self.controls.unsupported.take()
    }

    /// Takes no more requests, waits until those that were taken have been answered, and lets go: event channel first,
    /// pages second.
    pub async fn disconnect(self) -> RingEnd {
        self.controls.is_stopping.set(true);
        let waker = self.controls.waker.borrow_mut().take();
        if let Some(waker) = waker {
            waker.wake();
        }
        let source = self.serving.await;
        source.let_go();
        RingEnd { counters: self.controls.counters.get(), broken: self.controls.broken.get() }
    }
}

impl fmt::Debug for ConnectedRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConnectedRing({:?})", self.counters())
    }
}
