//! A disk that draws on a rate which it shares with others: it asks a rate limiter (`td-rated`) for what its requests
//! move, and feeds the budget that they wait for.
//!
//! ```text
//!   looking --connected--> asking --connection lost, or a grant that nobody asked for--> looking, after 2 s
//!                             '-----a grant that is too large to be true--> given up for good
//! ```
//!
//! As long as nobody is asked, nothing is limited: a disk does not stand still because a service is down.

use std::{future::poll_fn, os::fd::OwnedFd, path::PathBuf, pin::pin, sync::Arc, time::Duration};

use block_core::{Error, ErrorKind, Result};
use control_api::{Minor, RunDir};
use futures_util::future::{Either, select};
use rustix::{
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with},
};
use storage_io::{Executor, Task};
use virtual_disk::{Budget, Disk, Limiter};
use wire::rate_limit::{Demand, GRANT_BYTES, GrantReader, NEED_BYTES_MAX};

use crate::{layers::ValveName, log::Log};

/// How long to wait before a rate limiter is looked for again.
const RECONNECT_PAUSE: Duration = Duration::from_secs(2);
/// Grants that are read at once.
const GRANTS_AT_ONCE_MAX: usize = 32;

/// A disk's connection to its rate limiter; without it, the disk is not limited by one.
pub(crate) struct Valve {
    limiter: Arc<Limiter>,
    shown: Shown,
    _feeding: Task<()>,
}

/// A valve as other threads see it.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    /// Which rate limiter it asks.
    pub(crate) name: ValveName,
    /// What the disk draws on.
    pub(crate) budget: Arc<Budget>,
}

impl Valve {
    /// Makes the disk ask; it is asked for from the disk's home, which goes on whether or not there is anybody.
    pub(crate) fn open(disk: &Disk, name: &ValveName, run: &RunDir, minor: Minor, log: &Log) -> Valve {
        let budget = Budget::new(name.reads);
        let limiter = disk.limiter();
        limiter.set_budget(Some(budget.clone()));
        let path = run.rate_limiter(&name.bridge);
        let shown = Shown { name: name.clone(), budget: budget.clone() };
        let feeder = Feeder { executor: disk.executor().clone(), budget, path, minor, log: log.clone() };
        Valve { limiter, shown, _feeding: disk.executor().spawn(feeder.feed()) }
    }

    pub(crate) fn shown(&self) -> Shown {
        self.shown.clone()
    }
}

impl Drop for Valve {
    fn drop(&mut self) {
        self.limiter.set_budget(None);
    }
}

/// Why a connection ended.
enum End {
    /// Another may be made.
    Lost(Error),
    /// The rate limiter cannot be trusted.
    GivenUp(u64),
}

struct Feeder {
    executor: Executor,
    budget: Arc<Budget>,
    path: PathBuf,
    minor: Minor,
    log: Log,
}

impl Feeder {
    async fn feed(self) {
        let mut is_missed = false;
        loop {
            match self.connect() {
                Ok(stream) => {
                    is_missed = false;
                    self.log.info(format!("minor={}: valve={}: connected", self.minor, self.path.display()));
                    if self.is_given_up(&stream).await {
                        return;
                    }
                }
                // Told once for each time that it is away.
                Err(error) if !std::mem::replace(&mut is_missed, true) => self.warn(&error),
                Err(_) => {}
            }
            self.executor.sleep(RECONNECT_PAUSE).await;
        }
    }

    fn warn(&self, error: &Error) {
        self.log.warning(format!("minor={}: valve={}: not limited: {error}", self.minor, self.path.display()));
    }

    /// Does not wait, also for a limiter that accepts nobody.
    fn connect(&self) -> Result<OwnedFd> {
        let connected = || {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
            connect(&socket, &SocketAddrUnix::new(&self.path)?)?;
            Ok(socket)
        };
        connected().map_err(|error: Errno| Error::from_os("connect", error.into()))
    }

    /// Asks until the connection ends. Whether there shall be no other.
    async fn is_given_up(&self, stream: &OwnedFd) -> bool {
        self.budget.connected();
        let ended = {
            let (hears, tells) = (pin!(self.hear(stream)), pin!(self.tell(stream)));
            match select(hears, tells).await {
                Either::Left((end, _)) => end,
                Either::Right((error, _)) => End::Lost(error),
            }
        };
        self.budget.disconnected();
        match ended {
            End::Lost(error) => {
                self.warn(&error);
                false
            }
            End::GivenUp(bytes) => {
                let words = format!("a grant of {bytes} bytes is not one: given up for good");
                self.warn(&Error::new(ErrorKind::Invalid, words));
                true
            }
        }
    }

    /// Takes grants.
    async fn hear(&self, stream: &OwnedFd) -> End {
        let mut reader = GrantReader::new();
        loop {
            let mut bytes = [0; GRANTS_AT_ONCE_MAX * GRANT_BYTES];
            let count = match self.read(stream, &mut bytes).await {
                Ok(count) => count,
                Err(error) => return End::Lost(error),
            };
            let mut rest = &bytes[..count];
            while !rest.is_empty() {
                let (taken, grant) = reader.feed(rest);
                rest = &rest[taken..];
                match grant {
                    Some(bytes) if bytes >= NEED_BYTES_MAX => return End::GivenUp(bytes),
                    Some(bytes) => match self.budget.grant(bytes) {
                        Ok(()) => {}
                        Err(error) => return End::Lost(error),
                    },
                    None => {}
                }
            }
        }
    }

    async fn read(&self, stream: &OwnedFd, bytes: &mut [u8]) -> Result<usize> {
        loop {
            match rustix::io::read(stream, &mut *bytes) {
                Ok(0) => return Err(Error::new(ErrorKind::Closed, "it has closed the connection")),
                Ok(count) => return Ok(count),
                Err(Errno::AGAIN) => self.executor.readable(stream).await?,
                Err(Errno::INTR) => {}
                Err(error) => return Err(Error::from_os("read", error.into())),
            }
        }
    }

    /// Tells what is wanted and what is done. Ends with an error only.
    async fn tell(&self, stream: &OwnedFd) -> Error {
        loop {
            let account = poll_fn(|cx| self.budget.poll_account(cx)).await;
            let demand = Demand { need: account.need, done: account.done };
            if let Err(error) = self.write(stream, &demand.encode()).await {
                return error;
            }
        }
    }

    async fn write(&self, stream: &OwnedFd, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            match rustix::io::write(stream, bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(Errno::AGAIN) => self.executor.writable(stream).await?,
                Err(Errno::INTR) => {}
                Err(error) => return Err(Error::from_os("write", error.into())),
            }
        }
        Ok(())
    }
}
