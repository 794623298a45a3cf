//! What a toolstack does for a guest: domains and disks in XenStore, laid out as `libxl` lays them out.
//!
//! ```text
//!   /local/domain/7/device/vbd/51712     backend, backend-id, state=1 ...     the guest's own
//!   /local/domain/0/backend/vbd3/7/51712 frontend, params, online=1, state=1  the backend's
//! ```

use std::{pin::pin, time::Duration};

use block_core::{Error, ErrorKind, Result, ResultExt};
use futures_util::future::{Either, select};
use wire::xenstore::{Path, Permission};
use xen::{
    DomainId,
    store::{Store, Transaction},
};
use xenbus::State;

/// A disk that a guest shall have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskSpec {
    /// Whose disk it is.
    pub domain: DomainId,
    /// Its name in the guest, such as `xvda`.
    pub name: String,
    /// Where the backend runs.
    pub backend: DomainId,
    /// The kind of backend, such as `vbd3`.
    pub kind: String,
    /// The image with its type, such as `vhd:/images/a.vhd`.
    pub image: String,
    /// The script that prepares the image; none if the backend does it.
    pub script: Option<String>,
    /// Nothing may be written.
    pub read_only: bool,
    /// It is in a drive.
    pub is_cdrom: bool,
    /// Pages of the guest may stay mapped between requests; none: as is usual for the backend.
    pub persistent: Option<bool>,
    /// Microseconds for which a ring is looked at after the last request; none: as is usual for the backend.
    pub polling_us: Option<u32>,
}

impl DiskSpec {
    /// A disk that can be written, of the kind that Xen's toolstack gives to tapdisks.
    pub fn new(domain: DomainId, name: &str, image: &str) -> DiskSpec {
        DiskSpec {
            domain,
            name: name.to_owned(),
            backend: DomainId(0),
            kind: "vbd3".to_owned(),
            image: image.to_owned(),
            script: None,
            read_only: false,
            is_cdrom: false,
            persistent: None,
            polling_us: None,
        }
    }

    /// The number of the device.
    ///
    /// # Errors
    /// `Invalid` for a name that no disk has.
    pub fn device(&self) -> Result<u32> {
        device_number(&self.name).ok_or_else(|| {
            Error::new(ErrorKind::Invalid, format!("'{}' is not the name of a disk, such as xvda or xvdb1", self.name))
        })
    }

    /// Its directory on the guest's side.
    ///
    /// # Errors
    /// As [`device`](Self::device).
    pub fn frontend_path(&self) -> Result<Path> {
        path(format!("/local/domain/{}/device/vbd/{}", self.domain, self.device()?))
    }

    /// Its directory on the backend's side.
    ///
    /// # Errors
    /// As [`device`](Self::device).
    pub fn backend_path(&self) -> Result<Path> {
        let (backend, kind) = (self.backend, &self.kind);
        path(format!("/local/domain/{backend}/backend/{kind}/{}/{}", self.domain, self.device()?))
    }

    fn frontend_nodes(&self) -> Result<Vec<(&'static str, String)>> {
        Ok(vec![
            ("backend", self.backend_path()?.as_str().to_owned()),
            ("backend-id", self.backend.to_string()),
            ("state", State::Initialising.number().to_string()),
            ("virtual-device", self.device()?.to_string()),
            ("device-type", self.device_type().to_owned()),
        ])
    }

