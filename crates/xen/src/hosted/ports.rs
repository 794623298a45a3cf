//! Event channels of a hosted platform: two eventfds each.

use std::{cell::Cell, fmt, future::Future, os::fd::OwnedFd, path::Path, pin::Pin, rc::Rc, sync::Arc};

use block_core::{Result, ResultExt};
use rustix::io::Errno;
use storage_io::Executor;

use super::{connection::Connection, guest::SharedDescriptor, layout::Ask};
use crate::{DomainId, EventChannel, EventChannels, Port};

/// Channels of a hosted platform.
#[derive(Clone, Debug)]
pub struct HostedChannels(Rc<Connection>);

impl HostedChannels {
    /// The channels of the domain `own`, by the broker whose socket is in `directory`.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn connect(directory: &Path, own: DomainId) -> Result<HostedChannels> {
        Connection::open(directory, own).map(Rc::new).map(HostedChannels)
    }
}

impl EventChannels for HostedChannels {
    fn bind(&self, executor: &Executor, domain: DomainId, remote: Port) -> Result<Box<dyn EventChannel>> {
        let ([port, _], [wait, notify]) = self.0.ask_for(Ask::Bind, u32::from(domain.0), remote.0)?;
        let doorbell = Doorbell::new(executor, wait, notify);
        Ok(Box::new(Channel { connection: self.0.clone(), port: Port(port), doorbell }))
    }
}

struct Channel {
    connection: Rc<Connection>,
    port: Port,
    doorbell: Doorbell,
}

impl EventChannel for Channel {
    fn port(&self) -> Port {
        self.port
    }

    fn wait(&self) -> Pin<Box<dyn Future<Output = Result<()>> + '_>> {
        Box::pin(self.doorbell.wait())
    }

    fn unmask(&self) {
        self.doorbell.unmask();
    }

    fn notify(&self) {
        self.doorbell.notify();
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Channel(port {})", self.port)
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        // The broker does the same when we go.
        let _ = self.connection.ask(Ask::Unbind, self.port.0, 0);
    }
}

/// One end of a channel: an eventfd to wait for, and one to write to.
#[derive(Debug)]
pub(super) struct Doorbell {
    executor: Executor,
    wait: SharedDescriptor,
    notify: OwnedFd,
    is_masked: Cell<bool>,
}

impl Doorbell {
    pub(super) fn new(executor: &Executor, wait: OwnedFd, notify: OwnedFd) -> Doorbell {
        Doorbell { executor: executor.clone(), wait: Arc::new(wait), notify, is_masked: Cell::new(false) }
    }

    pub(super) async fn wait(&self) -> Result<()> {
        assert!(!self.is_masked.get(), "no event comes before the last one was unmasked");
        let mut bytes = [0; 8];
        loop {
            match rustix::io::read(&*self.wait, &mut bytes) {
                Ok(_) => break,
                Err(Errno::AGAIN) => self.executor.readable_owned(self.wait.clone()).await?,
                Err(Errno::INTR) => {}
                Err(error) => return Err(std::io::Error::from(error)).context("event channel"),
            }
        }
        self.is_masked.set(true);
        Ok(())
    }

    pub(super) fn unmask(&self) {
        self.is_masked.set(false);
    }

    pub(super) fn notify(&self) {
        // A counter that is full has an event waiting already.
        let _ = rustix::io::write(&self.notify, &1_u64.to_le_bytes());
    }
}
