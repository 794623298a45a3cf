//! Opening a chain: the leaf, then the parent that each image names, down to one that names none.
//!
//! ```text
//!   leaf   read or write, locked if it writes ---- names its parent: format, identity, where it may be
//!     |                                                     |
//!     v    the first place that opens for reading; never locked
//!   parent   same identity? not met before? not too deep? ---- names its parent ...
//! ```
//!
//! A format is told by whoever names the image, for a parent by its child; it is never guessed. Nothing is written
//! before the whole chain has been found good.

use std::{
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use block_core::{Error, ErrorKind, Result, ResultExt};
use image_format::{Format, Image, ImageKind, ParentReference, vhd::DiskKey};
use storage_io::{Access, CreateMode, Executor, LockPolicy, OpenOptions, Opener, Storage};

use crate::{
    home::{Home, HomeOptions, Layer, OWNER_BYTES_DEFAULT},
    name::ImageName,
    resting::{Resting, RestingFile},
};

/// How long an opener for writing waits for the last writer's I/O to end, unless told otherwise.
const LOCK_DEADLINE: Duration = Duration::from_secs(10);
/// How long it waits before it asks whether it should go on.
const LOCK_PATIENCE: Duration = Duration::from_millis(200);
/// Images in a chain, unless told otherwise: more than any storage manager makes.
pub const DEPTH_DEFAULT: usize = 256;

/// When a chain that may be written takes write access: the lock, and whatever the leaf notes of its writer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Writing {
    /// When it is opened.
    #[default]
    Now,
    /// Not yet: its files are opened so that they can be written, but they are only read, and another may write them.
    /// When its [`Resting`] files are woken with `Now`, everything is read anew.
    Later,
}

/// What to open, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainSpec {
    /// The top image. Its parents are found by what it says of them.
    pub leaf: ImageName,
    /// What the disk is for. Parents are always opened for reading only.
    pub access: Access,
    /// Bypass the page cache, where the storage can.
    pub direct: bool,
    /// The lock that is taken on a leaf that is written.
    pub lock: LockPolicy,
    /// When write access is taken, if `access` is for writing.
    pub writing: Writing,
    /// Images in the chain, at most.
    pub depth_max: usize,
    /// Bytes that the owner map may take.
    pub owner_bytes_max: usize,
    /// What all VHDs of the chain are encrypted with; none of them is if there is no key. Raw parents never are.
    pub key: Option<Arc<DiskKey>>,
}

impl ChainSpec {
    /// The chain of `leaf` as most want it: past the page cache, the only writer if it writes.
    pub fn new(leaf: ImageName, access: Access) -> ChainSpec {
        ChainSpec {
            leaf,
            access,
            direct: true,
            lock: LockPolicy::Exclusive { deadline: LOCK_DEADLINE },
            writing: Writing::Now,
            depth_max: DEPTH_DEFAULT,
            owner_bytes_max: OWNER_BYTES_DEFAULT,
            key: None,
        }
    }

    /// Whether the leaf may be written once it is open.
    pub(crate) fn writes(&self) -> bool {
        self.access == Access::Write && self.writing == Writing::Now
    }

    /// The key of the leaf, or of a parent.
    pub(crate) fn key_of(&self, is_leaf: bool, kind: ImageKind) -> Option<Arc<DiskKey>> {
        self.key.clone().filter(|_| is_leaf || kind != ImageKind::Raw)
    }

    /// How the leaf is read: what a writer insists on, another may just be changing.
    pub(crate) fn leaf_access(&self) -> Access {
        if self.writes() { Access::Write } else { Access::Read }
    }

    /// The lock that opening the leaf takes.
    fn leaf_lock(&self) -> LockPolicy {
        match (self.access, self.writing, self.lock) {
            (Access::Read, ..) | (_, _, LockPolicy::None) => LockPolicy::None,
            (Access::Write, Writing::Now, lock) => lock,
            (Access::Write, Writing::Later, _) => LockPolicy::Later,
        }
    }
}