    fn backend_nodes(&self) -> Result<Vec<(&'static str, String)>> {
        let mut nodes = vec![
            ("frontend", self.frontend_path()?.as_str().to_owned()),
            ("frontend-id", self.domain.to_string()),
            ("online", "1".to_owned()),
            ("removable", u32::from(self.is_cdrom).to_string()),
            ("bootable", "1".to_owned()),
            ("state", State::Initialising.number().to_string()),
            ("dev", self.name.clone()),
            ("type", self.kind.clone()),
            ("mode", if self.read_only { "r" } else { "w" }.to_owned()),
            ("device-type", self.device_type().to_owned()),
            ("discard-enable", u32::from(!self.read_only).to_string()),
            ("specification", "xen".to_owned()),
            ("params", self.image.clone()),
        ];
        nodes.extend(self.script.iter().map(|script| ("script", script.clone())));
        nodes.extend(self.persistent.map(|persistent| ("persistent-enable", u32::from(persistent).to_string())));
        nodes.extend(self.polling_us.map(|polling| ("polling-duration", polling.to_string())));
        Ok(nodes)
    }

    fn device_type(&self) -> &'static str {
        if self.is_cdrom { "cdrom" } else { "disk" }
    }
}

/// The number that toolstacks give to a disk by its name.
pub fn device_number(name: &str) -> Option<u32> {
    let (letters, partition) = name.split_at(name.find(|c: char| c.is_ascii_digit()).unwrap_or(name.len()));
    let (bus, letters) = letters.split_at_checked(if letters.starts_with("xvd") { 3 } else { 2 })?;
    if letters.is_empty() || letters.len() > 4 || !letters.bytes().all(|byte| byte.is_ascii_lowercase()) {
        return None;
    }
    let disk = letters.bytes().fold(0, |number, byte| number * 26 + u32::from(byte - b'a') + 1) - 1;
    let partition: u32 = if partition.is_empty() { 0 } else { partition.parse().ok()? };
    match (bus, disk, partition) {
        ("xvd", 0..16, 0..16) => Some(202 << 8 | disk << 4 | partition),
        ("xvd", 0..0x10_0000, 0..256) => Some(1 << 28 | disk << 8 | partition),
        ("hd", 0..2, 0..64) => Some(3 << 8 | disk << 6 | partition),
        ("hd", 2..4, 0..64) => Some(22 << 8 | (disk - 2) << 6 | partition),
        ("sd", 0..16, 0..16) => Some(8 << 8 | disk << 4 | partition),
        _ => None,
    }
}

/// A toolstack; it must be privileged in XenStore.
#[derive(Clone, Debug)]
pub struct Toolstack(Store);

impl Toolstack {
    /// One that works on this store.
    pub fn new(store: Store) -> Toolstack {
        Toolstack(store)
    }

    /// Makes the nodes of a domain with so much memory.
    ///
    /// # Errors
    /// `Invalid` if it is there already, or what XenStore says.
    pub async fn add_domain(&self, domain: DomainId, memory_kib: u64) -> Result<()> {
        let home = home(domain)?;
        let body = async |transaction: &Transaction| {
            if transaction.read(&home).await?.is_some() {
                return Err(Error::new(ErrorKind::Invalid, format!("domain {domain} is there already")));
            }
            // Whoever looks at a domain finds all of it: memory comes with it.
            let memory = below(&home, "memory/target")?;
            transaction.write(&memory, memory_kib.to_string().as_bytes()).await?;
            transaction.set_permissions(&home, &permissions(DomainId(0), domain)?).await?;
            transaction.write(&below(&home, "domid")?, domain.to_string().as_bytes()).await?;
            for name in ["device", "error", "data", "control"] {
                let node = below(&home, name)?;
                transaction.write(&node, b"").await?;
                transaction.set_permissions(&node, &permissions(domain, DomainId(0))?).await?;
            }
            Ok(())
        };
        self.0.transaction(body).await
    }

    /// The domains that there are, besides the first.
    ///
    /// # Errors
    /// What XenStore says.
    pub async fn domains(&self) -> Result<Vec<DomainId>> {
        let names = self.0.directory(&path("/local/domain".to_owned())?).await?.unwrap_or_default();
        Ok(names.iter().filter_map(|name| name.parse().ok().map(DomainId)).filter(|domain| domain.0 != 0).collect())
    }

