//! What XenStore shows of the devices of a kind, for people and for those who clean up.

use block_core::Result;
use futures_util::future::{join, join_all};
use rustix::io::Errno;
use wire::xenstore::Path;
use xen::{DomainId, store::Store};
use xenbus::State;

use crate::{
    DeviceName, Disk,
    image::{ImageNodes, named_disk},
    look::frontend_state,
    name::{domain_directory, error_root, kind_directory},
    nodes::{self, read, state, text},
};

/// A device as XenStore shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Which one.
    pub device: DeviceName,
    /// What its backend has published.
    pub own: State,
    /// What its guest has; `Unknown` if that has gone.
    pub frontend: State,
    /// The toolstack wants it to stay.
    pub online: bool,
    /// There is a domain of the guest's number.
    pub has_guest: bool,
    /// The disk that its nodes name by process and number.
    pub disk: Option<Disk>,
    /// The image that its toolstack has named.
    pub params: Option<String>,
    /// What is wrong with it, as its backend has told.
    pub error: Option<String>,
}

/// All devices of a kind whose backend is this domain, by name. Directories that name no frontend are none.
///
/// # Errors
/// When XenStore cannot be asked.
pub async fn survey(store: &Store, domain: DomainId, kind: &str) -> Result<Vec<Shown>> {
    let mut names = Vec::new();
    let root = kind_directory(domain, kind);
    let kind = kind.into();
    for guest in store.directory(&root).await?.unwrap_or_default() {
        let Ok(directory) = root.join(&guest) else { continue };
        let devices = store.directory(&directory).await?.unwrap_or_default();
        names.extend(devices.iter().filter_map(|device| DeviceName::parse(&kind, &guest, device)));
    }
    names.sort();
    let shown = join_all(names.into_iter().map(|name| show(store, domain, name))).await;
    shown.into_iter().filter_map(Result::transpose).collect()
}

async fn show(store: &Store, domain: DomainId, device: DeviceName) -> Result<Option<Shown>> {
    let directory = device.directory(domain);
    let Some(frontend) = value(store, &directory, "frontend").await? else { return Ok(None) };
    let frontend = match Path::new(String::from_utf8_lossy(&frontend)) {
        Ok(frontend) => frontend_state(store, &frontend).await?,
        Err(_) => State::Unknown,
    };
    let nodes = join_all(ImageNodes::NAMES.map(|name| value(store, &directory, name)));
    let life = join(value(store, &directory, "state"), value(store, &directory, "online"));
    let (errors, guest) = (device.error_directory(domain), domain_directory(device.domain));
    let around = join(value(store, &errors, "error"), store.directory(&guest));
    let (nodes, (life, around)) = join(nodes, join(life, around)).await;
    let nodes: Vec<Option<String>> = nodes.into_iter().map(|value| value.map(text)).collect::<Result<_>>()?;
    let nodes = ImageNodes::from_values(nodes.try_into().expect("one for each name"));
    Ok(Some(Shown {
        device,
        own: state(life.0?.as_deref()),
        frontend,
        online: life.1?.as_deref() != Some(b"0"),
        has_guest: around.1?.is_some(),
        disk: named_disk(&nodes),
        params: nodes.params,
        error: text(around.0?),
    }))
}

/// A node's value; one that is too long is as good as none.
async fn value(store: &Store, directory: &Path, name: &str) -> Result<Option<Vec<u8>>> {
    match read(store, &directory.join(name).expect("a plain name")).await {
        Err(error) if error.os_error() == Some(Errno::TOOBIG.raw_os_error()) => Ok(None),
        value => value,
    }
}

/// What was told of devices of a kind that are no more: each, and the error. A backend takes back what it has told when a
/// device goes; one that was killed, or another's, may not have.
///
/// # Errors
/// When XenStore cannot be asked.
pub async fn errors_of_the_gone(store: &Store, domain: DomainId, kind: &str) -> Result<Vec<(DeviceName, String)>> {
    let mut found = Vec::new();
    let root = error_root(domain, kind);
    let kind = kind.into();
    for guest in store.directory(&root).await?.unwrap_or_default() {
        let Ok(directory) = root.join(&guest) else { continue };
        for device in store.directory(&directory).await?.unwrap_or_default() {
            let Some(device) = DeviceName::parse(&kind, &guest, &device) else { continue };
            let error = value(store, &device.error_directory(domain), "error").await?;
            let is_there = read(store, &frontend_of(&device, domain)).await?.is_some();
            found.extend(
                error.filter(|_| !is_there).map(|error| (device, String::from_utf8_lossy(&error).into_owned())),
            );
        }
    }
    found.sort();
    Ok(found)
}

/// Takes back what was told of a device, if that is still no more. Says whether it was.
///
/// # Errors
/// When XenStore refuses.
pub async fn remove_error(store: &Store, domain: DomainId, device: &DeviceName) -> Result<bool> {
    let (errors, frontend) = (device.error_directory(domain), frontend_of(device, domain));
    store
        .transaction(async |transaction| {
            if transaction.read(&frontend).await?.is_some() {
                return Ok(false);
            }
            if transaction.directory(&errors).await?.is_some() {
                nodes::remove_below_guest(transaction, &errors).await?;
            }
            Ok(true)
        })
        .await
}

/// The node that a device has as long as it is there.
fn frontend_of(device: &DeviceName, domain: DomainId) -> Path {
    device.directory(domain).join("frontend").expect("a plain name")
}

/// Removes the directory of a device that has come to its end, if it is still as it was seen: published closed, its guest
/// gone. Whoever is at work there at the same time wins. Says whether it was removed.
///
/// # Errors
/// When XenStore refuses.
pub async fn remove_ended(store: &Store, domain: DomainId, device: &DeviceName) -> Result<bool> {
    let directory = device.directory(domain);
    let own = directory.join("state").expect("a plain name");
    let home = domain_directory(device.domain);
    store
        .transaction(async |transaction| {
            let is_closed = state(transaction.read(&own).await?.as_deref()) == State::Closed;
            if !is_closed || transaction.directory(&home).await?.is_some() {
                return Ok(false);
            }
            nodes::remove_below_guest(transaction, &directory).await?;
            Ok(true)
        })
        .await
}
