//! Tapdisks as those who serve rings.

use std::rc::Rc;

use block_core::{Error, Result};
use control_api::{
    RunDir,
    native::{Command, ConnectRing, ResultOf, RingConnected},
};
use futures_util::future::LocalBoxFuture;
use rustix::io::Errno;
use storage_io::Executor;

use crate::{DeviceName, Disk, Reports, Worker, connection::Connection};

/// The tapdisks of a host, asked in their native protocol. Each question takes a connection of its own.
#[derive(Clone)]
pub struct Tapdisks {
    executor: Executor,
    run: RunDir,
}

impl Tapdisks {
    /// The tapdisks whose sockets are here.
    pub fn new(executor: &Executor, run: RunDir) -> Tapdisks {
        Tapdisks { executor: executor.clone(), run }
    }

    async fn open(&self, disk: Disk) -> Result<Option<Connection>> {
        Connection::open(&self.executor, self.run.native_socket(disk.pid)).await
    }

    /// Has one of them carry out a command; none if there is no such process, or it speaks no native protocol.
    pub(crate) async fn ask(&self, pid: u32, command: Command) -> Result<Option<ResultOf>> {
        let Some(mut connection) = Connection::open(&self.executor, self.run.native_socket(pid)).await? else {
            return Ok(None);
        };
        connection.ask(command, |_| {}).await.map(Some)
    }

    async fn connect(self, disk: Disk, ring: ConnectRing) -> Result<RingConnected> {
        let gone = || Error::from_os(format!("tapdisk {} does not run", disk.pid), Errno::NODEV.into());
        let mut connection = self.open(disk).await?.ok_or_else(gone)?;
        match connection.ask(Command::ConnectRing(ring), |_| {}).await? {
            ResultOf::ConnectRing(connected) => Ok(connected),
            _ => Err(connection.not_understood("the answer to another command")),
        }
    }

    async fn disconnect(self, disk: Disk, device: DeviceName) -> Result<()> {
        let Some(mut connection) = self.open(disk).await? else { return Ok(()) };
        let (domain, device) = (device.domain.0, device.device);
        let command = Command::DisconnectRing { minor: disk.minor, domain, device, deadline_ms: None };
        match connection.ask(command, |_| {}).await {
            Ok(_) => Ok(()),
            Err(error) if has_no_such_ring(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn watch(self, disk: Disk, device: DeviceName, reports: Rc<Reports>) -> Result<()> {
        let Some(mut connection) = self.open(disk).await? else { return Ok(()) };
        let (domain, device) = (device.domain.0, device.device);
        let command = Command::WatchRing { minor: disk.minor, domain, device };
        match connection.ask(command, |event| reports.put(event)).await {
            Ok(_) => Ok(()),
            Err(error) if has_no_such_ring(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// The tapdisk does not know the disk, or not the ring.
fn has_no_such_ring(error: &Error) -> bool {
    error.os_error() == Some(Errno::NODEV.raw_os_error())
}

impl Worker for Tapdisks {
    fn connect(&self, disk: Disk, ring: ConnectRing) -> LocalBoxFuture<'static, Result<RingConnected>> {
        Box::pin(self.clone().connect(disk, ring))
    }

    fn disconnect(&self, disk: Disk, device: DeviceName) -> LocalBoxFuture<'static, Result<()>> {
        Box::pin(self.clone().disconnect(disk, device))
    }

    fn watch(&self, disk: Disk, device: DeviceName, reports: Rc<Reports>) -> LocalBoxFuture<'static, Result<()>> {
        Box::pin(self.clone().watch(disk, device, reports))
    }
}

impl std::fmt::Debug for Tapdisks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tapdisks({})", self.run.path().display())
    }
}