impl Home<Image> {
    /// Opens a chain.
    ///
    /// # Errors
    /// One line that names the file and the cause: `NotFound`, `Busy` (another writer has the leaf), `Corrupt`,
    /// `Mismatch` (a parent is not the one that its child was made from), `LimitReached` (too deep), or what the
    /// operating system says.
    pub async fn open(executor: &Executor, opener: Rc<dyn Opener>, spec: &ChainSpec) -> Result<Home<Image>> {
        FoundChain::find(executor, opener, spec, &|| Ok(())).await?.begin(executor).await
    }
}

/// A chain whose images are open and fit together. Nothing has been written yet: who drops it has only looked.
pub struct FoundChain {
    /// Leaf first.
    pub(crate) layers: Vec<Layer<Image>>,
    pub(crate) resting: Resting,
}

impl FoundChain {
    /// Opens the images of a chain. `go_on` is asked before each of them, and several times a second while another writer
    /// is waited for.
    ///
    /// # Errors
    /// As [`Home::open`], and what `go_on` says.
    pub async fn find(
        executor: &Executor,
        opener: Rc<dyn Opener>,
        spec: &ChainSpec,
        go_on: &dyn Fn() -> Result<()>,
    ) -> Result<FoundChain> {
        let mut finder = Finder { executor, opener, spec, go_on, found: Vec::new(), seen: Vec::new() };
        let mut parent = finder.add_leaf().await?;
        while let Some(reference) = parent {
            go_on()?;
            parent = finder.add_parent(&reference).await?;
        }
        let Finder { found, seen, .. } = finder;
        let files = found.iter().zip(seen).map(|(layer, (path, _))| RestingFile {
            name: layer.name.clone(),
            kind: layer.kind,
            path,
            storage: layer.format.storage().clone(),
        });
        let resting = Resting::new(spec.clone(), files.collect());
        Ok(FoundChain { layers: found, resting })
    }

    /// Takes the chain into use: the leaf notes that somebody writes to it, if somebody may from now on.
    ///
    /// # Errors
    /// What the operating system says.
    pub async fn begin(self, executor: &Executor) -> Result<Home<Image>> {
        let FoundChain { layers, resting } = self;
        let spec = resting.spec();
        let writes = spec.writes();
        if writes {
            let leaf = layers.first().expect("a chain has at least one image");
            leaf.format.begin_writing(executor).await.context(&leaf.name)?;
        }
        let options = HomeOptions { owner_bytes_max: spec.owner_bytes_max, read_only: !writes };
        Ok(Home::new(executor, layers, options).resting_as(resting))
    }
}

impl std::fmt::Debug for FoundChain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FoundChain({} images)", self.layers.len())
    }
}

/// A chain on its way, leaf first.
struct Finder<'a> {
    executor: &'a Executor,
    opener: Rc<dyn Opener>,
    spec: &'a ChainSpec,
    go_on: &'a dyn Fn() -> Result<()>,
    found: Vec<Layer<Image>>,
    /// The one name, and the identity, of each storage in the chain.
    seen: Vec<(PathBuf, (u64, u64))>,
}

/// An image that may become part of a chain.
struct Found {
    layer: Layer<Image>,
    /// Its one name, and the identity of its storage.
    seen: (PathBuf, (u64, u64)),
}

