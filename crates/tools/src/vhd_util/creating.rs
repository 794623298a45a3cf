//! A new image comes into being: whole and durable, or not at all.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use block_core::{Error, ErrorKind, Result, ResultExt};
use image_format::vhd::{self, CreateOptions, KeyHash, Timestamp};
use rustix::io::Errno;
use storage_io::{CreateMode, Executor, LockPolicy, OpenOptions, Storage, StorageExt};
use uuid::Uuid;

use super::{
    Session,
    opened::{Demands, OpenedVhd},
};
use crate::new_file::sync_directory_of;

/// The largest disk: entries of a table are sectors of 32 bits, so no block can lie further back in its file.
const DISK_BYTES_MAX: u64 = 2 << 40;

/// How long the last writes of a process that was killed may take.
pub(super) const BUSY_MAX: Duration = Duration::from_secs(4);

/// What every new image has: an identity and a birthday.
pub(super) fn new_image() -> Result<CreateOptions> {
    let timestamp = timestamp(SystemTime::now())?;
    Ok(CreateOptions { disk_bytes: 0, reserved_bytes: 0, fixed: false, uuid: Uuid::new_v4(), timestamp, parent: None })
}

/// Refuses a disk that could not be filled.
pub(super) fn check_disk_bytes(bytes: u64) -> Result<()> {
    if bytes <= DISK_BYTES_MAX {
        return Ok(());
    }
    let words = format!("a disk of {} MiB: a VHD has at most {} MiB", bytes >> 20, DISK_BYTES_MAX >> 20);
    Err(Error::from_os(words, Errno::FBIG.into()))
}

/// A moment as images store it.
pub(super) fn timestamp(time: SystemTime) -> Result<Timestamp> {
    let since = time.duration_since(UNIX_EPOCH);
    let since = since.map_err(|_| Error::new(ErrorKind::Invalid, "the clock is before 1970"))?;
    Ok(Timestamp::from_unix(since.as_secs()))
}

/// Where a new image goes: a new file, or an existing file or device whose content it replaces.
pub(super) struct Target {
    pub(super) storage: Arc<dyn Storage>,
    path: PathBuf,
    pub(super) is_new: bool,
}

impl Target {
    /// Opens or makes it, as its only writer. Nothing is cut or written yet.
    pub(super) async fn open(session: &Session, path: &Path) -> Result<Target> {
        let write = OpenOptions { lock: LockPolicy::Exclusive { deadline: BUSY_MAX }, ..OpenOptions::write() };
        let new = OpenOptions { create: CreateMode::New, ..write };
        let (storage, is_new) = match session.files.open(&session.executor, path, new).await {
            Ok(storage) => (storage, true),
            Err(error) if error.os_error() == Some(Errno::EXIST.raw_os_error()) => {
                (session.files.open(&session.executor, path, write).await?, false)
            }
            Err(error) => return Err(error),
        };
        Ok(Target { storage, path: path.to_path_buf(), is_new })
    }

    /// Writes the image; it is durable when this ends. What was made for it goes again if that fails.
    pub(super) async fn write(self, session: &Session, image: &CreateOptions, key_hash: Option<KeyHash>) -> Result<()> {
        let written = self.write_all(&session.executor, image, key_hash).await.context(self.path.display());
        let result = written.and_then(|()| if self.is_new { sync_directory_of(&self.path) } else { Ok(()) });
        if result.is_err() {
            self.give_up();
        }
        result
    }

    async fn write_all(&self, executor: &Executor, image: &CreateOptions, key_hash: Option<KeyHash>) -> Result<()> {
        vhd::create(executor, &self.storage, image).await?;
        let Some(key_hash) = key_hash else { return Ok(()) };
        let vhd = OpenedVhd::read(executor, self.storage.clone(), &self.path, Demands::default()).await?;
        let batmap = vhd.batmap_header(executor).await?.expect("a new image that is not fixed has a batmap");
        let place = batmap.header_range().start();
        self.storage.write_bytes(executor, place, batmap.with_key_hash(key_hash).as_bytes()).await?;
        self.storage.sync(executor).await
    }

    /// Removes what was made; what was there before stays.
    pub(super) fn give_up(self) {
        if self.is_new {
            // The failure that led here is the one to report.
            let _ = fs::remove_file(&self.path);
        }
    }
}