    /// The memory of a domain; none if there is no such domain.
    ///
    /// # Errors
    /// What XenStore says.
    pub async fn memory_kib(&self, domain: DomainId) -> Result<Option<u64>> {
        let value = self.0.read(&below(&home(domain)?, "memory/target")?).await?;
        Ok(value.and_then(|value| std::str::from_utf8(&value).ok()?.parse().ok()))
    }

    /// Ends a domain: its disks are taken away by force, then its nodes go.
    ///
    /// # Errors
    /// What XenStore says.
    pub async fn remove_domain(&self, domain: DomainId, patience: Duration) -> Result<()> {
        for backend in self.backends(domain).await? {
            let frontend = self.0.read(&below(&backend, "frontend")?).await?;
            let frontend = frontend.and_then(|bytes| Path::from_bytes(&bytes).ok());
            self.remove(frontend.as_ref(), &backend, true, patience).await?;
        }
        self.0.remove(&home(domain)?).await
    }

    /// Where the disks of a domain have their backends.
    ///
    /// # Errors
    /// What XenStore says.
    pub async fn backends(&self, domain: DomainId) -> Result<Vec<Path>> {
        let devices = path(format!("/local/domain/{domain}/device/vbd"))?;
        let mut found = Vec::new();
        for device in self.0.directory(&devices).await?.unwrap_or_default() {
            let backend = self.0.read(&below(&below(&devices, &device)?, "backend")?).await?;
            found.extend(backend.and_then(|bytes| Path::from_bytes(&bytes).ok()));
        }
        Ok(found)
    }

    /// Makes the nodes of a disk, both sides at once.
    ///
    /// # Errors
    /// `Invalid` if the domain is not there or has such a disk already, or what XenStore says.
    pub async fn add_disk(&self, disk: &DiskSpec) -> Result<()> {
        let plan = Plan::new(disk)?;
        self.0.transaction(async |transaction| plan.carry_out(transaction).await).await
    }

    /// Removes a disk that may still be in use and makes its nodes anew, all at once: nobody sees it gone.
    ///
    /// # Errors
    /// As [`add_disk`](Self::add_disk).
    pub async fn replace_disk(&self, disk: &DiskSpec) -> Result<()> {
        let plan = Plan::new(disk)?;
        let body = async |transaction: &Transaction| {
            for side in &plan.sides {
                if transaction.read(&side.directory).await?.is_some() {
                    transaction.remove(&side.directory).await?;
                }
            }
            plan.carry_out(transaction).await
        };
        self.0.transaction(body).await
    }

    /// Takes a disk away, by force if its guest shall not be asked; then its nodes go. Says whether the backend had ended
    /// in time.
    ///
    /// # Errors
    /// `NotFound` if there is no such disk, or what XenStore says.
    pub async fn remove_disk(&self, disk: &DiskSpec, by_force: bool, patience: Duration) -> Result<bool> {
        let (frontend, backend) = (disk.frontend_path()?, disk.backend_path()?);
        if self.0.read(&backend).await?.is_none() {
            let words = format!("domain {} has no disk {}", disk.domain, disk.name);
            return Err(Error::new(ErrorKind::NotFound, words));
        }
        self.remove(Some(&frontend), &backend, by_force, patience).await
    }

    async fn remove(
        &self,
        frontend: Option<&Path>,
        backend: &Path,
        by_force: bool,
        patience: Duration,
    ) -> Result<bool> {
        let state = below(backend, "state")?;
        let watch = self.0.watch(&state);
        let online = below(backend, "online")?;
        let body = async |transaction: &Transaction| {
            if by_force && let Some(frontend) = frontend {
                transaction.remove(frontend).await?;
            }
            let Some(now) = transaction.read(&state).await? else { return Ok(()) };
            transaction.write(&online, b"0").await?;
            match text_state(&now) {
                State::Closed => Ok(()),
                _ => transaction.write(&state, b"5").await,
            }
        };
        self.0.transaction(body).await?;
        let closed = async {
            loop {
                match self.0.read(&state).await? {
                    Some(value) if text_state(&value) != State::Closed => drop(watch.next().await),
                    _ => return Ok::<(), Error>(()),
                }
            }
        };
        let has_ended = match select(pin!(closed), pin!(self.0.executor().sleep(patience))).await {
            Either::Left((ended, _)) => ended.map(|()| true)?,
            Either::Right(_) => false,
        };
        if has_ended || by_force {
            self.0.remove(backend).await?;
            if let Some(frontend) = frontend {
                self.0.remove(frontend).await?;
            }
        }
        Ok(has_ended)
    }
}

