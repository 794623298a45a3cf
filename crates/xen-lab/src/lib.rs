//! A real Xen to test with: the hypervisor, a Linux dom0 and its guests, in QEMU's software emulation, from Debian packages.
//!
//! ```text
//!   Packages: fetched once, unpacked in a cache, never installed
//!      |          (Xen, Linux, xl, xenstored, GRUB, busybox, and the QEMU that runs them)
//!      v
//!   Images: the hypervisor, the kernel, an archive of dom0's root; built once for each set of packages
//!      |
//!      |   + what one test adds: our programs, its script
//!      v
//!   Machine: QEMU boots Xen, Xen boots dom0, dom0 runs the script; what the script leaves in /out comes back
//! ```
//!
//! Nothing of it needs root, KVM or a network beyond the package archive. A machine takes 3 GiB of memory and about ten
//! seconds to the first line of the script. `guest/` holds what runs inside: `/init` of dom0 and of its guests, and the
//! small programs that scripts use there.
//!
//! This crate is for tests and for people who try things (`cargo xtask xen-lab SCRIPT`); nothing that ships imports it.

#![forbid(unsafe_code)]

mod archive;
mod images;
mod kernel;
mod machine;
mod packages;
mod programs;
mod root;

pub use images::Images;
pub use machine::{Machine, Outcome, Processor, Verdict};
pub use packages::Packages;
pub use programs::static_programs;
