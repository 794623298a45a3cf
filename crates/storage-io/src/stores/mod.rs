//! Storages: the file system's, and those made of memory for tests and simulations.

pub(crate) mod crash;
pub(crate) mod faulty;
pub(crate) mod memory;
pub(crate) mod memory_files;
