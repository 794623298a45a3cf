//! The XenStore of this host, for those who only look: it may not be there, and it is not waited for for ever.

use std::{env, path::PathBuf, pin::pin, time::Duration};

use block_core::{Error, ErrorKind, Result};
use futures_util::future::{Either, select};
use rustix::io::Errno;
use storage_io::{EngineChoice, Executor};
use tapback::{
    DeviceName,
    survey::{Shown, errors_of_the_gone as errors_of_kind, survey},
};
use wire::xenstore::Path;
use xen::{
    DomainId,
    store::{Address, Store},
};

/// Where guests are found, as programs of a host without Xen are told.
const PLATFORM_VARIABLE: &str = "OXTAP_XEN";
/// What a host without XenStore answers to a connection: nothing there, nobody listens, a device without a hypervisor.
const NO_STORE: [Errno; 4] = [Errno::NOENT, Errno::CONNREFUSED, Errno::NODEV, Errno::NXIO];
/// So long those who list disks wait for it.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where it is.
pub(super) fn address() -> Address {
    let platform = env::var(PLATFORM_VARIABLE).unwrap_or_default();
    match platform.strip_prefix("hosted:") {
        Some(directory) if !directory.is_empty() => Address::Socket(PathBuf::from(directory).join("socket")),
        _ => Address::from_environment(),
    }
}

/// Connects; an error that says that there is none is given as one inside.
pub(super) fn connect(executor: &Executor, address: &Address) -> Result<Result<Store>> {
    match Store::connect(executor, address.clone()) {
        Err(error) if !NO_STORE.iter().any(|errno| error.os_error() == Some(errno.raw_os_error())) => Err(error),
        store => Ok(store),
    }
}

/// A server that has gone is waited for by whoever asks it: here not for ever.
pub(super) async fn patiently<T>(
    executor: &Executor,
    patience: Duration,
    asked: impl Future<Output = Result<T>>,
) -> Result<T> {
    let silent = || Error::from_os("XenStore does not answer", Errno::TIMEDOUT.into());
    within(executor, patience, asked, silent).await
}

/// What does not end in time is an error.
pub(super) async fn within<T>(
    executor: &Executor,
    time: Duration,
    work: impl Future<Output = Result<T>>,
    late: impl FnOnce() -> Error,
) -> Result<T> {
    let (work, end) = (pin!(work), pin!(executor.sleep(time)));
    let first = select(work, end).await;
    match first {
        Either::Left((result, _)) => result,
        Either::Right(_) => Err(late()),
    }
}

/// The domain that we are in: a relative path begins there.
pub(super) async fn own_domain(store: &Store) -> Result<DomainId> {
    let domid = Path::new("domid").expect("a plain name");
    let Some(value) = store.read(&domid).await? else { return Ok(DomainId(0)) };
    let text = String::from_utf8_lossy(&value);
    let malformed = || Error::new(ErrorKind::Corrupt, format!("domid is '{}', not a number", text.escape_debug()));
    text.parse().map(DomainId).map_err(|_| malformed())
}

/// All devices of these kinds.
pub(super) async fn devices(store: &Store, kinds: &[String]) -> Result<Vec<Shown>> {
    let own = own_domain(store).await?;
    let mut devices = Vec::new();
    for kind in kinds {
        devices.extend(survey(store, own, kind).await?);
    }
    Ok(devices)
}

/// What was told of devices of these kinds that are no more.
pub(super) async fn errors_of_the_gone(store: &Store, kinds: &[String]) -> Result<Vec<(DeviceName, String)>> {
    let own = own_domain(store).await?;
    let mut errors = Vec::new();
    for kind in kinds {
        errors.extend(errors_of_kind(store, own, kind).await?);
    }
    Ok(errors)
}

/// All devices of these kinds; none on a host without XenStore.
pub(super) fn devices_here(kinds: &[String]) -> Result<Vec<Shown>> {
    let executor = Executor::new(EngineChoice::Inline)?;
    match connect(&executor, &address())? {
        Ok(store) => executor.block_on(patiently(&executor, PATIENCE, devices(&store, kinds))),
        Err(_) => Ok(Vec::new()),
    }
}
