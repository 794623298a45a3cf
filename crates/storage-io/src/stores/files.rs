//! The file system: how a path becomes a storage.
//!
//! Everything that may wait for a dead server or a slow device is done by worker threads. The order matters: open, take
//! the lock, and only then look (length) or cut (truncate), since the writer before may still be writing.

use std::{
    fs::File,
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use block_core::{Error, ErrorKind, Origin, Result, SECTOR};
use futures_util::future::LocalBoxFuture;
use rustix::{
    fs::{Mode, OFlags, fcntl_getfl, fcntl_setfl},
    io::Errno,
};

use super::{aligned::AlignedStorage, file::FileStorage, limits, names, remote};
use crate::{
    Access, CreateMode, Executor, LockPolicy, OpenOptions, Opener, Storage,
    lease::Lease,
    open_file::OpenFile,
    write_lock::{self, Leases},
};

/// The file system of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct Files;

/// Between two attempts to get a lock, at most.
const LOCK_PAUSE_MAX: Duration = Duration::from_millis(50);

impl Opener for Files {
    fn open(
        &self,
        executor: &Executor,
        path: &Path,
        options: OpenOptions,
    ) -> LocalBoxFuture<'static, Result<Arc<dyn Storage>>> {
        Box::pin(open(executor.clone(), path.to_path_buf(), options, Leases::WithoutLocks))
    }

    fn canonical(&self, executor: &Executor, path: &Path) -> LocalBoxFuture<'static, Result<PathBuf>> {
        let (executor, path) = (executor.clone(), path.to_path_buf());
        Box::pin(async move {
            let asked = path.clone();
            let found =
                executor.blocking(format!("looking for {}", asked.display()), move || names::canonical(&asked)).await;
            match found.and_then(|found| found.map_err(Error::from)) {
                Ok(name) => Ok(name),
                Err(error) => Err(failed(&executor, path, error).await),
            }
        })
    }
}

/// The file system of this machine, where writers of images in some directories have a lease besides the lock: other hosts
/// share them, but not their locks.
#[derive(Clone, Debug)]
pub struct LeasedFiles {
    directories: Arc<[PathBuf]>,
}

impl LeasedFiles {
    /// Images in these directories, and below, have leases.
    pub fn new(directories: &[PathBuf]) -> LeasedFiles {
        // One that is not there yet may be mounted later, under this name.
        let whole = |directory: &PathBuf| directory.canonicalize().unwrap_or_else(|_| directory.clone());
        LeasedFiles { directories: directories.iter().map(whole).collect() }
    }
}

impl Opener for LeasedFiles {
    fn open(
        &self,
        executor: &Executor,
        path: &Path,
        options: OpenOptions,
    ) -> LocalBoxFuture<'static, Result<Arc<dyn Storage>>> {
        if self.directories.is_empty() {
            return Files.open(executor, path, options);
        }
        let (executor, path, directories) = (executor.clone(), path.to_path_buf(), self.directories.clone());
        Box::pin(async move {
            let name = path.clone();
            let is_below = move || {
                let name = name.canonicalize().unwrap_or(name);
                directories.iter().any(|directory| name.starts_with(directory))
            };
            let has_lease = executor.blocking(format!("looking for {}", path.display()), is_below).await?;
            let leases = if has_lease { Leases::Always } else { Leases::WithoutLocks };
            open(executor, path, options, leases).await
        })
    }

    fn canonical(&self, executor: &Executor, path: &Path) -> LocalBoxFuture<'static, Result<PathBuf>> {
        Files.canonical(executor, path)
    }
}

async fn open(executor: Executor, path: PathBuf, options: OpenOptions, leases: Leases) -> Result<Arc<dyn Storage>> {
    match open_steps(&executor, &path, options, leases).await {
        Ok(storage) => {
            let needs_bridge = u64::from(storage.limits().alignment) > SECTOR;
            Ok(if needs_bridge { Arc::new(AlignedStorage::new(Arc::new(storage))) } else { Arc::new(storage) })
        }
        Err(error) => Err(failed(&executor, path, error).await),
    }
}

async fn open_steps(executor: &Executor, path: &Path, options: OpenOptions, leases: Leases) -> Result<FileStorage> {
    let name = path.to_path_buf();
    let mut file =
        executor.blocking(format!("opening {}", path.display()), move || open_file(&name, options)).await??;
    let mut lease = None;
    if let LockPolicy::Exclusive { deadline } = options.lock {
        (file, lease) = lock(executor, path, file, leases, deadline).await?;
    }
    let name = path.to_path_buf();
    let look = move || look(file, &name, options, (leases, lease));
    executor.blocking(format!("looking at {}", path.display()), look).await?
}

