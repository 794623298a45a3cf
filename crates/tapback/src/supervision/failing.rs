//! Guests whose tapdisk has gone, and whom nobody will serve: another tapdisk, without a disk, answers them with errors. A
//! guest's kernel waits for the answers to what it has asked without end, also after its disk was closed.
//!
//! ```text
//!   nobody --begin--> starting --all that was asked is answered--> answering --end: we hang up--> it ends --> nobody
//! ```

use std::{cell::RefCell, collections::BTreeMap, ffi::OsString, fmt, rc::Rc};

use block_core::{Error, Result, ResultExt};
use control_api::{
    RingRecords, RunDir, Spawned,
    native::{Command, ResultOf, RingFailed},
    spawn_for_use,
};
use rustix::io::Errno;
use storage_io::{Executor, Signal};

use super::exit;
use crate::{DeviceName, connection::Connection};

/// Of a device.
enum Life {
    Starting,
    /// The process, and the connection by which it knows that we are there.
    Answering(u32, Connection),
}

/// All devices of a host that are answered with errors.
#[derive(Clone)]
pub(crate) struct Failing {
    executor: Executor,
    run: RunDir,
    variables: Rc<[(&'static str, OsString)]>,
    devices: Rc<RefCell<BTreeMap<(u16, u32), Life>>>,
    changed: Rc<Signal>,
}

/// Forgets a device that is not answered after all.
struct Starting<'a>(&'a Failing, (u16, u32));

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        let mut devices = self.0.devices.borrow_mut();
        if matches!(devices.get(&self.1), Some(Life::Starting)) {
            devices.remove(&self.1);
        }
        drop(devices);
        self.0.changed.notify();
    }
}

impl Failing {
    pub(crate) fn new(executor: &Executor, run: RunDir, variables: &[(&'static str, OsString)]) -> Failing {
        let (devices, changed) = Default::default();
        Failing { executor: executor.clone(), run, variables: variables.into(), devices, changed }
    }

    /// Ends when all that a guest has asked is answered; what it asks from then on is answered, too. None if nothing is known
    /// of its rings, or it is answered already.
    pub(crate) async fn begin(&self, device: &DeviceName) -> Result<Option<RingFailed>> {
        let key = (device.domain.0, device.device);
        let is_starting = || matches!(self.devices.borrow().get(&key), Some(Life::Starting));
        self.changed.until(|| !is_starting()).await;
        if self.devices.borrow().contains_key(&key) || !self.has_record(key) {
            return Ok(None);
        }
        self.devices.borrow_mut().insert(key, Life::Starting);
        let _starting = Starting(self, key);
        let spawned = spawn(&self.executor, &self.run, &self.variables).await?;
        match self.ask(spawned.pid, key).await {
            Ok((connection, failed)) => {
                self.devices.borrow_mut().insert(key, Life::Answering(spawned.pid, connection));
                Ok(Some(failed))
            }
            Err(error) => {
                spawned.terminate();
                Err(error)
            }
        }
    }

    fn has_record(&self, (domain, device): (u16, u32)) -> bool {
        let left = RingRecords::new(&self.run).left();
        left.iter().any(|name| (name.domain, name.device) == (domain.into(), device))
    }

    async fn ask(&self, pid: u32, (domain, device): (u16, u32)) -> Result<(Connection, RingFailed)> {
        let gone = || Error::from_os(format!("tapdisk {pid} has gone"), Errno::NODEV.into());
        let socket = self.run.native_socket(pid);
        let mut connection = Connection::open(&self.executor, socket).await?.ok_or_else(gone)?;
        match connection.ask(Command::FailRing { domain, device }, |_| {}).await? {
            ResultOf::FailRing(failed) => Ok((connection, failed)),
            _ => Err(connection.not_understood("the answer to another command")),
        }
    }

    /// Ends when nothing of a device is held by anybody, and nothing is known of it any more. Of one that nobody answers its
    /// guest is answered first.
    pub(crate) async fn end(&self, device: &DeviceName) {
        // Nobody else could do more for it.
        let _ = self.begin(device).await;
        let key = (device.domain.0, device.device);
        let life = self.devices.borrow_mut().remove(&key);
        if let Some(Life::Answering(pid, connection)) = life {
            drop(connection);
            exit(self.executor.clone(), self.run.clone(), pid).await;
        }
        RingRecords::new(&self.run).remove(key.0.into(), key.1);
    }
}

/// Starts a tapdisk of this host.
pub(super) async fn spawn(
    executor: &Executor,
    run: &RunDir,
    variables: &Rc<[(&'static str, OsString)]>,
) -> Result<Spawned> {
    let (run, variables) = (run.clone(), variables.to_vec());
    let spawning = executor.blocking("starting a tapdisk", move || {
        let mut spawned = spawn_for_use(&run, &variables)?;
        if spawned.child.id() != spawned.pid {
            // It has put the tapdisk into the background and ended.
            let _ = spawned.child.wait();
        }
        Ok(spawned)
    });
    spawning.await.and_then(|spawned| spawned).context("another tapdisk")
}

impl fmt::Debug for Failing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Failing({} devices)", self.devices.borrow().len())
    }
}
