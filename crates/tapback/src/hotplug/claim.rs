//! What the device's directory says: what is wanted, which disk it has, what went wrong.

use block_core::{Error, ErrorKind, Result};
use futures_util::future::join_all;
use rustix::io::Errno;
use wire::xenstore::Path;
use xen::store::Transaction;

use super::{Script, named};
use crate::{
    DeviceName, Disk, ImageNodes,
    look::image_nodes,
    name::{backend_directory, domain_directory},
    nodes::{read, text},
};

/// Longer words are cut: a node holds only so many.
const ERROR_CHARACTERS_MAX: usize = 400;
/// The nodes by which a device names its disk.
const NAMES: [&str; 3] = ["pid", "minor", "physical-device-path"];

/// A device, and what it wants.
pub(super) struct Wanted {
    /// What its directory says of its frontend: by this it is known again.
    frontend: Vec<u8>,
    pub(super) nodes: ImageNodes,
    /// `type:path`.
    pub(super) image: String,
}

impl Wanted {
    /// The disk that the device names already.
    pub(super) fn disk(&self) -> Option<Disk> {
        named(self.nodes.pid.clone(), self.nodes.minor.clone())
    }
}

/// What has come of naming a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    Made,
    /// The disk that was to be shared has been left by the device that had it.
    Left,
}

impl Script {
    fn node(&self, name: &str) -> Path {
        node(&self.device.directory(self.domain), name)
    }

    /// What the device wants.
    pub(super) async fn wanted(&self) -> Result<Wanted> {
        let frontend = read(&self.store, &self.node("frontend")).await?.ok_or_else(gone)?;
        let nodes = image_nodes(&self.store, &self.device.directory(self.domain)).await?;
        let image = nodes.params.clone().filter(|params| params.contains(':'));
        let image = image.ok_or_else(|| {
            let params = nodes.params.as_deref().unwrap_or_default();
            Error::new(ErrorKind::Invalid, format!("params is '{params}', not type:path"))
        })?;
        Ok(Wanted { frontend, nodes, image })
    }

    /// Names the disk of the device, and says that the script has run. A disk that is another device's must still be named
    /// by that.
    pub(super) async fn claim(&self, wanted: &Wanted, disk: Disk, shared_with: Option<&DeviceName>) -> Result<Claim> {
        let socket = control_api::Minor::new(disk.minor).map(|minor| self.run.nbd_socket(disk.pid, minor));
        let socket = socket.map(|path| path.display().to_string()).unwrap_or_default();
        let values = [disk.pid.to_string(), disk.minor.to_string(), socket];
        self.store
            .transaction(async |transaction| {
                self.insist(transaction, Some(&wanted.frontend)).await?;
                if let Some(other) = shared_with {
                    let other = other.directory(self.domain);
                    let value = async |name| transaction.read(&node(&other, name)).await.map(text);
                    if named(value("pid").await?, value("minor").await?) != Some(disk) {
                        return Ok(Claim::Left);
                    }
                }
                for (name, value) in NAMES.iter().zip(&values) {
                    transaction.write(&self.node(name), value.as_bytes()).await?;
                }
                self.say_connected(transaction).await?;
                Ok(Claim::Made)
            })
            .await
    }

    /// Says that the script has run, and nothing else: the backend makes the disk.
    pub(super) async fn leave(&self) -> Result<()> {
        self.store
            .transaction(async |transaction| {
                self.insist(transaction, None).await?;
                self.say_connected(transaction).await
            })
            .await
    }

    /// The device has no disk any more; gives the one that it had.
    pub(super) async fn unclaim(&self) -> Result<Option<Disk>> {
        self.store
            .transaction(async |transaction| {
                if transaction.read(&self.node("frontend")).await?.is_none() {
                    return Ok(None);
                }
                let value = async |name| transaction.read(&self.node(name)).await.map(text);
                let had = named(value("pid").await?, value("minor").await?);
                for name in NAMES {
                    if transaction.read(&self.node(name)).await?.is_some() {
                        transaction.remove(&self.node(name)).await?;
                    }
                }
                Ok(had)
            })
            .await
    }

