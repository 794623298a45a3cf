//! A device's nodes in XenStore, as its guest sees them.

use block_core::{Error, ErrorKind, Result, ResultExt};
use wire::{
    blkif::{Abi, RING_ORDER_MAX},
    xenstore::{ErrorName, Path},
};
use xen::{
    DomainId,
    store::{Store, Transaction, Watch},
};
use xenbus::State;

use super::disk::DiskProperties;

/// Where the backend of a device is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Peer {
    pub(super) path: Path,
    pub(super) domain: DomainId,
}

/// What the nodes say now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) own: State,
    pub(super) backend: State,
    pub(super) peer: Option<Peer>,
}

/// What a backend offers before there is a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Offers {
    pub(super) order_max: u32,
    pub(super) queues_max: u32,
    /// Of one request; 0 if there are no indirect ones.
    pub(super) segments_max: usize,
}

/// The rings of a device, as its backend shall find them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RingNodes {
    pub(super) abi: Abi,
    pub(super) order: u32,
    pub(super) persistent: bool,
    /// Of each queue: the grants of its ring, and its port.
    pub(super) queues: Vec<(Vec<u32>, u32)>,
}

impl RingNodes {
    /// Names below the device's own directory, and values.
    fn nodes(&self) -> Vec<(String, String)> {
        let mut nodes = vec![
            ("protocol".to_owned(), self.abi.protocol().to_owned()),
            ("feature-persistent".to_owned(), u32::from(self.persistent).to_string()),
        ];
        if self.order > 0 {
            nodes.push(("ring-page-order".to_owned(), self.order.to_string()));
        }
        if self.queues.len() > 1 {
            nodes.push(("multi-queue-num-queues".to_owned(), self.queues.len().to_string()));
        }
        for (index, (grants, port)) in self.queues.iter().enumerate() {
            let directory = if self.queues.len() > 1 { format!("queue-{index}/") } else { String::new() };
            for (page, grant) in grants.iter().enumerate() {
                let page = if self.order > 0 { page.to_string() } else { String::new() };
                nodes.push((format!("{directory}ring-ref{page}"), grant.to_string()));
            }
            nodes.push((format!("{directory}event-channel"), port.to_string()));
        }
        nodes
    }
}

/// Whether a node tells of a ring. One of another layout that an earlier kernel has left would mislead the backend.
fn is_of_ring(name: &str) -> bool {
    let begins = ["ring-ref", "queue-"].iter().any(|start| name.starts_with(start));
    begins || ["ring-page-order", "num-ring-pages", "multi-queue-num-queues", "event-channel"].contains(&name)
}

/// The directory of a device, and the one that it points to.
#[derive(Debug)]
pub(super) struct Tree {
    store: Store,
    own: Path,
}

impl Tree {
    pub(super) fn new(store: Store, own: Path) -> Tree {
        Tree { store, own }
    }

    pub(super) fn own(&self) -> &Path {
        &self.own
    }

    pub(super) fn watch(&self, path: &Path) -> Watch {
        self.store.watch(path)
    }

    /// Looks at everything that decides how the device goes on.
    pub(super) async fn look(&self) -> Result<Seen> {
        let own = self.state(&self.own).await?;
        let peer = self.peer().await?;
        let backend = match &peer {
            Some(peer) => self.state(&peer.path).await?,
            None => State::Unknown,
        };
        Ok(Seen { own, backend, peer })
    }

    async fn state(&self, directory: &Path) -> Result<State> {
        Ok(self.value(directory, "state").await?.unwrap_or(State::Unknown))
    }

    async fn peer(&self) -> Result<Option<Peer>> {
        let Some(path) = self.text(&self.own, "backend").await? else { return Ok(None) };
        let Some(domain) = self.value(&self.own, "backend-id").await? else { return Ok(None) };
        // A path that is none leads nowhere.
        Ok(Path::new(path).ok().map(|path| Peer { path, domain: DomainId(domain) }))
    }

    pub(super) async fn offers(&self, backend: &Path) -> Result<Offers> {
        let pages = self.value(backend, "max-ring-pages").await?.unwrap_or(1_u32);
        let order = self.value(backend, "max-ring-page-order").await?.unwrap_or(pages.max(1).ilog2());
        let queues = self.value(backend, "multi-queue-max-queues").await?.unwrap_or(1_u32);
        let segments = self.value(backend, "feature-max-indirect-segments").await?.unwrap_or(0_u16);
        Ok(Offers {
            order_max: order.min(RING_ORDER_MAX),
            queues_max: queues.max(1),
            segments_max: usize::from(segments),
        })
    }

