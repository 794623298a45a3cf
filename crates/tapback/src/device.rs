//! A device: a task that does what its machine decides, for as long as there is a directory.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
    time::Duration,
};

use storage_io::{Signal, Task};
use xenbus::{Ring, State, agent::vbd::Vbd};

use crate::{
    DeviceName, Disk, Host,
    hands::{Hands, JobEnd},
    look::{Look, look},
};

/// Before XenStore is asked again after it has refused.
pub(crate) const REFUSED_PAUSE: Duration = Duration::from_secs(1);

/// A device of a guest, served until its directory has gone and everything is let go of. Dropping it leaves everything as
/// it is, in XenStore and in the tapdisk: another one takes over from there.
pub struct Device {
    shared: Rc<Shared>,
    _task: Task<()>,
}

/// What is known of a device, for people and for those who look after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// What we have published.
    pub own: State,
    /// What its frontend was last seen to be.
    pub frontend: State,
    /// Its ring.
    pub ring: Ring,
    /// Whether its disk shall be at rest, and is.
    pub vbd: Vbd,
    /// The disk behind it, when there is one.
    pub disk: Option<Disk>,
    /// What went wrong last, if it has not gone right since.
    pub trouble: Option<String>,
    /// How often it was looked at.
    pub looks: u64,
}

impl Default for Summary {
    fn default() -> Summary {
        let (own, frontend) = (State::Unknown, State::Unknown);
        Summary { own, frontend, ring: Ring::None, vbd: Vbd::Unpaused, disk: None, trouble: None, looks: 0 }
    }
}

/// What a device's task shares with those who tell it something.
pub(crate) struct Shared {
    /// Something has changed in its directory.
    pub(crate) is_nudged: Cell<bool>,
    /// What has ended and nobody has taken note of.
    pub(crate) ends: RefCell<VecDeque<JobEnd>>,
    /// Whatever there is to be told has come.
    pub(crate) came: Rc<Signal>,
    pub(crate) summary: RefCell<Summary>,
    is_over: Cell<bool>,
    over: Rc<Signal>,
}

impl Shared {
    pub(crate) fn nudge(&self) {
        self.is_nudged.set(true);
        self.came.notify();
    }

    pub(crate) fn end(&self, end: JobEnd) {
        self.ends.borrow_mut().push_back(end);
        self.came.notify();
    }
}

impl Device {
    /// Serves the device of this name, if its directory is there. `over` is notified when there is nothing more to be
    /// served.
    pub fn start(host: &Rc<Host>, name: &DeviceName, over: &Rc<Signal>) -> Device {
        let shared = Rc::new(Shared {
            is_nudged: Cell::new(false),
            ends: RefCell::default(),
            came: Rc::default(),
            summary: RefCell::default(),
            is_over: Cell::new(false),
            over: over.clone(),
        });
        let task = host.executor.spawn(serve(host.clone(), name.clone(), shared.clone()));
        Device { shared, _task: task }
    }

    /// Something may have changed in its directory.
    pub fn look(&self) {
        self.shared.nudge();
    }

    /// Whether there is nothing more to be served.
    pub fn is_over(&self) -> bool {
        self.shared.is_over.get()
    }

    /// What is known of it.
    pub fn summary(&self) -> Summary {
        self.shared.summary.borrow().clone()
    }
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Device({:?})", self.summary())
    }
}

/// One directory after the other, for as long as there is one of this name.
async fn serve(host: Rc<Host>, name: DeviceName, shared: Rc<Shared>) {
    loop {
        shared.is_nudged.set(false);
        let losses = host.store.losses();
        match look(&host, &name).await {
            Ok(Look::There(seen)) => Hands::begin(&host, &name, &shared, *seen, losses).await.live().await,
            Ok(Look::Gone | Look::Lost) if !shared.is_nudged.get() => break,
            Ok(_) => {}
            Err(error) => {
                host.log.note(&name, &format!("cannot look at it: {error}"));
                host.executor.sleep(REFUSED_PAUSE).await;
            }
        }
    }
    shared.is_over.set(true);
    shared.over.notify();
}
