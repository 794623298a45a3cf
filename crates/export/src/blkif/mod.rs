//! Rings of Xen guests: a disk as a guest's blkfront sees it.
//!
//! ```text
//!   guest's pages, granted             :                       this process
//!   ring: slots --copied once, then checked--> table --> source: RequestSource --> virtual_disk::DiskQueue::serve
//!   data pages <--grant copy, many at once--> buffers of ours           |
//!   event channel <--when the guest asks for it-- responses <-----------+
//! ```
//!
//! Guests are strangers. A slot is copied whole before it is looked at; data is copied once, so that a guest that writes
//! to its pages meanwhile cannot tear a write, and no storage ever refers to a guest's page. A request that makes no
//! sense is answered with an error; a ring that makes no sense is not looked at any more, and hurts nobody else. Source:
//! Xen's public headers `io/blkif.h` and `io/ring.h`.

#![forbid(unsafe_code)]

mod account;
mod admission;
mod controls;
mod device;
mod device_account;
mod doorbell;
mod failing;
mod features;
#[cfg(test)]
mod hold_off_tests;
mod kept;
mod metered;
mod record;
#[cfg(test)]
mod record_tests;
mod ring;
#[cfg(test)]
mod ring_tests;
mod source;
mod status;
mod table;
mod transfers;

pub use controls::{RingChange, RingChanges, RingCounters};
pub use device::{ConnectedRing, RingEnd, RingOptions};
pub use device_account::DeviceAccount;
pub use failing::FailingRing;
pub use features::{Polling, RingFeatures, RingPages};
pub use record::RECORD_BYTES;
pub use ring::BrokenRing;
pub use status::{RingStatus, RingTraffic, SideTraffic};
