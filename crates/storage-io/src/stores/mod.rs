//! Storages: the file system's, and those made of memory for tests and simulations.

pub(crate) mod aligned;
mod claims;
pub(crate) mod crash;
pub(crate) mod faulty;
mod file;
pub(crate) mod files;
mod limits;
pub(crate) mod memory;
pub(crate) mod memory_files;
mod names;
pub(crate) mod rehearsal;
pub(crate) mod remote;
pub(crate) mod traced;
