//! A file system of memory storages, for tests and simulations.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    path::{Component, Path, PathBuf},
    rc::Rc,
    sync::Arc,
};

use block_core::{Error, ErrorKind, Origin, Result};
use futures_util::future::{LocalBoxFuture, ready};

use crate::{
    Executor, MemoryStorage, Storage,
    opener::{Access, CreateMode, OpenOptions, Opener},
};

type Wrap = dyn Fn(&Path, OpenOptions, Arc<dyn Storage>) -> Arc<dyn Storage>;

/// Names to [`MemoryStorage`]s. Clones are the same file system. What is opened can be wrapped, to make it fail, crash
/// or tell what was done to it.
#[derive(Clone)]
pub struct MemoryFiles {
    files: Rc<RefCell<BTreeMap<PathBuf, Arc<dyn Storage>>>>,
    wrap: Rc<RefCell<Option<Rc<Wrap>>>>,
}

impl MemoryFiles {
    /// No files.
    pub fn new() -> Self {
        MemoryFiles { files: Rc::default(), wrap: Rc::default() }
    }

    /// Puts a storage under a name.
    pub fn put(&self, path: impl AsRef<Path>, storage: Arc<dyn Storage>) {
        self.files.borrow_mut().insert(plain(path.as_ref()), storage);
    }

    /// The storage under a name, unwrapped.
    pub fn get(&self, path: impl AsRef<Path>) -> Option<Arc<dyn Storage>> {
        self.files.borrow().get(&plain(path.as_ref())).cloned()
    }

    /// Takes a name away; who has it open keeps the storage.
    pub fn remove(&self, path: impl AsRef<Path>) {
        self.files.borrow_mut().remove(&plain(path.as_ref()));
    }

    /// Moves a storage to another name.
    pub fn rename(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) {
        let storage = self.files.borrow_mut().remove(&plain(from.as_ref()));
        if let Some(storage) = storage {
            self.put(to, storage);
        }
    }

    /// From now on, what is opened goes through `wrap`.
    pub fn wrap_opened(&self, wrap: impl Fn(&Path, OpenOptions, Arc<dyn Storage>) -> Arc<dyn Storage> + 'static) {
        *self.wrap.borrow_mut() = Some(Rc::new(wrap));
    }

    fn find(&self, path: &Path, options: OpenOptions) -> Result<Arc<dyn Storage>> {
        let path = plain(path);
        self.find_plain(&path, options).map_err(|error| error.with_origin(origin(&path)))
    }

    fn find_plain(&self, path: &Path, options: OpenOptions) -> Result<Arc<dyn Storage>> {
        let found = self.get(path);
        let storage = match (found, options.create) {
            (Some(_), CreateMode::New) => {
                return Err(Error::new(ErrorKind::Invalid, format!("{}: exists already", path.display())));
            }
            (Some(storage), CreateMode::No) => storage,
            (_, CreateMode::New | CreateMode::Truncate) => {
                let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new(0).with_name(&path.display().to_string()));
                self.put(path, storage.clone());
                storage
            }
            (None, CreateMode::No) => return Err(no_such(path)),
        };
        if options.access == Access::Write && storage.limits().read_only {
            return Err(Error::new(ErrorKind::ReadOnly, format!("{}: is read-only", path.display())));
        }
        let wrap = self.wrap.borrow().clone();
        Ok(match wrap {
            Some(wrap) => wrap(path, options, storage),
            None => storage,
        })
    }
}

impl Default for MemoryFiles {
    fn default() -> Self {
        Self::new()
    }
}

fn origin(path: &Path) -> Origin {
    Origin { place: path.display().to_string().into(), is_remote: false }
}

fn no_such(path: &Path) -> Error {
    let source = std::io::Error::from_raw_os_error(libc::ENOENT);
    Error::from_os(path.display().to_string(), source).with_origin(origin(path))
}

/// The path without `.` and `..`, absolute.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::ParentDir => {
                plain.pop();
            }
            Component::Normal(name) => plain.push(name),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    plain
}

impl Opener for MemoryFiles {
    fn open(
        &self,
        _executor: &Executor,
        path: &Path,
        options: OpenOptions,
    ) -> LocalBoxFuture<'static, Result<Arc<dyn Storage>>> {
        Box::pin(ready(self.find(path, options)))
    }

    fn canonical(&self, _executor: &Executor, path: &Path) -> LocalBoxFuture<'static, Result<PathBuf>> {
        let path = plain(path);
        let known = self.files.borrow().contains_key(&path);
        Box::pin(ready(if known { Ok(path) } else { Err(no_such(&path)) }))
    }
}
