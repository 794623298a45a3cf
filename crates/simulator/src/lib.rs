//! A seed in, a verdict out: random work on image chains, with faults and crashes, against a plain model of a disk.
//!
//! ```text
//!   seed --> Workload --operation--> Disk (chain in memory, simulated executor) --answer--> Oracle
//!                                      |                                                      ^
//!                                  CrashStorage --any instant--> a state --opened again-------+
//! ```
//!
//! Everything random comes from the seed, so a failure is repeated by its seed. Nothing imports this crate.

#![forbid(unsafe_code)]

mod content;
mod crash;
mod disk;
mod images;
mod oracle;
mod random;
mod replay;
mod simulation;
mod source;
mod structure;
mod work;
mod workload;

pub use content::Stamp;
pub use crash::Inspector;
pub use disk::Disk;
pub use images::{Base, ImageFile, Images, Shape};
pub use oracle::{Begun, Change, Crash, Instant, Oracle, Permitted};
pub use random::Random;
pub use replay::{Replay, seeds};
pub use simulation::{Burst, Plan, Simulation};
pub use source::WorkSource;
pub use structure::check_structure;
pub use workload::{Mix, Workload};
