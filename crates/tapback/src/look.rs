//! What there is to be seen of a device.

use block_core::Result;
use futures_util::future::{join, join_all};
use rustix::io::Errno;
use wire::xenstore::Path;
use xen::store::Store;
use xenbus::State;

use crate::{
    DeviceName, Host, ImageNodes,
    agent::{self, RestNodes},
    name::domain_directory,
    nodes::{read, state, text},
};

/// What a device's directory shows.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// The directory of its frontend.
    pub(crate) frontend: Path,
    pub(crate) own: State,
    pub(crate) online: bool,
    pub(crate) image: ImageNodes,
    pub(crate) rest: RestNodes,
}

/// What is at a device's place.
#[derive(Debug)]
pub(crate) enum Look {
    /// A device.
    There(Box<Seen>),
    /// Nothing, or what scripts leave behind, which are directories that name no frontend.
    Gone,
    /// Not even our own domain: it is the store that has lost everything, not the toolstack that has ended the device.
    Lost,
}

pub(crate) async fn look(host: &Host, name: &DeviceName) -> Result<Look> {
    let directory = name.directory(host.domain);
    let node = |name: &str| directory.join(name).expect("a plain name");
    let image = image_nodes(&host.store, &directory);
    let (frontend, own, online) = (node("frontend"), node("state"), node("online"));
    let life = join(read(&host.store, &own), read(&host.store, &online));
    let (wanted, told) = (node(agent::WANTED), node(agent::TOLD));
    let rest = join(is_there(&host.store, &wanted), is_there(&host.store, &told));
    let (frontend, ((life, rest), image)) = join(read(&host.store, &frontend), join(join(life, rest), image)).await;
    let (own, online) = (life.0?, life.1?);
    let rest = RestNodes { is_wanted: rest.0?, is_told: rest.1? };
    let (Some(frontend), Some(own)) = (text(frontend?), own) else {
        let home = host.store.directory(&domain_directory(host.domain)).await?;
        return Ok(if home.is_some() { Look::Gone } else { Look::Lost });
    };
    let Some(frontend) = frontend_path(name, &frontend) else {
        host.log.note(name, &format!("ignored: its frontend is not below its guest: {frontend}"));
        return Ok(Look::Gone);
    };
    let (own, image) = (state(Some(&own)), image?);
    Ok(Look::There(Box::new(Seen { frontend, own, online: online.as_deref() != Some(b"0"), image, rest })))
}

/// What a device's directory says of its image.
pub(crate) async fn image_nodes(store: &Store, directory: &Path) -> Result<ImageNodes> {
    let values = join_all(ImageNodes::NAMES.map(|name| {
        let path = directory.join(name).expect("a plain name");
        async move { read(store, &path).await }
    }));
    let values: Vec<Option<String>> = values.await.into_iter().map(|value| value.map(text)).collect::<Result<_>>()?;
    Ok(ImageNodes::from_values(values.try_into().expect("one for each name")))
}

/// Whether there is a node, whatever its value.
async fn is_there(store: &Store, node: &Path) -> Result<bool> {
    match read(store, node).await {
        Err(error) if error.os_error() == Some(Errno::TOOBIG.raw_os_error()) => Ok(true),
        value => Ok(value?.is_some()),
    }
}

/// The frontend's directory, which is the guest's.
fn frontend_path(name: &DeviceName, text: &str) -> Option<Path> {
    let path = Path::new(text).ok()?;
    let guest = domain_directory(name.domain);
    (guest.covers(&path) && path != guest).then_some(path)
}

/// The state of a frontend.
pub(crate) async fn frontend_state(store: &Store, frontend: &Path) -> Result<State> {
    match read(store, &state_node(frontend)).await {
        // No state is that long.
        Err(error) if error.os_error() == Some(Errno::TOOBIG.raw_os_error()) => Ok(State::Unknown),
        value => Ok(state(value?.as_deref())),
    }
}

pub(crate) fn state_node(frontend: &Path) -> Path {
    frontend.join("state").unwrap_or_else(|_| frontend.clone())
}

#[cfg(test)]
mod tests {
    use xen::DomainId;

    use super::*;

    #[test]
    fn a_frontend_is_below_its_guest() {
        let name = DeviceName::new(&"vbd3".into(), DomainId(7), 51712);
        assert!(frontend_path(&name, "/local/domain/7/device/vbd/51712").is_some());
        for wrong in
            ["/local/domain/8/device/vbd/51712", "/local/domain/7", "/local/domain/70/device", "device/vbd", "/a b"]
        {
            assert_eq!(frontend_path(&name, wrong), None, "{wrong}");
        }
    }
}