    /// What the disk is.
    ///
    /// # Errors
    /// `Corrupt` for one that makes no sense.
    pub(super) async fn disk(&self, backend: &Path) -> Result<DiskProperties> {
        let flag = async |name: &str| Ok::<bool, Error>(self.value(backend, name).await?.unwrap_or(0_u32) != 0);
        let block = self.value(backend, "sector-size").await?.unwrap_or(512);
        let info = self.value(backend, "info").await?.unwrap_or(0);
        let is_read_write = self.text(backend, "mode").await?.is_none_or(|mode| mode.starts_with('w'));
        let disk = DiskProperties {
            sectors: self.value(backend, "sectors").await?.ok_or_else(|| nonsense("no size"))?,
            logical_block_size: block,
            physical_block_size: self.value(backend, "physical-sector-size").await?.unwrap_or(block),
            read_only: info & INFO_READ_ONLY != 0 || !is_read_write,
            is_cdrom: info & INFO_CDROM != 0,
            flush: flag("feature-flush-cache").await?,
            barrier: flag("feature-barrier").await?,
            discard: flag("feature-discard").await?,
            secure_discard: flag("discard-secure").await?,
            persistent: flag("feature-persistent").await?,
        };
        disk.check()
    }

    /// Writes where the rings are, and a state, at once; what told of other rings goes.
    pub(super) async fn write_ring(&self, ring: &RingNodes, state: State) -> Result<()> {
        let nodes = ring.nodes();
        let body = async |transaction: &Transaction| {
            let names = transaction.directory(&self.own).await?.unwrap_or_default();
            if !names.iter().any(|name| name == "state") {
                return Err(Error::new(ErrorKind::NotFound, format!("{} has gone", self.own.as_str())));
            }
            for name in names.iter().filter(|name| is_of_ring(name)) {
                transaction.remove(&below(&self.own, name)?).await?;
            }
            for (name, value) in &nodes {
                transaction.write(&below(&self.own, name)?, value.as_bytes()).await?;
            }
            transaction.write(&below(&self.own, "state")?, state.number().to_string().as_bytes()).await
        };
        self.store.transaction(body).await.context("rings")
    }

    /// Shows a state. A node that has gone is not made again, and one that says so already is left alone.
    pub(super) async fn publish(&self, state: State) -> Result<()> {
        let node = below(&self.own, "state")?;
        let number = state.number().to_string().into_bytes();
        let body = async |transaction: &Transaction| match transaction.read(&node).await? {
            Some(old) if old != number => transaction.write(&node, &number).await,
            _ => Ok(()),
        };
        self.store.transaction(body).await.context("state")
    }

    /// Says what is wrong, where toolstacks look for it.
    pub(super) async fn report(&self, error: ErrorName, words: &str) -> Result<()> {
        let text = self.own.as_str();
        let Some(at) = text.find("/device/") else { return Ok(()) };
        let node = Path::new(format!("{}/error{}/error", &text[..at], &text[at..])).map_err(bad_name)?;
        self.store.write(&node, format!("{} {words}", error.number()).as_bytes()).await
    }

    async fn value<T: std::str::FromStr>(&self, directory: &Path, name: &str) -> Result<Option<T>> {
        Ok(self.text(directory, name).await?.and_then(|text| text.trim().parse().ok()))
    }

    /// The text of a node. One that may not be read is as good as none.
    async fn text(&self, directory: &Path, name: &str) -> Result<Option<String>> {
        match self.store.read(&below(directory, name)?).await {
            Ok(value) => Ok(value.and_then(|value| String::from_utf8(value).ok())),
            Err(error) if error.os_error() == Some(ErrorName::Eacces.number()) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

const INFO_CDROM: u32 = 1;
const INFO_READ_ONLY: u32 = 4;

pub(crate) fn below(path: &Path, name: &str) -> Result<Path> {
    path.join(name).map_err(bad_name)
}

fn bad_name(error: wire::xenstore::PathError) -> Error {
    Error::new(ErrorKind::Invalid, error.to_string())
}

pub(super) fn nonsense(words: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Corrupt, format!("a backend that shows a disk of {words}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(order: u32, queues: Vec<(Vec<u32>, u32)>) -> Vec<String> {
        let ring = RingNodes { abi: Abi::X86_64, order, persistent: false, queues };
        ring.nodes().into_iter().skip(2).map(|(name, value)| format!("{name}={value}")).collect()
    }

    #[test]
    fn one_ring_is_named_at_the_top_and_several_by_queue() {
        assert_eq!(nodes(0, vec![(vec![8], 3)]), ["ring-ref=8", "event-channel=3"]);
        let pages = ["ring-page-order=1", "ring-ref0=8", "ring-ref1=9", "event-channel=3"];
        assert_eq!(nodes(1, vec![(vec![8, 9], 3)]), pages);
        let queues = [
            "multi-queue-num-queues=2",
            "queue-0/ring-ref=8",
            "queue-0/event-channel=3",
            "queue-1/ring-ref=9",
            "queue-1/event-channel=4",
        ];
        assert_eq!(nodes(0, vec![(vec![8], 3), (vec![9], 4)]), queues);
    }

    #[test]
    fn only_what_tells_of_rings_is_swept_away() {
        let swept = ["ring-ref", "ring-ref7", "queue-3", "ring-page-order", "num-ring-pages", "multi-queue-num-queues"];
        assert!(swept.into_iter().all(is_of_ring) && is_of_ring("event-channel"));
        assert!(!["state", "backend", "backend-id", "virtual-device", "protocol"].into_iter().any(is_of_ring));
    }
}