/// Says where opening failed. Whether that is remote is found by its name alone: whoever has just failed to answer is not
/// asked again.
pub(super) async fn failed(executor: &Executor, path: PathBuf, error: Error) -> Error {
    let error = error.context(path.display());
    let place = path.display().to_string().into();
    let is_remote = executor
        .blocking("looking at the list of mounts", move || remote::is_remote_path(&path))
        .await
        .unwrap_or(false);
    error.with_origin(Origin { place, is_remote })
}

/// Opens a file that can be a storage.
fn open_file(path: &Path, options: OpenOptions) -> Result<File> {
    match path.metadata() {
        // Opening some devices and pipes has effects, or waits for another process: they are not even opened.
        Ok(metadata) => refuse_others(metadata.file_type())?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && options.create != CreateMode::No => {}
        Err(error) => return Err(error.into()),
    }
    let mut flags = OFlags::CLOEXEC
        | match options.access {
            Access::Read => OFlags::RDONLY,
            Access::Write => OFlags::RDWR,
        };
    flags.set(OFlags::CREATE, options.create != CreateMode::No);
    flags.set(OFlags::EXCL, options.create == CreateMode::New);
    // A file system without O_DIRECT may refuse the flag when it has made the file already: a new file gets it later.
    let direct_later = options.create == CreateMode::New;
    flags.set(OFlags::DIRECT, options.direct && !direct_later);
    let file = match open_retrying(path, flags) {
        Err(Errno::INVAL) if flags.contains(OFlags::DIRECT) => open_retrying(path, flags - OFlags::DIRECT),
        other => other,
    };
    let file = file.map_err(std::io::Error::from)?;
    refuse_others(file.metadata()?.file_type())?;
    if options.direct && direct_later {
        // Refused where there is no O_DIRECT; then the file is used through the page cache.
        let _ = fcntl_setfl(&file, fcntl_getfl(&file).map_err(std::io::Error::from)? | OFlags::DIRECT);
    }
    Ok(file)
}

fn open_retrying(path: &Path, flags: OFlags) -> rustix::io::Result<File> {
    let mode = Mode::from_raw_mode(0o644);
    rustix::io::retry_on_intr(|| rustix::fs::open(path, flags, mode)).map(File::from)
}

fn refuse_others(kind: std::fs::FileType) -> Result<()> {
    let words = if kind.is_file() || kind.is_block_device() {
        return Ok(());
    } else if kind.is_dir() {
        "is a directory"
    } else if kind.is_fifo() {
        "is a pipe"
    } else if kind.is_char_device() {
        "is a character device"
    } else {
        "is a socket"
    };
    Err(Error::new(ErrorKind::Invalid, format!("{words}, not a file or a block device")))
}

/// Takes the writer's lock, waiting until `limit` has passed. The kernel gives it only when the last I/O of whoever had
/// it before has ended.
async fn lock(
    executor: &Executor,
    path: &Path,
    mut file: File,
    leases: Leases,
    limit: Duration,
) -> Result<(File, Option<Lease>)> {
    let deadline = executor.now() + limit;
    let mut pause = Duration::from_millis(1);
    loop {
        let attempt = move || {
            let taken = write_lock::take(&file, leases);
            (file, taken)
        };
        let (returned, taken) = executor.blocking(format!("locking {}", path.display()), attempt).await?;
        file = returned;
        let left = deadline - executor.now();
        match taken {
            Ok(lease) => return Ok((file, lease)),
            Err(error) if error.kind() == ErrorKind::Busy && error.os_error().is_none() && !left.is_zero() => {}
            Err(error) => return Err(error),
        }
        executor.sleep(pause.min(left)).await;
        pause = (pause * 2).min(LOCK_PAUSE_MAX);
    }
}

/// Finds out what was opened.
fn look(file: File, path: &Path, options: OpenOptions, lease: (Leases, Option<Lease>)) -> Result<FileStorage> {
    let is_device = file.metadata()?.file_type().is_block_device();
    if options.create == CreateMode::Truncate && !is_device {
        file.set_len(0)?;
    }
    let flags = fcntl_getfl(&file).map_err(std::io::Error::from)?;
    let mut direct = flags.contains(OFlags::DIRECT);
    let alignment = if direct { limits::direct_alignment(&file)? } else { None };
    if direct && alignment.is_none() {
        fcntl_setfl(&file, flags - OFlags::DIRECT).map_err(std::io::Error::from)?;
        direct = false;
    }
    let limits = limits::of(&file, alignment.unwrap_or(1), options.access == Access::Read)?;
    let origin = Origin { place: path.display().to_string().into(), is_remote: limits.kind.is_remote() };
    Ok(FileStorage::new(OpenFile::new(file, origin, direct, options.lock, lease)?, limits))
}
