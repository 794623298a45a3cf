//! A guest in software: the frontend's half of a block device, on the hosted platform or in a domain of a real Xen.
//!
//! ```text
//!   read, write, flush, discard --> Front --> FrontRing: slots in granted pages --> (a backend)
//!                                     ^                                               |
//!                                     +---- responses, an event <---------------------+
//! ```
//!
//! It is what the backend is tested and measured against, so it watches what a guest's kernel would not: each grant is
//! taken back as soon as its request is answered, and one that somebody still uses then is counted as stray. A guest that
//! means harm is in [`hostile`]; it uses [`FrontRing`] directly and writes into it what it likes.
//!
//! [`Device`] plays the frontend's whole part, from the nodes that a toolstack has made in XenStore to a disk, and leaves
//! it so that another kernel can have it.

#![forbid(unsafe_code)]

mod data;
mod device;
mod front;
mod half;
pub mod hostile;
mod ring;
pub mod toolstack;
pub mod workload;

pub use device::{ByHand, Device, DeviceAccount, DeviceOptions, DiskProperties, Hold};
pub use front::{Front, FrontOptions};
pub use half::FrontHalf;
pub use ring::FrontRing;
