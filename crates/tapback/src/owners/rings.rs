//! Rings whose devices have gone while nobody was there to let go of them.
//!
//! A backend that runs lets go of a device when its directory goes. One that was killed before, and comes back after,
//! finds no directory; but tapdisks tell whose rings they have.

use std::{collections::BTreeSet, time::Duration};

use block_core::Result;
use control_api::{
    RunDir,
    native::{Command, ResultOf},
};
use futures_util::future::join_all;
use storage_io::Executor;
use wire::xenstore::Path;
use xen::{DomainId, store::Store};

use super::end::{LIST_MAX, ask, step, within};
use crate::{Disk, name::domain_directory, nodes::read};

/// So long what a guest has asked is waited for; then it is let go of without.
const DRAIN_MAX: Duration = Duration::from_secs(10);

/// The rings of a device that is not in XenStore.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StrayRing {
    /// Who serves them.
    pub disk: Disk,
    /// The guest.
    pub domain: DomainId,
    /// Its number for the device.
    pub device: u32,
}

/// All rings that tapdisks of this host serve and no device of this domain is there for, of whatever kind. If XenStore has
/// lost everything, there are none: nobody has removed them.
///
/// # Errors
/// When XenStore cannot be asked.
pub async fn stray_rings(
    executor: &Executor,
    store: &Store,
    domain: DomainId,
    run: &RunDir,
) -> Result<BTreeSet<StrayRing>> {
    // First the rings: each was connected when its device was there.
    let mut rings = connected_rings(executor, run).await;
    if rings.is_empty() {
        return Ok(rings);
    }
    let backends = domain_directory(domain).join("backend").expect("a plain name");
    let kinds = store.directory(&backends).await?.unwrap_or_default();
    for ring in rings.clone() {
        if has_device(store, &backends, &kinds, ring).await? {
            rings.remove(&ring);
        }
    }
    let is_lost = !rings.is_empty() && store.directory(&domain_directory(domain)).await?.is_none();
    Ok(if is_lost { BTreeSet::new() } else { rings })
}

async fn has_device(store: &Store, backends: &Path, kinds: &[String], ring: StrayRing) -> Result<bool> {
    for kind in kinds {
        let Ok(frontend) = backends.join(&format!("{kind}/{}/{}/frontend", ring.domain, ring.device)) else { continue };
        if read(store, &frontend).await?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn connected_rings(executor: &Executor, run: &RunDir) -> BTreeSet<StrayRing> {
    let own = run.clone();
    let tapdisks = executor.blocking("which tapdisks there are", move || own.tapdisks().unwrap_or_default()).await;
    let asked = tapdisks.unwrap_or_default().into_iter().map(async |pid| {
        let listed = within(executor, LIST_MAX, ask(executor, run, pid, Command::List {})).await;
        let disks = match listed {
            Ok(Some(ResultOf::List(list))) => list.disks,
            _ => Vec::new(),
        };
        let rings = disks.into_iter().flat_map(move |disk| {
            let disk_name = Disk { pid, minor: disk.minor };
            disk.rings.into_iter().map(move |ring| StrayRing {
                disk: disk_name,
                domain: DomainId(ring.domain),
                device: ring.device,
            })
        });
        rings.collect::<Vec<_>>()
    });
    join_all(asked).await.into_iter().flatten().collect()
}

/// Lets go of rings: what was taken is answered, in bounded time.
///
/// # Errors
/// With the step that has not ended. It can be asked for again.
pub async fn let_go_of(executor: &Executor, run: &RunDir, ring: StrayRing) -> Result<()> {
    let deadline_ms = u64::try_from(DRAIN_MAX.as_millis()).ok();
    let StrayRing { disk, domain, device } = ring;
    let command =
        Command::DisconnectRing { minor: disk.minor, domain: domain.0, device, deadline_ms, is_removed: true };
    step(executor, "disconnect", ask(executor, run, disk.pid, command)).await.map(drop)
}
