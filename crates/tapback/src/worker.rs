//! Who serves rings, as far as devices know it.

use std::rc::Rc;

use block_core::Result;
use control_api::native::{ConnectRing, RingConnected};
use futures_util::future::LocalBoxFuture;

use crate::{DeviceName, Reports};

/// A disk that a tapdisk has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Disk {
    /// The process.
    pub pid: u32,
    /// The disk's number on this host.
    pub minor: u16,
}

/// Who serves rings. What is asked may take as long as storage takes.
pub trait Worker {
    /// Serves the rings of a guest's device. The same rings again are fine; others while there are some are refused with
    /// `EALREADY`.
    fn connect(&self, disk: Disk, ring: ConnectRing) -> LocalBoxFuture<'static, Result<RingConnected>>;

    /// Ends with all requests answered and nothing of the guest's held. Rings that are not connected, and a process that
    /// has gone, are as good. After an error nothing is known: whoever asked asks again.
    fn disconnect(&self, disk: Disk, device: DeviceName) -> LocalBoxFuture<'static, Result<()>>;

    /// Tells what happens to a device's rings until they are not connected any more. After an error whoever asked asks
    /// again: what holds already is told at once.
    fn watch(&self, disk: Disk, device: DeviceName, reports: Rc<Reports>) -> LocalBoxFuture<'static, Result<()>>;
}
