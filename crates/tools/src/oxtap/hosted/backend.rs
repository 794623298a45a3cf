//! `oxtap hosted backend`, and the same within `oxtap hosted run`: disks of guests are connected to tapdisks.
//!
//! In a process of its own it may end at any time, however it does: guests are served by tapdisks, and the next one takes
//! up what it finds.

use std::{
    path::{Path, PathBuf},
    rc::Rc,
};

use block_core::{Result, ResultExt};
use storage_io::{Executor, Signals};
use tapback::{
    Host, NamedDisks, Offer, OnDeath, Tapdisks, Watcher,
    owners::{Keeper, SCRIPT_TIME},
};
use xen::{DomainId, store::Store};

use super::{connect, executor, lines::Lines, run_directory};
use crate::oxtap::{
    arguments::{BackendOptions, HostedBackend},
    interrupt, text,
};

/// Serves the disks of a host that runs, until Ctrl-C.
pub(super) fn run(arguments: &HostedBackend) -> Result<()> {
    let signals = Signals::take(&interrupt::ENDING)?;
    let directory = absolute(&arguments.directory)?;
    let executor = executor()?;
    let client = connect(&executor, &directory, 0)?;
    let log = Rc::new(Lines::to_stderr()?);
    let serving = start(&executor, &client, &directory, &arguments.options, &log);
    let kinds = arguments.options.kinds.join(", ");
    text::print(&format!("serving {kinds} of the host in {}; without us its guests go on\n", directory.display()))?;
    let ended = executor.block_on(signals.next(&executor));
    drop((serving, client));
    executor.end_tasks();
    ended.map(drop)
}

/// Disks are served, and those that scripts have forgotten are ended.
pub(super) struct Serving {
    _keeper: Keeper,
    _watchers: Vec<Watcher>,
}

/// Serves disks for as long as what it gives is there.
pub(super) fn start(
    executor: &Executor,
    store: &Store,
    directory: &Path,
    options: &BackendOptions,
    log: &Rc<Lines>,
) -> Serving {
    let host = Rc::new(Host {
        executor: executor.clone(),
        store: store.clone(),
        domain: DomainId(0),
        worker: Rc::new(Tapdisks::new(executor, run_directory(directory))),
        opener: Rc::new(NamedDisks),
        log: log.clone(),
        offer: Offer {
            persistent: options.persistent,
            polling_us: options.polling,
            grace: options.grace,
            ..Offer::default()
        },
        on_death: OnDeath::default(),
    });
    let watchers: Vec<Watcher> = options.kinds.iter().map(|kind| Watcher::start(&host, kind)).collect();
    Serving { _keeper: Keeper::start(&host, &run_directory(directory), SCRIPT_TIME, &watchers), _watchers: watchers }
}

pub(super) fn absolute(directory: &Path) -> Result<PathBuf> {
    std::path::absolute(directory).context(directory.display())
}
