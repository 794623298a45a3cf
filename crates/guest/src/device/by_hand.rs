//! The steps of a frontend, one by one: for guests that make their rings themselves.

use std::{pin::pin, time::Duration};

use block_core::{Error, ErrorKind, Result};
use futures_util::future::{Either, select};
use wire::{blkif::Abi, xenstore::Path};
use xen::{DomainId, GrantRef, Port, store::Store};
use xenbus::State;

use super::{
    disk::{DiskProperties, gone},
    tree::{RingNodes, Tree, below},
};

/// A frontend without a machine: its steps are taken when somebody says so, in any order.
#[derive(Debug)]
pub struct ByHand {
    store: Store,
    tree: Tree,
    patience: Duration,
}

impl ByHand {
    /// The steps of the device whose directory this is; each waits so long at most.
    pub fn new(store: &Store, own: Path, patience: Duration) -> ByHand {
        ByHand { store: store.clone(), tree: Tree::new(store.clone(), own), patience }
    }

    /// Where the backend runs.
    ///
    /// # Errors
    /// When there is no backend, or XenStore cannot be asked.
    pub async fn backend(&self) -> Result<DomainId> {
        Ok(self.tree.look().await?.peer.ok_or_else(gone)?.domain)
    }

    /// Says where one ring is, and waits until the backend has connected to it.
    ///
    /// # Errors
    /// When the backend does not.
    pub async fn connect(&self, abi: Abi, grants: &[GrantRef], port: Port) -> Result<DiskProperties> {
        self.until(State::InitWait).await?;
        let pages: Vec<u32> = grants.iter().map(|grant| grant.0).collect();
        let order = pages.len().trailing_zeros();
        let ring = RingNodes { abi, order, persistent: false, queues: vec![(pages, port.0)] };
        self.tree.write_ring(&ring, State::Initialised).await?;
        self.until(State::Connected).await?;
        let peer = self.tree.look().await?.peer.ok_or_else(gone)?;
        let disk = self.tree.disk(&peer.path).await?;
        self.tree.publish(State::Connected).await?;
        Ok(disk)
    }

    /// Leaves the device at its start.
    ///
    /// # Errors
    /// When the backend does not let go.
    pub async fn leave(&self) -> Result<()> {
        self.tree.publish(State::Closing).await?;
        self.until(State::Closing).await?;
        self.tree.publish(State::Closed).await?;
        self.until(State::Closed).await?;
        self.tree.publish(State::Initialising).await
    }

    /// Waits until the backend shows a state. One that is closed already has nothing to close.
    async fn until(&self, wanted: State) -> Result<()> {
        let peer = self.tree.look().await?.peer.ok_or_else(gone)?;
        let watch = self.tree.watch(&below(&peer.path, "state")?);
        let seen = pin!(async {
            loop {
                let backend = self.tree.look().await?.backend;
                if backend == wanted || (wanted == State::Closing && backend == State::Closed) {
                    return Ok(());
                }
                if backend == State::Unknown {
                    return Err(gone());
                }
                watch.next().await;
            }
        });
        match select(seen, pin!(self.store.executor().sleep(self.patience))).await {
            Either::Left((seen, _)) => seen,
            Either::Right(_) => {
                let words = format!("the backend does not come to {wanted} in {} s", self.patience.as_secs_f32());
                Err(Error::new(ErrorKind::Busy, words))
            }
        }
    }
}
