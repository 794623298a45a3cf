//! The platform with Xen: the devices of a Linux domain, by their own ioctls.
//!
//! Numbers and structures are those of Linux's public headers `xen/gntdev.h` and `xen/evtchn.h`; a test compares them
//! with the headers of this machine.

mod calls;
mod channels;
mod grants;
#[cfg(test)]
mod headers;

pub use channels::LinuxChannels;
pub use grants::LinuxGrants;
