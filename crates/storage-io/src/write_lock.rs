//! The right to write to an open file: the kernel's lock, and a [lease](crate::lease) where that is none, or not enough.

use std::{
    fs::{self, File},
    os::{
        fd::AsRawFd,
        unix::fs::{FileTypeExt, MetadataExt},
    },
    path::PathBuf,
};

use block_core::{Error, ErrorKind, Result, ResultExt};
use rustix::{
    fs::{FlockOperation, flock},
    io::{Errno, retry_on_intr},
};

use crate::lease::Lease;

/// Where a writer has a lease, a record beside the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leases {
    /// Where the file system says that it knows no locks.
    WithoutLocks,
    /// Besides the lock, which other hosts do not see.
    Always,
}

/// Takes the lock of `file`, and its lease. Never waits for who has them.
///
/// # Errors
/// `Busy`, without an error of the operating system, if another has them; else what the operating system says.
pub(crate) fn take(file: &File, leases: Leases) -> Result<Option<Lease>> {
    let needs_lease = match retry_on_intr(|| flock(file, FlockOperation::NonBlockingLockExclusive)) {
        Ok(()) => leases == Leases::Always,
        Err(Errno::WOULDBLOCK) => return Err(Error::new(ErrorKind::Busy, "is in use by another process")),
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => true,
        // A server of locks that is away for a while has not let go of those of others.
        Err(Errno::NOLCK) if leases == Leases::Always => true,
        Err(error) => return Err(Error::from_os("taking its lock", error.into())),
    };
    // A device has no place beside it that other hosts see.
    if !needs_lease || file.metadata()?.file_type().is_block_device() {
        return Ok(None);
    }
    let lease = name_of(file).and_then(|image| Lease::take(&image));
    lease.map(Some).inspect_err(|_| drop(give_up(file)))
}

/// Gives up the lock. What has none has given it up.
pub(crate) fn give_up(file: &File) -> Result<()> {
    match retry_on_intr(|| flock(file, FlockOperation::Unlock)) {
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NOLCK) => Ok(()),
        Err(error) => Err(Error::from_os("giving up its lock", error.into())),
    }
}

/// The one name of an open file, also if it was opened by another, or was renamed since.
fn name_of(file: &File) -> Result<PathBuf> {
    let name = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).context("its name")?;
    let ours = file.metadata()?;
    let there = fs::metadata(&name).context("its name")?;
    if (ours.dev(), ours.ino()) == (there.dev(), there.ino()) {
        return Ok(name);
    }
    Err(Error::new(ErrorKind::NotFound, format!("{} is another file by now", name.display())))
}
