//! `oxtap guest`: a guest in software uses a disk, checks every byte of it, and leaves it to its next kernel.
//!
//! ```text
//!   kernel 1: boot, connect, check all, work ... shut down, or fall over
//!   kernel 2: boot, connect, check all, work ...                            each knows nothing but the tree
//! ```

mod cycles;
mod harm;
mod report;

use std::{path::PathBuf, sync::Arc};

use block_core::{Error, ErrorKind, Result, ResultExt};
use guest::toolstack::DiskSpec;
use storage_io::{EngineChoice, Executor};
use wire::xenstore::Path;
use xen::{
    DomainId, Kernel,
    hosted::Guest,
    linux::LinuxKernel,
    store::{Address, Store},
};

use super::{arguments::GuestRun, hosted};

pub(super) fn run(arguments: &GuestRun) -> Result<()> {
    let host = GuestHost::new(arguments)?;
    match arguments.hostile {
        Some(harm) => harm::run(&host, arguments, harm),
        None => cycles::run(&host, arguments),
    }
}

/// Where the guest runs, and which disk it has.
struct GuestHost {
    executor: Executor,
    directory: PathBuf,
    domain: DomainId,
    disk: Path,
}

impl GuestHost {
    fn new(arguments: &GuestRun) -> Result<GuestHost> {
        let directory = std::path::absolute(&arguments.directory).context(arguments.directory.display())?;
        let domain = DomainId(arguments.domain);
        let disk = DiskSpec::new(domain, &arguments.disk, "").frontend_path()?;
        Ok(GuestHost { executor: Executor::new(EngineChoice::Probe)?, directory, domain, disk })
    }

    /// A kernel starts, with connections of its own.
    fn boot(&self) -> Result<(Arc<dyn Kernel>, Store)> {
        if LinuxKernel::device_in(&self.directory).exists() {
            let kernel = LinuxKernel::open(&self.directory)?;
            return Ok((Arc::new(kernel), Store::connect(&self.executor, Address::from_environment())?));
        }
        let (guest, store) = self.boot_hosted()?;
        Ok((Arc::new(guest), store))
    }

    /// The same in a domain that does to its own memory what it likes.
    fn boot_hosted(&self) -> Result<(Guest, Store)> {
        if !hosted::domain_socket(&self.directory, self.domain.0).exists() {
            let words = format!("there is no domain {} in {}", self.domain, self.directory.display());
            return Err(Error::new(ErrorKind::NotFound, words));
        }
        let guest = Guest::boot(&self.directory, self.domain)?;
        Ok((guest, hosted::connect(&self.executor, &self.directory, self.domain.0)?))
    }
}

fn failed(words: impl Into<String>) -> Error {
    Error::new(ErrorKind::Mismatch, words.into())
}
