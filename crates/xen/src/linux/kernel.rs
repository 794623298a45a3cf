//! `/dev/xen/gntalloc`: pages of this domain that others are granted.

use std::{
    collections::HashMap,
    fmt,
    fs::File,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use block_core::{Error, ErrorKind, Result, ResultExt};
use storage_io::Executor;

use super::{
    calls::{Allocate, Deallocate, WRITABLE, call, number},
    channels::LinuxChannels,
};
use crate::{Access, Account, DomainId, EndAccess, EventChannel, GrantRef, Kernel, PAGE_BYTES, SharedMemory};

/// The device's name in the directory of devices.
const DEVICE: &str = "gntalloc";

/// This domain of a real Xen as one that grants: what a frontend in it needs. Whatever it has granted ends with the last
/// clone, as when a process is killed.
///
/// What others still use stays theirs: Linux keeps such a page for itself until they have let go, and notes that in its log
/// (`deferring g.e.`), but tells nobody else.
#[derive(Clone)]
pub struct LinuxKernel(Arc<Inner>);

struct Inner {
    device: File,
    channels: LinuxChannels,
    /// Guards what is granted, by the number of the page; each is mapped where we see it.
    pages: Mutex<HashMap<u32, SharedMemory>>,
}

impl LinuxKernel {
    /// Opens the devices in `directory`, which is `/dev/xen` where nothing is unusual.
    ///
    /// # Errors
    /// `NotFound` on a host without Xen, or what the operating system says.
    pub fn open(directory: &Path) -> Result<LinuxKernel> {
        let path = LinuxKernel::device_in(directory);
        let opened = File::options().read(true).write(true).custom_flags(libc::O_CLOEXEC).open(&path);
        let device = opened.context(path.display())?;
        let channels = LinuxChannels::in_directory(directory);
        Ok(LinuxKernel(Arc::new(Inner { device, channels, pages: Mutex::default() })))
    }

    /// Where the device that is opened would be.
    pub fn device_in(directory: &Path) -> PathBuf {
        directory.join(DEVICE)
    }

    fn pages(&self) -> MutexGuard<'_, HashMap<u32, SharedMemory>> {
        self.0.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The page whose place in the device this is, and what is to be done with it.
    fn with_page(&self, page: u32, act: impl FnOnce(&SharedMemory)) {
        act(self.pages().get(&page).expect("only granted pages are used"));
    }

    fn free(&self, page: u32) -> Result<()> {
        let mut argument = Deallocate { index: offset_of(page), count: 1, pad: 0 };
        // SAFETY: the argument is what the call demands.
        unsafe { call(&self.0.device, number::DEALLOC_GREF, &raw mut argument, "taking a granted page back") }
            .map(|_| ())
    }
}

fn offset_of(page: u32) -> u64 {
    u64::from(page) * PAGE_BYTES as u64
}

impl Kernel for LinuxKernel {
    fn grant_page(&self, to: DomainId, access: Access) -> Result<(u32, GrantRef)> {
        let flags = if access == Access::Write { WRITABLE } else { 0 };
        let mut argument = Allocate { domain: to.0, flags, count: 1, index: 0, grant: 0, pad: 0 };
        // SAFETY: the argument is what the call demands, with room for the one grant that it asks for.
        let made = unsafe { call(&self.0.device, number::ALLOC_GREF, &raw mut argument, "granting a page") };
        made.map_err(|error| match error.os_error() {
            Some(libc::ENOSPC) => Error::new(ErrorKind::LimitReached, "this domain has no page left to be granted"),
            _ => error,
        })?;
        let page =
            u32::try_from(argument.index / PAGE_BYTES as u64).expect("few pages are granted in the life of a file");
        match SharedMemory::map(&self.0.device, argument.index, PAGE_BYTES) {
            Ok(memory) => {
                self.pages().insert(page, memory);
                Ok((page, GrantRef(argument.grant)))
            }
            Err(error) => {
                // Why it cannot be mapped is what matters.
                let _ = self.free(page);
                Err(error)
            }
        }
    }

    fn take_back(&self, page: u32, _grant: GrantRef) -> Result<EndAccess> {
        let memory = self.pages().remove(&page);
        drop(memory);
        self.free(page)?;
        Ok(EndAccess::Ended)
    }

    fn map_pages(&self, pages: &[u32]) -> Result<SharedMemory> {
        SharedMemory::map_pages(&self.0.device, pages)
    }

    fn copy_in(&self, page: u32, bytes: &[u8]) {
        self.with_page(page, |memory| memory.copy_in(0, bytes));
    }

    fn copy_out(&self, page: u32, bytes: &mut [u8]) {
        self.with_page(page, |memory| memory.copy_out(0, bytes));
    }

    fn leave_open(&self, executor: &Executor, to: DomainId) -> Result<Box<dyn EventChannel>> {
        self.0.channels.leave_open(executor, to)
    }

    fn account(&self) -> Result<Account> {
        let granted = u32::try_from(self.pages().len()).unwrap_or(u32::MAX);
        Ok(Account { granted, used: 0 })
    }
}

impl fmt::Debug for LinuxKernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LinuxKernel({} pages)", self.pages().len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_without_xen_grants_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let refused = LinuxKernel::open(directory.path()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::NotFound);
        assert!(refused.to_string().contains("gntalloc"), "{refused}");
    }
}