/// The nodes of a disk.
struct Plan<'d> {
    disk: &'d DiskSpec,
    home: Path,
    sides: [Side; 2],
}

/// One of its two directories.
struct Side {
    directory: Path,
    nodes: Vec<(&'static str, String)>,
    permissions: Vec<Permission>,
}

impl Plan<'_> {
    fn new(disk: &DiskSpec) -> Result<Plan<'_>> {
        let frontend = Side {
            directory: disk.frontend_path()?,
            nodes: disk.frontend_nodes()?,
            permissions: permissions(disk.domain, disk.backend)?,
        };
        let backend = Side {
            directory: disk.backend_path()?,
            nodes: disk.backend_nodes()?,
            permissions: permissions(disk.backend, disk.domain)?,
        };
        Ok(Plan { disk, home: home(disk.domain)?, sides: [frontend, backend] })
    }

    async fn carry_out(&self, transaction: &Transaction) -> Result<()> {
        let DiskSpec { domain, name, .. } = self.disk;
        if transaction.read(&self.home).await?.is_none() {
            return Err(Error::new(ErrorKind::NotFound, format!("there is no domain {domain}")));
        }
        for Side { directory, nodes, permissions } in &self.sides {
            if transaction.read(directory).await?.is_some() {
                let words = format!("domain {domain} has a disk {name} already");
                return Err(Error::new(ErrorKind::Invalid, words));
            }
            transaction.write(directory, b"").await?;
            transaction.set_permissions(directory, permissions).await?;
            for (name, value) in nodes {
                transaction.write(&below(directory, name)?, value.as_bytes()).await?;
            }
        }
        Ok(())
    }
}

fn text_state(value: &[u8]) -> State {
    std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()).unwrap_or(State::Unknown)
}

fn home(domain: DomainId) -> Result<Path> {
    path(format!("/local/domain/{domain}"))
}

fn path(text: String) -> Result<Path> {
    Path::new(text.as_str()).map_err(|error| Error::new(ErrorKind::Invalid, error.to_string())).context(text)
}

fn below(path: &Path, name: &str) -> Result<Path> {
    crate::device::below(path, name)
}

/// One may do everything, the other may read.
fn permissions(owner: DomainId, reader: DomainId) -> Result<Vec<Permission>> {
    let entries = [format!("n{owner}"), format!("r{reader}")];
    let parsed: std::result::Result<Vec<Permission>, _> = entries.iter().map(|entry| entry.parse()).collect();
    parsed.map_err(|_| Error::new(ErrorKind::Invalid, "domains are numbered"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_numbered_as_toolstacks_number_them() {
        let numbers = ["xvda", "xvdp15", "xvdq", "xvdaa1", "hda", "hdb1", "hdc", "sda", "sdp15"].map(device_number);
        let expected = [51712, 51967, (1 << 28) + 4096, (1 << 28) + 6657, 768, 833, 5632, 2048, 2303].map(Some);
        assert_eq!(numbers, expected);
        for bad in ["", "xvd", "xvd1", "xv", "vda", "hde", "sdq", "xvda256", "xvdaX", "sda16", "xvda-1", "xvdaaaaa"] {
            assert_eq!(device_number(bad), None, "{bad}");
        }
    }
}
