//! The platform with Xen: the devices of a Linux domain, by their own ioctls.
//!
//! Numbers and structures are those of Linux's public headers `xen/gntdev.h`, `xen/gntalloc.h` and `xen/evtchn.h`; a test
//! compares them with the headers of this machine.

mod calls;
mod channels;
mod grants;
#[cfg(test)]
mod headers;
mod kernel;

pub use channels::LinuxChannels;
pub use grants::LinuxGrants;
pub use kernel::LinuxKernel;

use calls::number;

/// The devices that a backend opens, for whoever locks a process in.
pub const DEVICES: [&str; 2] = [grants::DEVICE, channels::DEVICE];

/// The requests that they are sent, likewise.
pub const REQUESTS: [u32; 6] = [
    number::MAP_GRANT_REF,
    number::UNMAP_GRANT_REF,
    number::GRANT_COPY,
    number::BIND_INTERDOMAIN,
    number::UNBIND_PORT,
    number::NOTIFY,
];
