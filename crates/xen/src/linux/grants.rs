//! `/dev/xen/gntdev`: pages that guests have granted.

use std::{fmt, fs::File, os::unix::fs::OpenOptionsExt, path::Path, sync::Arc};

use block_core::{Error, ErrorKind, Result, ResultExt};

use super::calls::{Copies, CopySegment, DESTINATION_IS_GRANTED, SOURCE_IS_GRANTED, Side, Unmap, call, number};
use crate::{Access, CopyStatus, DomainId, GrantCopy, GrantRef, Grants, Local, Mapping, PAGE_BYTES, SharedMemory};

/// The device, where it usually is.
pub(super) const DEVICE: &str = "/dev/xen/gntdev";

/// The pages that guests grant to this domain. One open device serves all guests and threads. Clones are the same.
#[derive(Clone)]
pub struct LinuxGrants(Arc<File>);

impl LinuxGrants {
    /// Opens the device.
    ///
    /// # Errors
    /// `NotFound` on a host without Xen, or what the operating system says.
    pub fn open() -> Result<LinuxGrants> {
        LinuxGrants::open_at(Path::new(DEVICE))
    }

    fn open_at(path: &Path) -> Result<LinuxGrants> {
        let opened = File::options().read(true).write(true).custom_flags(libc::O_CLOEXEC).open(path);
        opened.context(path.display()).map(|file| LinuxGrants(Arc::new(file)))
    }
}

impl fmt::Debug for LinuxGrants {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LinuxGrants")
    }
}

/// A status that no hypervisor gives: a copy that nobody has looked at must not pass for one that was made.
const NOT_LOOKED_AT: i16 = i16::MIN;

fn segment_of(copy: &mut GrantCopy<'_>) -> CopySegment {
    let granted = Side::granted(copy.grant.0, copy.offset, copy.domain.0);
    let length = u16::try_from(copy.local.length()).expect("checked before: a page at most");
    let (source, destination, flags) = match &mut copy.local {
        Local::To(bytes) => (granted, Side::local(bytes.as_mut_ptr()), SOURCE_IS_GRANTED),
        Local::From(bytes) => (Side::local(bytes.as_ptr()), granted, DESTINATION_IS_GRANTED),
    };
    CopySegment { source, destination, length, flags, status: NOT_LOOKED_AT, pad: 0 }
}

/// What the hypervisor's numbers mean; public header `grant_table.h`.
pub(super) fn status_of(number: i16) -> CopyStatus {
    match number {
        0 => CopyStatus::Okay,
        -2 => CopyStatus::BadDomain,
        -3 | -8 => CopyStatus::BadGrant,
        -9 => CopyStatus::BadPage,
        _ => CopyStatus::Failed,
    }
}

impl Grants for LinuxGrants {
    fn copy(&self, batch: &mut [GrantCopy<'_>]) -> Result<()> {
        let fits = |copy: &GrantCopy<'_>| usize::from(copy.offset) + copy.local.length() <= PAGE_BYTES;
        // The device would refuse the whole batch for one copy that leaves its page.
        let (mut segments, mut places) = (Vec::with_capacity(batch.len()), Vec::with_capacity(batch.len()));
        for (index, copy) in batch.iter_mut().enumerate() {
            if fits(copy) {
                segments.push(segment_of(copy));
                places.push(index);
            } else {
                copy.status = CopyStatus::Failed;
            }
        }
        if segments.is_empty() {
            return Ok(());
        }
        let count = u32::try_from(segments.len()).unwrap_or(u32::MAX);
        let mut copies = Copies { count, pad: 0, segments: segments.as_mut_ptr() };
        // SAFETY: the segments point to slices that `batch` borrows, for writing where the device writes.
        unsafe { call(&self.0, number::GRANT_COPY, &raw mut copies, "copying granted pages") }?;
        for (segment, index) in segments.iter().zip(places) {
            batch[index].status = status_of(segment.status);
        }
        Ok(())
    }

    fn map(&self, domain: DomainId, grants: &[GrantRef], access: Access) -> Result<Mapping> {
        if grants.is_empty() {
            return Err(Error::new(ErrorKind::Invalid, "no page to be mapped"));
        }
        let index = self.announce(domain, grants)?;
        let count = u32::try_from(grants.len()).unwrap_or(u32::MAX);
        let device = self.0.clone();
        let release = move || {
            let mut unmap = Unmap { index, count, pad: 0 };
            // SAFETY: the argument is what the call demands.
            unsafe { call(&device, number::UNMAP_GRANT_REF, &raw mut unmap, "unmapping granted pages") }.map(|_| ())
        };
        match SharedMemory::map_device(&*self.0, index, grants.len() * PAGE_BYTES, access) {
            Ok(memory) => Ok(Mapping::new(memory, release)),
            Err(error) => {
                // Nothing was mapped; why not is what matters.
                let _ = release();
                Err(error)
            }
        }
    }
}

impl LinuxGrants {
    /// Announces pages to be mapped; gives the offset at which they are.
    fn announce(&self, domain: DomainId, grants: &[GrantRef]) -> Result<u64> {
        // count and pad, index, then a domain and a reference for each page: all in words of eight bytes.
        let count = u32::try_from(grants.len()).unwrap_or(u32::MAX);
        let mut argument: Vec<u64> = vec![u64::from(count), 0];
        argument.extend(grants.iter().map(|grant| u64::from(domain.0) | u64::from(grant.0) << 32));
        // SAFETY: the argument is as long as its count says; the device writes the index, its second word.
        unsafe { call(&self.0, number::MAP_GRANT_REF, argument.as_mut_ptr(), "mapping granted pages") }?;
        Ok(argument[1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_directions_are_told_as_the_device_wants_them() {
        let (domain, grant) = (DomainId(0x0506), GrantRef(0x0102_0304));
        let mut bytes = [0_u8; 8];
        let address = bytes.as_ptr().addr() as u64;
        let to = segment_of(&mut GrantCopy::new(domain, grant, 0x0708, Local::To(&mut bytes)));
        assert_eq!((to.source.0, to.destination.0), (0x0506_0708_0102_0304, address));
        assert_eq!((to.length, to.flags, to.status), (8, SOURCE_IS_GRANTED, NOT_LOOKED_AT));
        let from = segment_of(&mut GrantCopy::new(domain, grant, 0x0708, Local::From(&bytes)));
        assert_eq!((from.source.0, from.destination.0, from.flags), (address, 0x0506_0708_0102_0304, 2));
    }

    #[test]
    fn what_nobody_has_looked_at_has_failed() {
        assert_eq!(status_of(NOT_LOOKED_AT), CopyStatus::Failed);
        assert_eq!([0, -1, -2, -3, -8, -9, -12].map(status_of), {
            use CopyStatus::*;
            [Okay, Failed, BadDomain, BadGrant, BadGrant, BadPage, Failed]
        });
    }

    #[test]
    fn a_host_without_xen_says_so() {
        let directory = tempfile::tempdir().unwrap();
        let refused = LinuxGrants::open_at(&directory.path().join("gntdev")).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::NotFound);
    }
}
