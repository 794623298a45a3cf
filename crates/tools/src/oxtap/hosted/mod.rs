//! `oxtap hosted`: a host without Xen, and the toolstack's part on it.
//!
//! ```text
//!   run          broker (memory, grants, events) + XenStore + backend          until Ctrl-C
//!   backend      only that, for a host whose `run` has none                    until Ctrl-C, or killed
//!   add-disk     nodes --> backend shows InitWait --> a tapdisk --> its name into the nodes
//!   remove-disk  Closing --> backend shows Closed --> nodes go --> the tapdisk goes
//! ```
//!
//! Domains are what XenStore says: one that appears below `/local/domain` gets its memory and its socket, and one that
//! vanishes there loses them.

mod backend;
mod disks;
mod lines;
mod run;

use std::path::{Path, PathBuf};

use block_core::Result;
use control_api::RunDir;
use storage_io::{EngineChoice, Executor};
use xen::store::{Address, Store};

use super::arguments::{Hosted, HostedCommand};

/// Where XenStore listens for the first domain.
const SOCKET: &str = "socket";

pub(super) fn run(arguments: &Hosted) -> Result<()> {
    match &arguments.command {
        HostedCommand::Run(arguments) => run::run(arguments),
        HostedCommand::Backend(arguments) => backend::run(arguments),
        HostedCommand::AddDisk(arguments) => disks::add(arguments),
        HostedCommand::RemoveDisk(arguments) => disks::remove(arguments),
        HostedCommand::RemoveDomain(arguments) => disks::remove_domain(arguments),
    }
}

/// Where the tapdisks of a host have their sockets: where the environment says, or in the host's own directory.
fn run_directory(directory: &Path) -> RunDir {
    match std::env::var_os("OXTAP_RUN_DIR") {
        Some(_) => RunDir::from_environment(),
        None => RunDir::at(directory.join("run")),
    }
}

/// Where XenStore listens for a domain.
pub(super) fn domain_socket(directory: &Path, domain: u16) -> PathBuf {
    match domain {
        0 => directory.join(SOCKET),
        _ => directory.join(format!("{SOCKET}.{domain}")),
    }
}

/// XenStore, as a program of this domain.
pub(super) fn connect(executor: &Executor, directory: &Path, domain: u16) -> Result<Store> {
    Store::connect(executor, Address::Socket(domain_socket(directory, domain)))
}

fn executor() -> Result<Executor> {
    Executor::new(EngineChoice::Inline)
}