    /// Tells the toolstack, and whoever looks for a reason later.
    pub(super) async fn tell(&self, error: &Error) -> Result<()> {
        let words: String = error.to_string().chars().take(ERROR_CHARACTERS_MAX).collect();
        let is_busy = error.os_error() == Some(Errno::BUSY.raw_os_error());
        let status: &[u8] = if is_busy { b"busy" } else { b"error" };
        self.store
            .transaction(async |transaction| {
                self.insist(transaction, None).await?;
                transaction.write(&self.node("hotplug-error"), words.as_bytes()).await?;
                transaction.write(&self.node("hotplug-status"), status).await
            })
            .await
    }

    /// The device must be there, and be the one that was meant.
    async fn insist(&self, transaction: &Transaction, meant: Option<&[u8]>) -> Result<()> {
        let frontend = transaction.read(&self.node("frontend")).await?.ok_or_else(gone)?;
        if meant.is_none_or(|meant| meant == frontend) { Ok(()) } else { Err(gone()) }
    }

    async fn say_connected(&self, transaction: &Transaction) -> Result<()> {
        if transaction.read(&self.node("hotplug-error")).await?.is_some() {
            transaction.remove(&self.node("hotplug-error")).await?;
        }
        transaction.write(&self.node("hotplug-status"), b"connected").await
    }

    /// The other devices that name a disk, of whatever kind and guest.
    pub(super) async fn other_users(&self, minor: u16, pid: Option<u32>) -> Result<Vec<DeviceName>> {
        let backend = backend_directory(self.domain);
        let mut devices = Vec::new();
        for kind in self.names(&backend).await? {
            let below = node(&backend, &kind);
            let kind: std::rc::Rc<str> = kind.into();
            for domain in self.names(&below).await? {
                let names = self.names(&node(&below, &domain)).await?;
                devices.extend(names.iter().filter_map(|device| DeviceName::parse(&kind, &domain, device)));
            }
        }
        devices.retain(|device| *device != self.device);
        let disks = join_all(devices.iter().map(|device| self.disk_of(device))).await;
        let mut users = Vec::new();
        for (device, disk) in devices.into_iter().zip(disks) {
            if disk?.is_some_and(|disk| disk.minor == minor && pid.is_none_or(|pid| pid == disk.pid)) {
                users.push(device);
            }
        }
        Ok(users)
    }

    async fn names(&self, directory: &Path) -> Result<Vec<String>> {
        Ok(self.store.directory(directory).await?.unwrap_or_default())
    }

    /// The disk that a device names.
    async fn disk_of(&self, device: &DeviceName) -> Result<Option<Disk>> {
        let directory = device.directory(self.domain);
        let value = async |name| read(&self.store, &node(&directory, name)).await.map(text);
        match value("minor").await? {
            Some(minor) => Ok(named(value("pid").await?, Some(minor))),
            None => Ok(None),
        }
    }

    /// Whether a device may be written to.
    pub(super) async fn may_write(&self, device: &DeviceName) -> Result<bool> {
        let mode = read(&self.store, &node(&device.directory(self.domain), "mode")).await?;
        Ok(mode.is_some_and(|mode| mode.contains(&b'w')))
    }

    /// What stays the same of a domain that becomes another.
    pub(super) async fn machine(&self, device: &DeviceName) -> Result<Option<Vec<u8>>> {
        read(&self.store, &node(&domain_directory(device.domain), "vm")).await
    }
}

fn node(directory: &Path, name: &str) -> Path {
    directory.join(name).expect("names of nodes are plain")
}

fn gone() -> Error {
    Error::new(ErrorKind::NotFound, "the device has gone")
}
