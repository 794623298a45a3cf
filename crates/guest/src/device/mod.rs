//! A device of a guest: from what another kernel has left in XenStore to a disk that can be used, and back.
//!
//! ```text
//!   nodes that changed --+                                       +--> state, rings, errors written
//!   a timer -------------+--> Frontend (a pure machine) --> hands +--> Front, one for each queue
//!   what its owner wants +                                       +--> what its owner waits for
//! ```
//!
//! [`Device`] knows nothing but the tree: a process that never saw the disk before takes it over from whatever state the
//! one before has left. What is watched is looked at again after every event, so an event too many changes nothing, and
//! nothing is missed when watches were dropped for a while.

use std::{rc::Rc, sync::Arc, time::Duration};

use block_core::Result;
use storage_io::{Executor, Task};
use wire::{
    blkif::{Abi, INDIRECT_SEGMENTS_MAX},
    xenstore::Path,
};
use xen::{Kernel, store::Store};
use xenbus::{Outcome, Phase};

use inner::Inner;

mod by_hand;
mod disk;
mod inner;
mod tree;

pub use by_hand::ByHand;
pub use disk::DiskProperties;
pub(crate) use tree::below;

/// How a device is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceOptions {
    /// What the guest was compiled for.
    pub abi: Abi,
    /// Rings have two to the power of this many pages, or as many as the backend offers if that is less.
    pub order: u32,
    /// Rings, or as many as the backend offers if that is less.
    pub queues: u32,
    /// Segments of one request, or as many as the backend offers if that is less.
    pub segments_max: usize,
    /// Data pages stay granted between requests if the backend keeps them, too.
    pub persistent: bool,
    /// Say `Connected` with the ring, without `Initialised` before: there are kernels, such as mini-os, that do.
    pub jumps: bool,
    /// What the backend has not answered when it closes the disk has no end, as with the kernels of guests; else it fails.
    pub waits_for_answers: bool,
    /// How long the backend may take for each step of an end.
    pub patience: Duration,
}

impl Default for DeviceOptions {
    fn default() -> DeviceOptions {
        DeviceOptions {
            abi: Abi::X86_64,
            order: 0,
            queues: 1,
            segments_max: INDIRECT_SEGMENTS_MAX.into(),
            persistent: false,
            jumps: false,
            waits_for_answers: false,
            patience: Duration::from_secs(5),
        }
    }
}

/// What a device has used and lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceAccount {
    /// How often it was connected.
    pub connections: u64,
    /// How often another size of the disk was seen.
    pub resizes: u64,
    /// Pages that the backend still used when their request had been answered. There should be none, ever.
    pub stray_pages: u64,
    /// Pages of rings that the backend still had when it said that it had let go.
    pub kept_ring_pages: u64,
    /// Requests without an answer.
    pub in_flight: usize,
}

/// A block device of a guest, on one executor. Clones are the same; when the last one goes, nobody looks at the device
/// any more, as after a crash: its node stays as it is.
#[derive(Clone)]
pub struct Device(Rc<Handle>);

struct Handle {
    inner: Rc<Inner>,
    _looking: Task<()>,
}

impl Device {
    /// Takes care of the device whose directory is `own`, such as `/local/domain/7/device/vbd/51712`, from the state that
    /// it is in.
    ///
    /// # Errors
    /// When XenStore cannot be asked, or there is no such device.
    pub async fn open(
        executor: &Executor,
        kernel: &(impl Kernel + Clone + 'static),
        store: &Store,
        own: Path,
        options: DeviceOptions,
    ) -> Result<Device> {
        let (inner, first) = Inner::open(executor, Arc::new(kernel.clone()), store, own, options).await?;
        let looking = inner.clone();
        let looking = executor.spawn(async move { looking.run(first).await });
        Ok(Device(Rc::new(Handle { inner, _looking: looking })))
    }

    fn inner(&self) -> &Rc<Inner> {
        &self.0.inner
    }

    /// Where it is in its life.
    pub fn phase(&self) -> Phase {
        self.inner().phase()
    }

    /// Ends when there is a disk; says what it is.
    ///
    /// # Errors
    /// `Closed` when the device is left, and there will be none.
    pub async fn connected(&self) -> Result<DiskProperties> {
        self.inner().connected().await
    }

    /// What the disk is by now, if there is one.
    pub fn disk(&self) -> Option<DiskProperties> {
        self.inner().disk()
    }

    /// Ends when the disk is no more what it was: it has grown, for one.
    ///
    /// # Errors
    /// `Closed` when the device is left.
    pub async fn changed_from(&self, old: DiskProperties) -> Result<DiskProperties> {
        self.inner().changed_from(old).await
    }

    /// As long as somebody holds it, the disk is in use: the backend may not just take it away.
    pub fn hold(&self) -> Hold {
        self.inner().hold();
        Hold(self.inner().clone())
    }

    /// Ends when the device is left; says how.
    pub async fn left(&self) -> Outcome {
        self.inner().left().await
    }

    /// Leaves the device so that another kernel can have it, whoever uses it. New requests are refused at once; those that
    /// run may end. It takes no longer than `timeout`, whatever the backend does.
    pub async fn shutdown(&self, timeout: Duration) -> Outcome {
        self.inner().shutdown(timeout).await
    }

    /// What it has used and lost.
    pub fn account(&self) -> DeviceAccount {
        self.inner().account()
    }

    /// The rings that there are: how many, and of which order.
    pub fn rings(&self) -> (usize, u32) {
        self.inner().rings()
    }
}

/// Somebody uses the disk.
#[derive(Debug)]
pub struct Hold(Rc<Inner>);

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.let_go();
    }
}
