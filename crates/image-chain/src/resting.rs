//! A chain that rests: its images have been left as readers expect them, and nothing that was read of them is
//! remembered, but their files are open. Others may change the images; then they are read anew, in the same files.

use std::{iter::repeat, path::PathBuf, sync::Arc};

use block_core::{Error, ErrorKind, Result, ResultExt};
use image_format::{Format, Image, ImageKind};
use storage_io::{Access, Executor, Storage, StorageExt};

use crate::{
    home::{Home, Layer},
    open::{ChainSpec, FoundChain, Writing, check_identity},
};

/// The open files of a chain that rests, leaf first.
#[derive(Clone, Debug)]
pub struct Resting {
    spec: ChainSpec,
    files: Vec<RestingFile>,
}

/// One image of it.
#[derive(Clone, Debug)]
pub(crate) struct RestingFile {
    pub(crate) name: String,
    pub(crate) kind: ImageKind,
    /// Canonical: paths to a parent are relative to its directory.
    pub(crate) path: PathBuf,
    pub(crate) storage: Arc<dyn Storage>,
}

impl Resting {
    pub(crate) fn new(spec: ChainSpec, files: Vec<RestingFile>) -> Resting {
        assert!(!files.is_empty(), "a chain has at least one image");
        Resting { spec, files }
    }

    /// How the chain was opened.
    pub fn spec(&self) -> &ChainSpec {
        &self.spec
    }

    /// The same files, to be woken with or without write access.
    pub fn with(&self, writing: Writing) -> Resting {
        Resting { spec: ChainSpec { writing, ..self.spec.clone() }, files: self.files.clone() }
    }

    /// The format of the leaf.
    pub fn kind(&self) -> ImageKind {
        self.files[0].kind
    }

    /// The storage of the leaf, which alone is written and locked.
    pub fn leaf_storage(&self) -> &Arc<dyn Storage> {
        &self.files[0].storage
    }

    /// Gives up the writer's lock: others may change the images.
    ///
    /// # Errors
    /// What the operating system says.
    pub async fn unlock(&self, executor: &Executor) -> Result<()> {
        self.leaf_storage().unlock(executor).await
    }

    /// Takes the writer's lock, if it is not there and the chain is to be written, and opens the images again, in the same
    /// files. Without write access the lock is given up, or left to whoever has it.
    ///
    /// # Errors
    /// `Busy` if another writer has the lock; else as opening does, and `Mismatch` if an image has another parent now than
    /// the next of the files. Then the lock is given up again, and it may be tried again.
    pub async fn wake(&self, executor: &Executor) -> Result<Home<Image>> {
        self.begin(executor, self.find(executor, &|| Ok(())).await?).await
    }

    /// The first half of [`wake`](Self::wake), which writes nothing. `go_on` is asked before each image is read, and at the
    /// end.
    ///
    /// # Errors
    /// As `wake`, and what `go_on` says.
    pub async fn find(&self, executor: &Executor, go_on: &dyn Fn() -> Result<()>) -> Result<FoundChain> {
        for (file, is_leaf) in self.files.iter().zip([true].into_iter().chain(repeat(false))) {
            // Those without a lock look at their length again.
            match (is_leaf, self.spec.writing) {
                (true, Writing::Later) => file.storage.unlock(executor).await?,
                _ => file.storage.lock(executor).await?,
            }
        }
        let found = self.read_anew(executor, go_on).await;
        self.or_unlocked(executor, found).await
    }

    /// The second half of [`wake`](Self::wake): what was found is taken into use.
    ///
    /// # Errors
    /// What the operating system says.
    pub async fn begin(&self, executor: &Executor, found: FoundChain) -> Result<Home<Image>> {
        let begun = found.begin(executor).await;
        self.or_unlocked(executor, begun).await
    }

    /// What was done, or the files without a lock.
    async fn or_unlocked<T>(&self, executor: &Executor, result: Result<T>) -> Result<T> {
        if result.is_err() {
            // The failure is the news.
            let _ = self.unlock(executor).await;
        }
        result
    }

    /// Makes the leaf `bytes` long, on a storage that can be made longer.
    ///
    /// # Errors
    /// `Invalid` if it is longer already, `Unsupported`, or what the operating system says.
    pub async fn grow(&self, executor: &Executor, bytes: u64) -> Result<()> {
        let RestingFile { name, kind, storage, .. } = &self.files[0];
        // A device may have been made longer since its length was looked at.
        storage.lock(executor).await?;
        Image::grow(executor, storage, *kind, bytes).await.context(name)
    }

    async fn read_anew(&self, executor: &Executor, go_on: &dyn Fn() -> Result<()>) -> Result<FoundChain> {
        let mut layers: Vec<Layer<Image>> = Vec::new();
        for RestingFile { name, kind, path, storage } in &self.files {
            go_on()?;
            let access = if layers.is_empty() { self.spec.leaf_access() } else { Access::Read };
            let key = self.spec.key_of(layers.is_empty(), *kind);
            let opened = Image::open_with_key(executor, storage.clone(), *kind, path, access, key).await;
            let format = opened.context(name)?;
            let layer = Layer { name: name.clone(), kind: *kind, format };
            check_parent(layers.last(), Some(&layer))?;
            layers.push(layer);
        }
        check_parent(layers.last(), None)?;
        go_on()?;
        Ok(FoundChain { layers, resting: self.clone() })
    }
}

/// Whether `parent`, or none, is what `child` was made from.
fn check_parent(child: Option<&Layer<Image>>, parent: Option<&Layer<Image>>) -> Result<()> {
    let Some(child) = child else { return Ok(()) };
    match (child.format.parent(), parent) {
        (None, None) => Ok(()),
        (Some(reference), Some(parent)) if reference.kind == parent.kind => {
            check_identity(&child.name, &reference, parent)
        }
        _ => {
            let words = format!("{}: has another parent than before: open the chain by name", child.name);
            Err(Error::new(ErrorKind::Mismatch, words))
        }
    }
}
