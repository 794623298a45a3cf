//! What a frontend says of its rings. Every word of it may be wrong, and be wrong on purpose.

use std::collections::BTreeSet;

use block_core::Result;
use control_api::native::{ConnectRing, RingAbi, RingQueue};
use rustix::io::Errno;
use wire::{
    blkif::{Abi, RING_ORDER_MAX},
    xenstore::Path,
};
use xen::store::Store;

use crate::{
    DeviceName, Offer,
    nodes::{number, read, refusal, shown},
};

/// Reads what a frontend has made; the disk's number and whether it is read-only are the caller's to know.
///
/// # Errors
/// What is wrong with it, with its number; or what the server says.
pub async fn read_rings(store: &Store, name: &DeviceName, frontend: &Path, offer: &Offer) -> Result<ConnectRing> {
    let nodes = Nodes { store, directory: frontend };
    let abi = nodes.abi().await?;
    let pages = nodes.page_count(offer).await?;
    let mut queues = Vec::new();
    match nodes.queue_count(offer).await? {
        1 => queues.push(nodes.queue(pages).await?),
        count => {
            for index in 0..count {
                let directory = nodes.path(&format!("queue-{index}"))?;
                queues.push(Nodes { store, directory: &directory }.queue(pages).await?);
            }
        }
    }
    check_distinct(&queues)?;
    let is_persistent = nodes.number("feature-persistent").await.ok().flatten() == Some(1);
    Ok(ConnectRing {
        domain: name.domain.0,
        device: name.device,
        queues,
        abi,
        persistent: is_persistent && offer.persistent,
        polling_us: offer.polling_us,
        indirect_segments: offer.indirect_segments,
        ..ConnectRing::default()
    })
}

/// A page or a channel that is named twice would be two rings in one.
fn check_distinct(queues: &[RingQueue]) -> Result<()> {
    let (mut pages, mut ports) = (BTreeSet::new(), BTreeSet::new());
    for queue in queues {
        if let Some(page) = queue.pages.iter().find(|page| !pages.insert(**page)) {
            return Err(refusal(Errno::INVAL, format!("grant reference {page} is named twice as a page of the ring")));
        }
        if !ports.insert(queue.port) {
            return Err(refusal(Errno::INVAL, format!("event channel {} is named for two rings", queue.port)));
        }
    }
    Ok(())
}

/// The nodes of a frontend, or of one of its queues.
struct Nodes<'a> {
    store: &'a Store,
    directory: &'a Path,
}

impl Nodes<'_> {
    fn path(&self, name: &str) -> Result<Path> {
        self.directory.join(name).map_err(|_| refusal(Errno::NAMETOOLONG, format!("{}/{name}", self.directory)))
    }

    /// A node's value; one that is empty is as good as none: boot loaders leave such behind.
    async fn value(&self, name: &str) -> Result<Option<Vec<u8>>> {
        Ok(read(self.store, &self.path(name)?).await?.filter(|value| !value.is_empty()))
    }

    async fn number(&self, name: &str) -> Result<Option<u32>> {
        let Some(value) = self.value(name).await? else { return Ok(None) };
        let words = || format!("reading {}/{name}: {} is not a number", self.directory, shown(&value));
        number(&value).map(Some).ok_or_else(|| refusal(Errno::INVAL, words()))
    }

    async fn needed(&self, name: &str) -> Result<u32> {
        let words = || format!("reading {}/{name}: there is none", self.directory);
        self.number(name).await?.ok_or_else(|| refusal(Errno::INVAL, words()))
    }

    async fn abi(&self) -> Result<RingAbi> {
        let value = self.value("protocol").await?;
        let name = value.as_deref().map(|value| std::str::from_utf8(value).unwrap_or("?"));
        let abi = Abi::from_protocol(name).map_err(|_| {
            let words = format!("unknown fe protocol {}", shown(value.as_deref().unwrap_or_default()));
            refusal(Errno::PROTONOSUPPORT, words)
        })?;
        Ok(match abi {
            Abi::X86_32 => RingAbi::X86_32,
            Abi::X86_64 if name.unwrap_or(Abi::X86_64.protocol()) == "arm-abi" => RingAbi::Arm,
            Abi::X86_64 => RingAbi::X86_64,
        })
    }

    /// Pages of each ring, and whether they are named by number.
    async fn page_count(&self, offer: &Offer) -> Result<PageCount> {
        let order_max = offer.ring_order_max.min(RING_ORDER_MAX);
        if let Some(order) = self.number("ring-page-order").await? {
            if order > order_max {
                let words = format!("the ring has 2^{order} pages; at most 2^{order_max} were offered");
                return Err(refusal(Errno::INVAL, words));
            }
            return Ok(PageCount { count: 1 << order, are_numbered: true });
        }
        match self.number("num-ring-pages").await? {
            None => Ok(PageCount { count: 1, are_numbered: false }),
            Some(count) if count.is_power_of_two() && count <= 1 << order_max => {
                Ok(PageCount { count, are_numbered: true })
            }
            Some(count) => Err(refusal(Errno::INVAL, format!("a ring of {count} pages was not offered"))),
        }
    }

    /// Rings of the device. Kernels leave the nodes of their queues behind; a boot loader that comes after one knows of
    /// no queues, and writes what it has directly into the directory.
    async fn queue_count(&self, offer: &Offer) -> Result<u32> {
        let count = self.number("multi-queue-num-queues").await?.unwrap_or(1);
        if count == 0 || count > offer.queues_max {
            let words = format!("guest requested {count} queues; at most {} were offered", offer.queues_max);
            return Err(refusal(Errno::INVAL, words));
        }
        let first = self.path("queue-0")?;
        let has_queues = Nodes { store: self.store, directory: &first }.value("event-channel").await?.is_some();
        let is_stale = !has_queues && self.value("event-channel").await?.is_some();
        Ok(if is_stale { 1 } else { count })
    }

    async fn queue(&self, pages: PageCount) -> Result<RingQueue> {
        let port = self.needed("event-channel").await?;
        if !pages.are_numbered {
            return Ok(RingQueue { pages: vec![self.needed("ring-ref").await?], port });
        }
        let mut references = Vec::new();
        for index in 0..pages.count {
            let name = format!("ring-ref{index}");
            let reference = match self.number(&name).await? {
                Some(reference) => reference,
                // Some name the only page of a ring as if it had no number.
                None if pages.count == 1 => self.needed("ring-ref").await?,
                None => self.needed(&name).await?,
            };
            references.push(reference);
        }
        Ok(RingQueue { pages: references, port })
    }
}

#[derive(Clone, Copy)]
struct PageCount {
    count: u32,
    are_numbered: bool,
}
