//! Disks that scripts have made, whose devices have gone.
//!
//! ```text
//!   owned --its device's directory goes--> ownerless --15 s, and nobody uses it--> closed, detached, its minor freed
//!     ^                                        |
//!     +---- the directory is there again, -----+
//!           or another device uses the disk
//! ```
//!
//! A toolstack that removes a device by force skips its script, which is what would end the disk. So we do, after giving the
//! script some time. Rings that are still connected though their device has gone, as when the backend was killed before
//! it went, are let go of in the same way. What the storage side has made is never ended here, and a device's directory below another domain says
//! nothing to us.

mod end;
mod rings;

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    time::Duration,
};

use block_core::Result;
use control_api::{Minor, Owner, RunDir};
use storage_io::{Executor, Moment, Task};
use xen::{DomainId, store::Store};

pub(crate) use end::end_marked;
pub use end::{Ended, end_disk};
pub use rings::{StrayRing, let_go_of, stray_rings};

use crate::{DeviceName, Disk, Host, Watcher, name::domain_directory, nodes::read};

/// How long a script may take to end the disk of a device that has gone, unless told otherwise.
pub const SCRIPT_TIME: Duration = Duration::from_secs(15);
/// What is logged of rings whose kind of device nobody knows any more.
const STRAYS: &str = "rings";
/// How often is looked, in a script's time.
const LOOKS: u32 = 10;

/// A disk that belongs to a device which is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ownerless {
    /// Its number on this host.
    pub minor: Minor,
    /// The device that its script has made it for.
    pub device: DeviceName,
}

/// All disks of scripts whose devices are not in XenStore. If XenStore has lost everything, there are none: nobody has removed
/// them.
///
/// # Errors
/// When XenStore cannot be asked, or minors cannot be listed.
pub async fn ownerless(executor: &Executor, store: &Store, domain: DomainId, run: &RunDir) -> Result<Vec<Ownerless>> {
    let own = run.clone();
    let owners = executor.blocking("whose disks are", move || -> Result<Vec<(Minor, Owner)>> {
        Ok(own.minors()?.into_iter().map(|minor| (minor, own.minor_record(minor).owner)).collect())
    });
    let mut found = Vec::new();
    for (minor, owner) in owners.await?? {
        let Some(device) = device_of(&owner, domain) else { continue };
        let frontend = device.directory(domain).join("frontend").expect("a plain name");
        if read(store, &frontend).await?.is_none() {
            found.push(Ownerless { minor, device });
        }
    }
    let is_lost = !found.is_empty() && store.directory(&domain_directory(domain)).await?.is_none();
    Ok(if is_lost { Vec::new() } else { found })
}

/// The device that owns a disk, if one below this domain does.
pub(crate) fn device_of(owner: &Owner, domain: DomainId) -> Option<DeviceName> {
    let directory = owner.directory(domain.0)?;
    let below = directory.strip_prefix(&format!("/local/domain/{domain}/backend/"))?;
    let mut names = below.split('/');
    let (kind, guest, device) = (names.next()?, names.next()?, names.next()?);
    let is_kind = !kind.is_empty() && wire::xenstore::Path::new(kind).is_ok();
    let device = is_kind.then(|| DeviceName::parse(&kind.into(), guest, device))??;
    names.next().is_none().then_some(device)
}

/// Ends disks of scripts whose devices have gone, for as long as it is kept.
pub struct Keeper {
    _task: Task<()>,
}

struct Inner {
    host: Rc<Host>,
    run: RunDir,
    script_time: Duration,
    users: Vec<Box<dyn Fn(u16) -> bool>>,
    servers: Vec<Box<dyn Fn(DomainId, u32) -> bool>>,
    /// Disks that are being ended.
    ending: RefCell<BTreeSet<Minor>>,
    /// Rings that are being let go of.
    leaving: RefCell<BTreeSet<StrayRing>>,
}

impl Keeper {
    /// Looks after the disks of this host. Scripts have so much time to end theirs. A disk that any device of the watchers
    /// uses stays, whosever it is.
    pub fn start(host: &Rc<Host>, run: &RunDir, script_time: Duration, watchers: &[Watcher]) -> Keeper {
        let users = watchers.iter().map(|watcher| -> Box<dyn Fn(u16) -> bool> { Box::new(watcher.users()) }).collect();
        let servers =
            watchers.iter().map(|watcher| -> Box<dyn Fn(DomainId, u32) -> bool> { Box::new(watcher.servers()) });
        let (host, run, servers) = (host.clone(), run.clone(), servers.collect());
        let (ending, leaving) = (RefCell::default(), RefCell::default());
        let inner = Rc::new(Inner { host, run, script_time, users, servers, ending, leaving });
        let executor = inner.host.executor.clone();
        Keeper { _task: executor.spawn(inner.keep()) }
    }
}

