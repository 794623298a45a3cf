//! Directories of devices that no frontend belongs to.
//!
//! ```text
//!   backend/vbd3/7/51712/frontend = "..."             a device
//!   backend/vbd3/7/51728/hotplug-status = "..."       a ghost: written when its device had gone
//! ```
//!
//! A toolstack makes a device's directory in one transaction, with its `frontend`. So what has none was never a device, or
//! is none any more.

use std::collections::BTreeMap;

use block_core::{Error, ErrorKind, Result};
use tapback::DeviceName;
use wire::xenstore::Path;
use xen::{
    DomainId,
    store::{Store, Transaction},
};

use super::super::xenstore::own_domain;

/// The node that says which frontend a device belongs to.
const FRONTEND: &str = "frontend";

/// A directory without a frontend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ghost {
    pub(super) directory: Path,
    /// What is in it: names, from the directory on, and values.
    pub(super) nodes: BTreeMap<String, Vec<u8>>,
}

/// What has become of a ghost that was to be removed.
#[derive(Debug)]
pub(super) enum Fate {
    /// It is no more.
    Removed,
    /// Somebody else has removed it.
    Gone,
    /// It was made a device.
    HasFrontend,
    /// Somebody is at work there: it stays.
    Changed,
    /// It could not be removed.
    Failed(Error),
}

impl Fate {
    /// Nothing is left to repair.
    pub(super) fn is_well(&self) -> bool {
        !matches!(self, Fate::Changed | Fate::Failed(_))
    }

    pub(super) fn words(&self) -> String {
        match self {
            Fate::Removed => "removed".to_owned(),
            Fate::Gone => "gone meanwhile".to_owned(),
            Fate::HasFrontend => "spared, it has a frontend by now".to_owned(),
            Fate::Changed => "spared, somebody has changed it meanwhile".to_owned(),
            Fate::Failed(error) => format!("not removed: {error}"),
        }
    }

    /// For programs.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Fate::Removed => "removed",
            Fate::Gone => "gone",
            Fate::HasFrontend => "has-frontend",
            Fate::Changed => "changed",
            Fate::Failed(_) => "failed",
        }
    }

    pub(super) fn error(&self) -> Option<&Error> {
        match self {
            Fate::Failed(error) => Some(error),
            _ => None,
        }
    }
}

/// All ghosts below the backends of these kinds in this domain.
pub(super) async fn find(store: &Store, kinds: &[String]) -> Result<Vec<Ghost>> {
    let own = own_domain(store).await?;
    let mut ghosts = Vec::new();
    for kind in kinds {
        for device in devices(store, own, kind).await? {
            let directory = device.directory(own);
            // Most have one: that is one question, and no transaction.
            if store.read(&below(&directory, FRONTEND)?).await?.is_none() {
                ghosts
                    .extend(store.transaction(async |transaction| look(transaction, &directory).await).await?.ghost());
            }
        }
    }
    Ok(ghosts)
}

/// All directories that are named like devices. Others are nobody's business.
async fn devices(store: &Store, own: DomainId, kind: &str) -> Result<Vec<DeviceName>> {
    let root = path(&format!("/local/domain/{own}/backend/{kind}"))?;
    let kind = kind.into();
    let mut devices = Vec::new();
    for guest in store.directory(&root).await?.unwrap_or_default() {
        let names = store.directory(&below(&root, &guest)?).await?.unwrap_or_default();
        devices.extend(names.iter().filter_map(|device| DeviceName::parse(&kind, &guest, device)));
    }
    Ok(devices)
}

/// What a directory is.
enum Look {
    Gone,
    Device,
    Ghost(Ghost),
}

impl Look {
    fn ghost(self) -> Option<Ghost> {
        match self {
            Look::Ghost(ghost) => Some(ghost),
            Look::Gone | Look::Device => None,
        }
    }
}

/// Looks at a directory, all of it at the same moment.
async fn look(transaction: &Transaction, directory: &Path) -> Result<Look> {
    if transaction.read(&below(directory, FRONTEND)?).await?.is_some() {
        return Ok(Look::Device);
    }
    let Some(mut unread) = transaction.directory(directory).await? else { return Ok(Look::Gone) };
    let mut nodes = BTreeMap::new();
    while let Some(name) = unread.pop() {
        let node = below(directory, &name)?;
        nodes.insert(name.clone(), transaction.read(&node).await?.unwrap_or_default());
        let children = transaction.directory(&node).await?.unwrap_or_default();
        unread.extend(children.iter().map(|child| format!("{name}/{child}")));
    }
    Ok(Look::Ghost(Ghost { directory: directory.clone(), nodes }))
}

/// Removes a ghost, if it still is what it was when it was found; and the guest's directory, if that is then empty. The
/// server lets it happen only if nobody has changed meanwhile what was looked at.
pub(super) async fn remove(store: &Store, ghost: &Ghost) -> Result<Fate> {
    let guest = ghost.directory.parent().expect("a device is below its guest");
    store
        .transaction(async |transaction| {
            let now = match look(transaction, &ghost.directory).await? {
                Look::Gone => return Ok(Fate::Gone),
                Look::Device => return Ok(Fate::HasFrontend),
                Look::Ghost(now) => now,
            };
            if now != *ghost {
                return Ok(Fate::Changed);
            }
            transaction.remove(&ghost.directory).await?;
            if transaction.directory(&guest).await?.is_some_and(|others| others.is_empty()) {
                transaction.remove(&guest).await?;
            }
            Ok(Fate::Removed)
        })
        .await
}

fn below(directory: &Path, name: &str) -> Result<Path> {
    path(&format!("{}/{name}", directory.as_str()))
}

fn path(text: &str) -> Result<Path> {
    Path::new(text).map_err(|error| Error::new(ErrorKind::Invalid, format!("{text}: {error}")))
}
