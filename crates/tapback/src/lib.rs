//! The backend's hands: what the machine of [`xenbus`] decides for a guest's disk is done in XenStore and to a tapdisk.
//!
//! ```text
//!   backend/<kind>/<guest>/<device>           guest's .../device/vbd/<device>
//!        |  toolstack, scripts                       |  frontend
//!        v                                           v
//!     Watcher --look--> Device: levels --> xenbus::Backend --> actions --> Directory: offers, properties, states, errors
//!                          ^                                     |
//!                          +---- what came of it <---------------+--> Worker: connect, disconnect, watch (a tapdisk)
//!                                                                +--> Opener: which disk the nodes name
//! ```
//!
//! Each device is a task of its own: a tapdisk or storage that hangs holds up its device and no other. Events of XenStore
//! are hints: whoever is told looks at what is there. What a guest writes is read within bounds, and it is looked at only
//! so often. Directories are the toolstack's: nothing is ever written into one that has gone, and none is removed.
//!
//! This crate touches no guest's memory and no image; a tapdisk does, and knows nothing of XenStore.

#![forbid(unsafe_code)]

mod agent;
mod arguments;
mod connection;
mod daemon;
mod device;
mod directory;
mod finder;
mod hands;
mod host;
mod hotplug;
mod image;
mod look;
mod name;
mod nodes;
mod offer;
pub mod owners;
mod pace;
mod presence;
mod refused;
mod reports;
mod ring;
mod signs;
mod supervision;
pub mod survey;
mod tapdisk;
mod watcher;
mod worker;

pub use agent::TurnBack;
pub use arguments::{Arguments, DeathAction};
pub use daemon::main;
pub use device::{Device, Summary};
pub use finder::Finder;
pub use host::{Host, Log, Silent};
pub use hotplug::{ScriptArguments, main as hotplug_main};
pub use image::{ImageNodes, NamedDisks, Opener};
pub use name::DeviceName;
pub use offer::Offer;
pub use reports::Reports;
pub use ring::read_rings;
pub use supervision::{Casualty, Exit, OnDeath, Rescue, Rescued, RunCommand, SameImage};
pub use tapdisk::Tapdisks;
pub use watcher::Watcher;
pub use worker::{Disk, Guest, LetGo, NewImage, Worker};
