//! Tapdisks as those who serve rings.

use std::{cell::Cell, ffi::OsString, pin::pin, rc::Rc};

use block_core::{Error, Result};
use control_api::{
    RunDir,
    native::{Command, ConnectRing, DiskSummary, ResultOf, RingConnected, RingDisconnected, RingSettled, State},
};
use futures_util::future::{Either, LocalBoxFuture, select};
use rustix::io::Errno;
use storage_io::{Executor, Signal};

use crate::{
    DeviceName, Disk, Exit, Guest, LetGo, NewImage, Reports, TurnBack, Worker,
    connection::Connection,
    supervision::{Failing, exit},
};

/// The tapdisks of a host, asked in their native protocol. Each question takes a connection of its own.
#[derive(Clone)]
pub struct Tapdisks {
    executor: Executor,
    run: RunDir,
    failing: Failing,
}

impl Tapdisks {
    /// The tapdisks whose sockets are here.
    pub fn new(executor: &Executor, run: RunDir) -> Tapdisks {
        Tapdisks::with_variables(executor, run, &[])
    }

    /// As [`new`](Self::new); those that are started get these variables.
    pub fn with_variables(executor: &Executor, run: RunDir, variables: &[(&'static str, OsString)]) -> Tapdisks {
        let failing = Failing::new(executor, run.clone(), variables);
        Tapdisks { executor: executor.clone(), run, failing }
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

    async fn disconnect(self, disk: Disk, device: DeviceName, guest: Guest) -> Result<LetGo> {
        let Some(mut connection) = self.open(disk).await? else {
            self.failing.end(&device).await;
            return Ok(LetGo::default());
        };
        let (domain, device) = (device.domain.0, device.device);
        let is_removed = guest == Guest::MayHaveGone;
        let command = Command::DisconnectRing { minor: disk.minor, domain, device, deadline_ms: None, is_removed };
        match connection.ask(command, |_| {}).await {
            Ok(ResultOf::DisconnectRing(RingDisconnected { not_durable, .. })) => {
                Ok(LetGo { is_answered: true, not_durable })
            }
            Ok(_) => Err(connection.not_understood("the answer to another command")),
            // A disk that it does not have was closed.
            Err(error) if has_no_such_ring(&error) => Ok(LetGo { is_answered: true, not_durable: None }),
            Err(error) => Err(error),
        }
    }

    async fn settle(self, disk: Disk, device: DeviceName) -> Result<LetGo> {
        let Some(mut connection) = self.open(disk).await? else { return Ok(LetGo::default()) };
        let (domain, device) = (device.domain.0, device.device);
        match connection.ask(Command::SettleRing { minor: disk.minor, domain, device }, |_| {}).await? {
            ResultOf::SettleRing(RingSettled { not_durable, .. }) => Ok(LetGo { is_answered: true, not_durable }),
            _ => Err(connection.not_understood("the answer to another command")),
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

    /// One that is about to be asked for what only those can do that speak our protocol.
    async fn open_ours(&self, disk: Disk) -> Result<Option<Connection>> {
        let connection = self.open(disk).await?;
        if connection.is_none()
            && self.run.control_socket(disk.pid).exists()
            && !self.run.native_socket(disk.pid).exists()
        {
            let words = format!("tapdisk {} speaks no native protocol", disk.pid);
            return Err(Error::from_os(words, Errno::PROTONOSUPPORT.into()));
        }
        Ok(connection)
    }

    async fn pause(self, disk: Disk, turn_back: Rc<TurnBack>) -> Result<bool> {
        let Some(mut connection) = self.open_ours(disk).await? else { return Ok(false) };
        let (job, known) = (Cell::new(None), Signal::new());
        let note = |number| {
            job.set(Some(number));
            known.notify();
        };
        let command = Command::Pause { minor: disk.minor, deadline_ms: None };
        let pausing = pin!(connection.ask_job(command, note, |_| {}));
        let cancelling = pin!(async {
            turn_back.wanted().await;
            let job = known.find(|| job.get()).await;
            // If it cannot be turned back, it ends.
            if let Ok(Some(mut connection)) = self.open(disk).await {
                let _ = connection.ask(Command::Cancel { job }, |_| {}).await;
            }
        });
        let paused = match select(pausing, cancelling).await {
            Either::Left((paused, _)) => paused,
            Either::Right(((), pausing)) => pausing.await,
        };
        done(paused)
    }

    async fn resume(self, disk: Disk, image: NewImage) -> Result<bool> {
        let Some(mut connection) = self.open_ours(disk).await? else { return Ok(false) };
        let disks = match connection.ask(Command::List {}, |_| {}).await? {
            ResultOf::List(disks) => disks.disks,
            _ => return Err(connection.not_understood("the answer to another command")),
        };
        let Some(summary) = disks.into_iter().find(|summary| summary.minor == disk.minor) else { return Ok(false) };
        if matches!(summary.state, State::Running | State::Growing) {
            return Ok(true);
        }
        let image = named_image(image, &summary);
        done(connection.ask(Command::Resume { minor: disk.minor, image }, |_| {}).await)
    }
}

/// How the image is called that a disk is resumed with. Whoever names it may have put another one in its place; a disk whose
/// image the toolstack never called by its name gets the one that it had.
fn named_image(image: NewImage, disk: &DiskSummary) -> Option<String> {
    let is_meant = image.is_another || image.name == disk.image;
    image.name.filter(|name| is_meant && name.contains(':'))
}

/// Whether it was done; false if there is no such disk.
fn done(result: Result<ResultOf>) -> Result<bool> {
    match result {
        Ok(_) => Ok(true),
        Err(error) if has_no_such_ring(&error) => Ok(false),
        Err(error) => Err(error),
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

    fn disconnect(&self, disk: Disk, device: DeviceName, guest: Guest) -> LocalBoxFuture<'static, Result<LetGo>> {
        Box::pin(self.clone().disconnect(disk, device, guest))
    }

    fn exit(&self, disk: Disk) -> LocalBoxFuture<'static, Exit> {
        Box::pin(exit(self.executor.clone(), self.run.clone(), disk.pid))
    }

    fn fail(&self, device: DeviceName) -> LocalBoxFuture<'static, Result<u64>> {
        let failing = self.failing.clone();
        Box::pin(async move { Ok(failing.begin(&device).await?.map_or(0, |failed| failed.answered)) })
    }

    fn settle(&self, disk: Disk, device: DeviceName) -> LocalBoxFuture<'static, Result<LetGo>> {
        Box::pin(self.clone().settle(disk, device))
    }

    fn watch(&self, disk: Disk, device: DeviceName, reports: Rc<Reports>) -> LocalBoxFuture<'static, Result<()>> {
        Box::pin(self.clone().watch(disk, device, reports))
    }

    fn pause(&self, disk: Disk, turn_back: Rc<TurnBack>) -> LocalBoxFuture<'static, Result<bool>> {
        Box::pin(self.clone().pause(disk, turn_back))
    }

    fn resume(&self, disk: Disk, image: NewImage) -> LocalBoxFuture<'static, Result<bool>> {
        Box::pin(self.clone().resume(disk, image))
    }
}

impl std::fmt::Debug for Tapdisks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tapdisks({})", self.run.path().display())
    }
}
