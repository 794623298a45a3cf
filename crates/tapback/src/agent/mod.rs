//! Pausing a disk for whoever writes a `pause` node: a storage manager that wants to change its images.
//!
//! ```text
//!   storage manager                backend directory               here                        tapdisk
//!   writes pause ----------------> pause
//!                                         --- seen --->            Agent: Pausing ---pause---> drains, closes its images
//!   waits for it <---------------- pause-done <------------------- Agent: Paused <------------ at rest
//!   removes pause ---------------> (gone)
//!                                         --- seen --->            Agent: Unpaused --resume--> opens its images
//!   waits for that <-------------- (pause-done gone) <------------ Channel: Running <--------- serves
//! ```
//!
//! What the nodes say is a level: it is looked at as often as anything changes, and nothing is done twice. A disk is at
//! rest before anybody learns of it, and served before that is taken back. What a tapdisk is asked for is a task of its
//! own: a disk that hangs holds up nothing else of its device. A value of the nodes means nothing, that they are there does.

mod job;

pub use job::TurnBack;
pub(crate) use job::{RestEnd, bring_back, bring_to_rest};

/// What the nodes of a directory say of a pause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RestNodes {
    /// `pause`: the disk shall be at rest.
    pub(crate) is_wanted: bool,
    /// `pause-done`: it was said that it is.
    pub(crate) is_told: bool,
}

/// The node that says what is wanted.
pub(crate) const WANTED: &str = "pause";
/// The node that answers it.
pub(crate) const TOLD: &str = "pause-done";
