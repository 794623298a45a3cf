//! Structures and numbers of the devices' ioctls.

use std::os::fd::{AsFd, AsRawFd};

use block_core::{Error, Result};

/// One copy, as `/dev/xen/gntdev` takes it. Either side is memory of ours, or bytes of a granted page.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct CopySegment {
    pub(super) source: Side,
    pub(super) destination: Side,
    pub(super) length: u16,
    pub(super) flags: u16,
    pub(super) status: i16,
    pub(super) pad: u16,
}

/// One side of a copy: an address, or a grant, an offset and a domain.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Side(pub(super) u64);

impl Side {
    pub(super) fn local(address: *const u8) -> Side {
        Side(address.addr() as u64)
    }

    pub(super) fn granted(grant: u32, offset: u16, domain: u16) -> Side {
        let [a, b, c, d] = grant.to_le_bytes();
        let ([e, f], [g, h]) = (offset.to_le_bytes(), domain.to_le_bytes());
        Side(u64::from_le_bytes([a, b, c, d, e, f, g, h]))
    }
}

/// The source of a copy is a granted page.
pub(super) const SOURCE_IS_GRANTED: u16 = 1;
/// The destination is.
pub(super) const DESTINATION_IS_GRANTED: u16 = 2;

/// A batch of copies.
#[repr(C)]
#[derive(Debug)]
pub(super) struct Copies {
    pub(super) count: u32,
    pub(super) pad: u32,
    pub(super) segments: *mut CopySegment,
}

/// What is to be unmapped.
#[repr(C)]
#[derive(Debug)]
pub(super) struct Unmap {
    pub(super) index: u64,
    pub(super) count: u32,
    pub(super) pad: u32,
}

/// Which end is to be bound.
#[repr(C)]
#[derive(Debug)]
pub(super) struct BindInterdomain {
    pub(super) domain: u32,
    pub(super) port: u32,
}

const _: () = assert!(size_of::<CopySegment>() == 24 && size_of::<Copies>() == 16 && size_of::<Unmap>() == 16);
const _: () = assert!(size_of::<BindInterdomain>() == 8);

/// One page of ours that is to be granted.
#[repr(C)]
#[derive(Debug)]
pub(super) struct Allocate {
    pub(super) domain: u16,
    pub(super) flags: u16,
    pub(super) count: u32,
    /// Where in the device it is; the device says.
    pub(super) index: u64,
    /// Of the only page; the device says.
    pub(super) grant: u32,
    pub(super) pad: u32,
}

/// Others may write to the page.
pub(super) const WRITABLE: u16 = 1;

/// Pages that are to be taken back.
#[repr(C)]
#[derive(Debug)]
pub(super) struct Deallocate {
    pub(super) index: u64,
    pub(super) count: u32,
    pub(super) pad: u32,
}

const _: () = assert!(size_of::<Allocate>() == 24 && size_of::<Deallocate>() == 16);

/// Numbers of ioctls.
pub(super) mod number {
    /// Announces pages to be mapped: count (4), pad (4), index (8, out), then domain (4) and reference (4) of each.
    pub(in crate::linux) const MAP_GRANT_REF: u32 = 0x0018_4700;
    /// Takes pages back.
    pub(in crate::linux) const UNMAP_GRANT_REF: u32 = 0x0010_4701;
    /// Copies a batch.
    pub(in crate::linux) const GRANT_COPY: u32 = 0x0010_4708;
    /// Grants pages of ours.
    pub(in crate::linux) const ALLOC_GREF: u32 = 0x0018_4705;
    /// Takes pages of ours back.
    pub(in crate::linux) const DEALLOC_GREF: u32 = 0x0010_4706;
    /// Leaves an end open for another domain.
    pub(in crate::linux) const BIND_UNBOUND_PORT: u32 = 0x0004_4502;
    /// Binds an end that another domain has left open.
    pub(in crate::linux) const BIND_INTERDOMAIN: u32 = 0x0008_4501;
    /// Closes an end.
    pub(in crate::linux) const UNBIND_PORT: u32 = 0x0004_4503;
    /// Tells the other side.
    pub(in crate::linux) const NOTIFY: u32 = 0x0004_4504;
}

/// Calls a device; gives what it returns.
///
/// # Safety
/// `argument` points to the structure that `number` demands, and what that points to lives as long as the call.
///
/// # Errors
/// What the device says.
pub(super) unsafe fn call<T>(device: &impl AsFd, number: u32, argument: *mut T, words: &'static str) -> Result<u32> {
    loop {
        // SAFETY: the caller says that the argument is what the call demands.
        let result = unsafe { libc::ioctl(device.as_fd().as_raw_fd(), number as _, argument) };
        match u32::try_from(result) {
            Ok(value) => return Ok(value),
            Err(_) => {
                let error = std::io::Error::last_os_error();
                if error.kind() != std::io::ErrorKind::Interrupted {
                    return Err(Error::from_os(words, error));
                }
            }
        }
    }
}