impl Finder<'_> {
    async fn add_leaf(&mut self) -> Result<Option<ParentReference>> {
        let ImageName { kind, path } = &self.spec.leaf;
        let (access, lock) = (self.spec.access, self.spec.leaf_lock());
        let options = OpenOptions { access, direct: self.spec.direct, lock, create: CreateMode::No };
        let canonical = self.opener.canonical(self.executor, path).await?;
        let storage = self.open_leaf(path, options).await?;
        if lock == LockPolicy::Later && storage.limits().read_only {
            return Err(Error::new(ErrorKind::ReadOnly, format!("{}: the storage is read-only", path.display())));
        }
        let found = self.open_image(path.display().to_string(), *kind, canonical, storage, self.spec.leaf_access());
        let found = found.await?;
        let parent = found.layer.format.parent();
        self.seen.push(found.seen);
        self.found.push(found.layer);
        Ok(parent)
    }

    /// Opens it, asking now and then whether it is still worth to wait for the writer before.
    async fn open_leaf(&self, path: &Path, options: OpenOptions) -> Result<Arc<dyn Storage>> {
        let LockPolicy::Exclusive { deadline } = options.lock else {
            return self.opener.open(self.executor, path, options).await;
        };
        let end = self.executor.now() + deadline;
        loop {
            let left = end - self.executor.now();
            let lock = LockPolicy::Exclusive { deadline: left.min(LOCK_PATIENCE) };
            match self.opener.open(self.executor, path, OpenOptions { lock, ..options }).await {
                // Not what the operating system calls busy: that is not waited for.
                Err(error) if is_locked(&error) && left > LOCK_PATIENCE => (self.go_on)()?,
                result => return result,
            }
        }
    }

    async fn add_parent(&mut self, reference: &ParentReference) -> Result<Option<ParentReference>> {
        let child = self.name_of_last();
        if self.found.len() >= self.spec.depth_max {
            let words = format!("{child}: has a parent below {} images, the most that are allowed", self.found.len());
            return Err(Error::new(ErrorKind::LimitReached, words));
        }
        let found = self.find_parent(&child, reference).await?;
        let next = found.layer.format.parent();
        self.seen.push(found.seen);
        self.found.push(found.layer);
        Ok(next)
    }

    /// The first of the places that leads to the image that is meant. A place that leads to another is passed over: while
    /// a child is given another parent, some of its paths lead to the old one and some to the new. If none does, the first
    /// that leads anywhere says why; else the last error is the one that is told.
    async fn find_parent(&self, child: &str, reference: &ParentReference) -> Result<Found> {
        let options = OpenOptions {
            access: Access::Read,
            direct: self.spec.direct,
            lock: LockPolicy::None,
            create: CreateMode::No,
        };
        let its_parent = format!("{child}: its parent");
        let (mut first, mut last) = (None, Error::new(ErrorKind::NotFound, "the image does not say where it is"));
        for place in &reference.candidates {
            let (canonical, storage) = match self.open_at(place, options).await {
                Ok(opened) => opened,
                Err(error) => {
                    last = error;
                    continue;
                }
            };
            let name = canonical.display().to_string();
            let opened = self.open_image(name, reference.kind, canonical, storage, Access::Read).await;
            let fits = opened.and_then(|found| {
                check_identity(child, reference, &found.layer)?;
                Ok(found)
            });
            match fits {
                Ok(found) => return Ok(found),
                Err(error) => first = first.or(Some(error)),
            }
        }
        Err(first.unwrap_or_else(|| last.context(its_parent)))
    }

    async fn open_at(&self, place: &Path, options: OpenOptions) -> Result<(PathBuf, Arc<dyn Storage>)> {
        let canonical = self.opener.canonical(self.executor, place).await?;
        let storage = self.opener.open(self.executor, &canonical, options).await?;
        Ok((canonical, storage))
    }

    /// Opens an image that is not in the chain yet.
    async fn open_image(
        &self,
        name: String,
        kind: ImageKind,
        canonical: PathBuf,
        storage: Arc<dyn Storage>,
        access: Access,
    ) -> Result<Found> {
        let identity = storage.limits().identity;
        if self.seen.iter().any(|(path, other)| *path == canonical || *other == identity) {
            let words = format!("{}: its parent is {name}, which is in the chain already", self.name_of_last());
            return Err(Error::new(ErrorKind::Corrupt, words));
        }
        let key = self.spec.key_of(self.found.is_empty(), kind);
        let image = Image::open_with_key(self.executor, storage, kind, &canonical, access, key).await.context(&name)?;
        Ok(Found { layer: Layer { name, kind, format: image }, seen: (canonical, identity) })
    }

    fn name_of_last(&self) -> String {
        self.found.last().map(|layer| layer.name.clone()).unwrap_or_default()
    }
}

/// Whether another writer has it.
fn is_locked(error: &Error) -> bool {
    error.kind() == ErrorKind::Busy && error.os_error().is_none()
}

/// Whether `parent` is the image that `child` was made from.
pub(crate) fn check_identity(child: &str, reference: &ParentReference, parent: &Layer<Image>) -> Result<()> {
    match (reference.uuid, parent.format.identity()) {
        (Some(recorded), Some(is)) if recorded != is => {
            let words = format!("{child}: was made from {recorded}, but its parent {} is {is}", parent.name);
            Err(Error::new(ErrorKind::Mismatch, words))
        }
        _ => Ok(()),
    }
}
