//! From a child to its parent: the paths that a VHD stores, and where they lead.
//!
//! ```text
//!   child --locator 0, 1, .. 7--> the first path that can be read --> canonical name of the parent
//! ```

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use block_core::{Error, ErrorKind, Result, ResultExt, SECTOR};
use image_format::vhd::{DiskType, Locator, ParentLocatorBytes};
use rustix::{fs::Access as Permission, io::Errno};
use storage_io::{Access, CreateMode, Executor, LockPolicy, OpenOptions, Storage};

use super::{
    Session,
    opened::{Demands, OpenedVhd, read_bytes},
};

/// Which storage an image lies in, whatever path leads there.
pub(super) type Identity = (u64, u64);

/// The parent of a differencing image.
pub(super) struct Parent {
    pub(super) path: PathBuf,
    /// Not a VHD.
    pub(super) is_raw: bool,
}

/// The parent, if there is one: the first of the stored paths that leads to something readable. Where they lead to several
/// images, the one that the child was made from: somebody was stopped while he gave the child another parent.
pub(super) async fn parent_of(session: &Session, vhd: &OpenedVhd) -> Result<Option<Parent>> {
    let Some(header) = vhd.header.as_ref().filter(|_| vhd.footer.disk_type() == DiskType::Differencing) else {
        return Ok(None);
    };
    let mut failure = Error::new(ErrorKind::Corrupt, "no usable parent locator");
    let (mut tried, mut found): (Vec<String>, Vec<PathBuf>) = (Vec::new(), Vec::new());
    for locator in header.locators() {
        // A locator that makes no sense hides no other, and says less than a path that leads nowhere.
        let Ok(stored) = stored_path(session, vhd, locator).await else { continue };
        let stored = stored.strip_prefix("./").unwrap_or(&stored).to_owned();
        if tried.contains(&stored) {
            continue;
        }
        match find(session, vhd, &stored).await {
            Ok(path) if !found.contains(&path) => found.push(path),
            Ok(_) => {}
            Err(error) => failure = error,
        }
        tried.push(stored);
    }
    if let (Some(uuid), true) = (header.parent_uuid(), found.len() > 1) {
        for path in &found {
            let demands = Demands { disabled: true, ..Demands::default() };
            let other = OpenedVhd::open(session, path, Access::Read, demands).await;
            if other.is_ok_and(|other| other.footer.uuid() == uuid) {
                return Ok(Some(Parent { path: path.clone(), is_raw: false }));
            }
        }
    }
    match found.into_iter().next() {
        Some(path) => Ok(Some(Parent { path, is_raw: header.parent_uuid().is_none() })),
        None => Err(failure.context("parent").context(vhd.path.display())),
    }
}

/// Whether all stored paths lead the same way, to what the header calls the parent.
pub(super) async fn paths_agree(session: &Session, vhd: &OpenedVhd) -> bool {
    let Some(header) = &vhd.header else { return true };
    let mut first: Option<String> = None;
    for locator in header.locators() {
        let Ok(stored) = stored_path(session, vhd, locator).await else { continue };
        let stored = stored.strip_prefix("./").unwrap_or(&stored).to_owned();
        let name = Path::new(&stored).file_name().and_then(|name| name.to_str());
        if first.get_or_insert_with(|| stored.clone()) != &stored || name != header.parent_name().ok().as_deref() {
            return false;
        }
    }
    true
}

/// The parent's path as it is stored; none without a parent.
pub(super) async fn stored_parent_of(session: &Session, vhd: &OpenedVhd) -> Result<Option<String>> {
    let Some(header) = vhd.header.as_ref().filter(|_| vhd.footer.disk_type() == DiskType::Differencing) else {
        return Ok(None);
    };
    for locator in header.locators() {
        if let Ok(stored) = stored_path(session, vhd, locator).await {
            return Ok(Some(stored));
        }
    }
    Err(Error::new(ErrorKind::Corrupt, "no usable parent locator").context(vhd.path.display()))
}

async fn stored_path(session: &Session, vhd: &OpenedVhd, locator: Result<Locator>) -> Result<String> {
    let locator = locator?;
    let bytes = vhd.bytes(&session.executor, locator.encoded().align_out(SECTOR)).await?;
    decode(locator, &bytes)
}

/// The path that a slot of a header leads to.
pub(super) async fn path_in(
    executor: &Executor,
    storage: &Arc<dyn Storage>,
    slot: &ParentLocatorBytes,
) -> Result<String> {
    let nowhere = || Error::new(ErrorKind::Corrupt, "an empty parent locator");
    let locator = Locator::check(slot)?.ok_or_else(nowhere)?;
    decode(locator, &read_bytes(executor, storage, locator.encoded().align_out(SECTOR)).await?)
}

/// The path of a locator, from the sectors that it lies in.
fn decode(locator: Locator, sectors: &[u8]) -> Result<String> {
    let encoded = locator.encoded();
    let start = usize::try_from(encoded.start().get() % SECTOR).expect("less than a sector");
    let length = usize::try_from(encoded.length()).expect("a locator is short");
    locator.code().decode(&sectors[start..start + length])
}

/// Absolute paths are taken as they are, others lead on from the child's own directory.
async fn find(session: &Session, vhd: &OpenedVhd, stored: &str) -> Result<PathBuf> {
    let stored = Path::new(stored);
    if stored.is_absolute() && check_readable(stored).is_ok() {
        return Ok(stored.to_path_buf());
    }
    let child = session.files.canonical(&session.executor, &vhd.path).await?;
    let directory = child.parent().ok_or_else(|| Error::new(ErrorKind::Invalid, "the root directory is no image"))?;
    let stored = stored.strip_prefix("/").or(stored.strip_prefix("./")).unwrap_or(stored);
    let path = directory.join(stored);
    check_readable(&path).context(path.display())?;
    session.files.canonical(&session.executor, &path).await
}

fn check_readable(path: &Path) -> Result<()> {
    Ok(rustix::fs::access(path, Permission::READ_OK).map_err(std::io::Error::from)?)
}

/// The storages of a chain, leaf first; a raw image at its end counts.
pub(super) async fn chain_of(session: &Session, leaf: &OpenedVhd) -> Result<Vec<Identity>> {
    let mut seen = vec![leaf.storage.limits().identity];
    let mut next = parent_of(session, leaf).await?;
    while let Some(Parent { path, is_raw }) = next {
        let (identity, parent) = if is_raw {
            (open_raw(session, &path).await?.0, None)
        } else {
            let demands = Demands { disabled: true, ..Demands::default() };
            let vhd = OpenedVhd::open(session, &path, Access::Read, demands).await?;
            (vhd.storage.limits().identity, parent_of(session, &vhd).await?)
        };
        if seen.contains(&identity) {
            let words = format!("{}: the chain leads back to it", path.display());
            return Err(Error::from_os(words, Errno::LOOP.into()));
        }
        seen.push(identity);
        next = parent;
    }
    Ok(seen)
}

/// A raw image: which storage it is, and its bytes in whole sectors.
pub(super) async fn open_raw(session: &Session, path: &Path) -> Result<(Identity, u64)> {
    let options = OpenOptions { access: Access::Read, direct: true, lock: LockPolicy::None, create: CreateMode::No };
    let storage = session.files.open(&session.executor, path, options).await?;
    Ok((storage.limits().identity, storage.length() / SECTOR * SECTOR))
}