impl Inner {
    async fn keep(self: Rc<Self>) {
        let executor = self.host.executor.clone();
        let mut since: BTreeMap<Minor, (DeviceName, Moment)> = BTreeMap::new();
        let begun = executor.now();
        let mut strays = Some(BTreeMap::new());
        loop {
            executor.sleep(self.script_time / LOOKS).await;
            if let Some(known) = strays.take() {
                strays = self.look_at_rings(begun, known).await;
            }
            let Host { store, domain, .. } = &*self.host;
            // What cannot be looked at is not gone: the time begins anew.
            let found = ownerless(&executor, store, *domain, &self.run).await.unwrap_or_default();
            let is_used = |minor: Minor| self.users.iter().any(|uses| uses(minor.number()));
            let found = found.into_iter().filter(|disk| !is_used(disk.minor));
            let now = executor.now();
            let mut still = BTreeMap::new();
            for Ownerless { minor, device } in found {
                let first = since.get(&minor).filter(|known| known.0 == device).map_or(now, |known| known.1);
                if now - first < self.script_time {
                    still.insert(minor, (device, first));
                } else if self.ending.borrow_mut().insert(minor) {
                    // A process that hangs holds up no other.
                    executor.spawn(self.clone().end(minor, device)).detach();
                }
            }
            since = still;
        }
    }

    /// Lets go of rings whose devices have gone, and not just now; gives the others, and since when they are known. None if
    /// there are none and will be none: those of devices that go while we run are let go of by the devices.
    async fn look_at_rings(
        self: &Rc<Self>,
        begun: Moment,
        since: BTreeMap<StrayRing, Moment>,
    ) -> Option<BTreeMap<StrayRing, Moment>> {
        let Host { executor, store, domain, .. } = &*self.host;
        let Ok(found) = stray_rings(executor, store, *domain, &self.run).await else { return Some(since) };
        let now = executor.now();
        if found.is_empty() && now - begun >= self.script_time {
            return None;
        }
        let mut still = BTreeMap::new();
        for ring in found {
            let first = since.get(&ring).copied().unwrap_or(now);
            if self.servers.iter().any(|serves| serves(ring.domain, ring.device)) {
                // It goes its own way, or its directory has gone with the whole store and is waited for.
            } else if now - first < self.script_time {
                still.insert(ring, first);
            } else if self.leaving.borrow_mut().insert(ring) {
                executor.spawn(self.clone().let_go(ring)).detach();
            }
        }
        Some(still)
    }

    async fn let_go(self: Rc<Self>, ring: StrayRing) {
        let Host { executor, log, .. } = &*self.host;
        let StrayRing { disk: Disk { pid, minor }, domain, device } = ring;
        let whose = format!("the ring of {domain}-{device} at minor {minor} of tapdisk {pid}");
        log.note_all(STRAYS, &format!("{whose} is let go of: its device has gone while no backend ran"));
        if let Err(error) = let_go_of(executor, &self.run, ring).await {
            log.note_all(STRAYS, &format!("{whose}: {error}"));
        }
        self.leaving.borrow_mut().remove(&ring);
    }

    async fn end(self: Rc<Self>, minor: Minor, device: DeviceName) {
        let Host { executor, log, .. } = &*self.host;
        let note = |words: &str| log.note(&device, words);
        note(&format!(
            "minor {minor} is nobody's any more: the device has gone, and its script has not ended the disk"
        ));
        match end_disk(executor, &self.run, minor, &note).await {
            Ok(Ended::Freed) => note(&format!("minor {minor} is free")),
            Ok(Ended::InUse) => note(&format!("minor {minor} serves a guest: it stays")),
            Err(error) => note(&format!("minor {minor} cannot be ended: {error}")),
        }
        self.ending.borrow_mut().remove(&minor);
    }
}

impl std::fmt::Debug for Keeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keeper")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_devices_below_the_own_domain() {
        let device = |path: &str| device_of(&Owner::Hotplug(path.into()), DomainId(3)).map(|name| name.to_string());
        assert_eq!(device("/local/domain/3/backend/vbd3/7/51712").as_deref(), Some("vbd3/7/51712"));
        assert_eq!(device("backend/vbd3/7/51712").as_deref(), Some("vbd3/7/51712"), "as scripts are told");
        for other in [
            "/local/domain/0/backend/vbd3/7/51712",
            "/local/domain/3/backend/vbd3/7/51712/state",
            "/local/domain/3/backend/vbd3/7",
            "/local/domain/3/backend//7/51712",
            "/local/domain/3/device/vbd/51712",
            "/etc/passwd",
            "",
        ] {
            assert_eq!(device(other), None, "{other}");
        }
        assert_eq!(device_of(&Owner::Storage, DomainId(3)), None);
    }
}
