//! The doors to Xen: pages that a guest has granted, the events between it and us, and XenStore.
//!
//! ```text
//!         Grants, EventChannels; Kernel        what a backend needs; what a frontend needs
//!               /                \
//!            linux              hosted        two platforms behind the same words
//!   /dev/xen/gntdev, gntalloc,  memory that processes share, eventfds, and a broker that knows what belongs to whom
//!           evtchn
//! ```
//!
//! `hosted` needs neither Xen nor root: the whole system runs on any Linux machine, in several processes, and a process
//! that is killed gives back what it had, as it would on Xen. What it gets wrong on purpose is what real hosts do at their
//! worst: limits, pages that outlive their domain, an event too many at the start.
//!
//! What all processes of a host use of it together is kept within limits by the [`budget`].
//!
//! Memory that a guest can write is never a `&[u8]`: it is read and written through [`SharedMemory`], word by word, and
//! each byte once.

pub mod budget;
mod channels;
mod grants;
mod ids;
mod kernel;
mod memory;
mod words;

pub mod hosted;
pub mod linux;
pub mod store;

pub use channels::{EventChannel, EventChannels};
pub use grants::{Access, CopyStatus, GrantCopy, Grants, Local, Mapping};
pub use ids::{DomainId, GrantRef, Port};
pub use kernel::{Account, EndAccess, Kernel};
pub use memory::{PAGE_BYTES, SharedMemory};
pub use words::Words;
