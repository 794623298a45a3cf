//! What every test of the project may need around it: tools, programs, a private place, guards, seeds.
//!
//! ```text
//!   cargo xtask test --- OXTAP_SKIPS, OXTAP_LONG, OXTAP_SEED, OXTAP_PROGRAMS ---> tests
//!                    <-- "oxtap-skip: test: reason" lines, one per test that could not run --+
//! ```
//!
//! The convention for end-to-end tests (tests that run the built programs):
//!
//! * they are ordinary integration tests, in `crates/tapdisk/tests/` and `crates/tools/tests/`;
//! * they find a program of ours with [`target_program`], a tool of the system with [`require_tool`], a module
//!   of the system's Python with [`require_python_module`];
//! * they work in a [`RunDirectory`] of their own, so that no two tests, and no real host, ever meet;
//! * what needs root or a device asks for it and returns early when told no: the skip is recorded, and
//!   `cargo xtask test` lists it (under `CI=true` a skip is a failure).
//!
//! This crate is a development dependency only. It leaves all knowledge of images and protocols to the tests.

#![forbid(unsafe_code)]

mod choices;
mod corpus;
mod effort;
mod hanging_file;
mod headers;
mod log_receiver;
mod loop_device;
mod orders;
mod process;
mod program;
mod rated;
mod run_directory;
mod skip;
mod tool;
mod unpacked;
mod vhdi_mount;

pub use choices::Choices;
pub use corpus::feed;
pub use effort::{cycles, long, seed};
pub use hanging_file::HangingFile;
pub use headers::Facts;
pub use log_receiver::{LogReceiver, ReadingLogReceiver};
pub use loop_device::LoopDevice;
pub use orders::{Orders, Party, Wrong};
pub use process::ProcessGuard;
pub use program::{program_directory, target_program};
pub use rated::Rated;
pub use run_directory::RunDirectory;
pub use skip::{SKIPS_VARIABLE, Skip, recorded_skips, require_root, skip};
pub use tool::{TOOLS, Tool, Wanted, find_tool, require_python_module, require_tool};
pub use unpacked::{PACKAGE_SETS, PackageSet, XEN_HEADERS, XEN_TOOLS, unpacked_program};
pub use vhdi_mount::VhdiMount;
