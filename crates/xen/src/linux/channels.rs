//! `/dev/xen/evtchn`: events between domains. Each channel has the device open for itself: what happens to one cannot
//! disturb another.

use std::{
    fmt,
    future::Future,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
};

use block_core::{Error, Result, ResultExt};
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};
use storage_io::Executor;

use super::calls::{BindInterdomain, call, number};
use crate::{DomainId, EventChannel, EventChannels, Port};

/// The device, where it usually is.
pub(super) const DEVICE: &str = "/dev/xen/evtchn";
/// Its name there.
const NAME: &str = "evtchn";

/// Event channels of this domain.
#[derive(Clone, Debug)]
pub struct LinuxChannels {
    device: PathBuf,
}

impl LinuxChannels {
    /// Channels by the device where it usually is.
    pub fn new() -> LinuxChannels {
        LinuxChannels { device: DEVICE.into() }
    }

    /// Channels by the device in this directory.
    pub(super) fn in_directory(directory: &Path) -> LinuxChannels {
        LinuxChannels { device: directory.join(NAME) }
    }

    /// Leaves an end open for a domain.
    pub(super) fn leave_open(&self, executor: &Executor, to: DomainId) -> Result<Box<dyn EventChannel>> {
        let device = LinuxChannels::open(&self.device)?;
        let mut domain = u32::from(to.0);
        let words = "leaving an event channel open";
        // SAFETY: the argument is the number of a domain, as the call demands.
        let port = unsafe { call(&device, number::BIND_UNBOUND_PORT, &raw mut domain, words) };
        let port = port.context(format!("domain {to}"))?;
        Ok(Box::new(Channel { executor: executor.clone(), device: Arc::new(device), port: Port(port) }))
    }

    fn open(path: &Path) -> Result<OwnedFd> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let opened = rustix::io::retry_on_intr(|| rustix::fs::open(path, flags, Mode::empty()));
        opened.map_err(|error| Error::from_os(path.display().to_string(), error.into()))
    }
}

impl Default for LinuxChannels {
    fn default() -> LinuxChannels {
        LinuxChannels::new()
    }
}

impl EventChannels for LinuxChannels {
    fn bind(&self, executor: &Executor, domain: DomainId, remote: Port) -> Result<Box<dyn EventChannel>> {
        let device = LinuxChannels::open(&self.device)?;
        let mut bind = BindInterdomain { domain: u32::from(domain.0), port: remote.0 };
        let words = "binding an event channel";
        // SAFETY: the argument is what the call demands.
        let port = unsafe { call(&device, number::BIND_INTERDOMAIN, &raw mut bind, words) };
        let port = port.context(format!("domain {domain}, port {remote}"))?;
        Ok(Box::new(Channel { executor: executor.clone(), device: Arc::new(device), port: Port(port) }))
    }
}

struct Channel {
    executor: Executor,
    device: Arc<OwnedFd>,
    port: Port,
}

impl Channel {
    async fn next(&self) -> Result<()> {
        let mut bytes = [0; 4];
        loop {
            match rustix::io::read(&*self.device, &mut bytes) {
                // It can only be ours: the device was opened for it alone.
                Ok(_) => return Ok(()),
                Err(Errno::AGAIN) => self.executor.readable_owned(self.device.clone()).await?,
                Err(Errno::INTR) => {}
                Err(error) => return Err(Error::from_os("event channel", error.into())),
            }
        }
    }

    fn tell(&self, number: u32, words: &'static str) {
        let mut port = self.port.0;
        // SAFETY: the argument is the number of a port. One whose other end has gone cannot be told, which is as good.
        let _ = unsafe { call(&self.device, number, &raw mut port, words) };
    }
}

impl EventChannel for Channel {
    fn port(&self) -> Port {
        self.port
    }

    fn wait(&self) -> Pin<Box<dyn Future<Output = Result<()>> + '_>> {
        Box::pin(self.next())
    }

    fn unmask(&self) {
        // A port that has been unbound meanwhile is ignored.
        let _ = rustix::io::write(&*self.device, &self.port.0.to_le_bytes());
    }

    fn notify(&self) {
        self.tell(number::NOTIFY, "event channel");
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Channel(port {})", self.port)
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.tell(number::UNBIND_PORT, "unbinding an event channel");
    }
}
