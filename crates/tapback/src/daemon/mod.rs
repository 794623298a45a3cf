//! The life of the process: start, serve until told to end, leave every ring as it is.
//!
//! ```text
//!   background --> signals --> the seats of its kinds --> XenStore: which domain is this? --> watch --> serve
//!   SIGTERM, SIGINT, or the one guest has gone (-x) --> pid file and seats go --> end
//! ```
//!
//! Guests do not notice that it ends, however it does: their rings are served by tapdisks, and whoever starts next takes
//! them up as they are. What can fail at the start fails before whoever started it is let go, with the reason on stderr
//! and its number as the exit status.

mod log;
mod seat;

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    pin::pin,
    process::{self, ExitCode},
    rc::Rc,
    time::Duration,
};

use block_core::{Error, ErrorKind, Result, ResultExt};
use clap::Parser;
use control_api::{RunDir, errno, make_directory};
use futures_util::future::{Either, join_all, select, select_all};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use storage_io::{
    EngineChoice, Executor, Signals,
    background::{self, Process, Starter},
};
use wire::xenstore::Path as StorePath;
use xen::{
    DomainId,
    store::{Address, Store},
};

use crate::{
    Arguments, DeathAction, Finder, Host, Log, Offer, OnDeath, RunCommand, SameImage, Tapdisks, Watcher, owners::Keeper,
};
use log::DaemonLog;
use seat::Seat;

/// Says on which platform guests are: as it does to a tapdisk.
const PLATFORM_VARIABLE: &str = "OXTAP_XEN";
/// How long the command for a tapdisk that has gone may take.
const COMMAND_MAX: Duration = Duration::from_secs(30);

/// Runs the program.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(shell) = arguments.completions {
        clap_complete::generate(shell, &mut Arguments::command(), "tapback", &mut std::io::stdout());
        return ExitCode::SUCCESS;
    }
    start(arguments.at_home()).unwrap_or_else(|error| {
        let _ = writeln!(std::io::stderr(), "tapback: {error}");
        u8::try_from(errno(&error)).map_or(ExitCode::FAILURE, ExitCode::from)
    })
}

fn start(arguments: Arguments) -> Result<ExitCode> {
    // Before going to the background, which moves to another directory.
    let (run, address) = (RunDir::from_environment(), store_address()?);
    match if arguments.debug { background::stay() } else { background::leave()? } {
        Process::Daemon(starter) => serve(&arguments, &run, address, starter),
        Process::Started(status) => Ok(status),
    }
}

/// Where XenStore is: on this host, or on the one without Xen that the environment names.
pub(crate) fn store_address() -> Result<Address> {
    address(std::env::var_os(PLATFORM_VARIABLE))
}

fn address(platform: Option<std::ffi::OsString>) -> Result<Address> {
    let platform = platform.unwrap_or_default();
    match platform.to_str().map(|platform| platform.split_once(':').unwrap_or((platform, ""))) {
        Some(("" | "xen", "")) => Ok(Address::from_environment()),
        Some(("hosted", directory)) if !directory.is_empty() => {
            let directory = std::path::absolute(directory).context(directory.to_owned())?;
            Ok(Address::Socket(directory.join("socket")))
        }
        _ => {
            let words = format!("{PLATFORM_VARIABLE}={}: neither xen nor hosted:DIRECTORY", platform.display());
            Err(Error::new(ErrorKind::Invalid, words))
        }
    }
}

fn serve(arguments: &Arguments, run: &RunDir, address: Address, starter: Starter) -> Result<ExitCode> {
    // Before the first thread.
    let signals = Signals::take(&[Signal::INT, Signal::TERM, Signal::HUP])?;
    raise_descriptors();
    make_directory(run.path(), 0o755).context(run.path().display())?;
    let seats = arguments.kinds.iter().map(|kind| Seat::take(run, kind, arguments.domain));
    let _seats = seats.collect::<Result<Vec<_>>>()?;
    // Threads: what may wait, such as starting a tapdisk, must not be waited for here.
    let executor = Executor::new(EngineChoice::Threads)?;
    let store = Store::connect(&executor, address).context("XenStore")?;
    let log = DaemonLog::start(&executor, arguments.debug, arguments.log_file.clone())?;
    log_panics();
    let ended = executor.block_on(async {
        let domain = own_domain(&store).await?;
        let pid_file = arguments.pidfile.clone().map(PidFile::write).transpose()?;
        let host = Rc::new(host(&executor, &store, domain, arguments, run, log.clone()));
        let kinds = arguments.kinds.iter();
        let watchers: Vec<Watcher> = kinds.map(|kind| Watcher::start_for(&host, kind, arguments.domain)).collect();
        // Who serves one guest does not look after the disks of others.
        let keeper = arguments.domain.is_none().then(|| Keeper::start(&host, run, arguments.script_time, &watchers));
        log.info(format!("serving {} in domain {domain}", arguments.kinds.join(", ")));
        starter.let_go()?;
        let ended = until_end(&executor, &signals, &watchers, arguments.domain, &log).await;
        drop((keeper, watchers, pid_file));
        ended
    });
    // What it was about to do is done by whoever comes next.
    executor.end_tasks();
    if let Err(error) = &ended {
        log.error(format!("ended: {error}"));
    }
    log.finish();
    ended.map(|()| ExitCode::SUCCESS)
}

fn host(
    executor: &Executor,
    store: &Store,
    domain: DomainId,
    arguments: &Arguments,
    run: &RunDir,
    log: Rc<dyn Log>,
) -> Host {
    let finder = match arguments.auto {
        true => Finder::starting(store, run, domain, &log),
        false => Finder::new(executor, run),
    };
    let finder = if arguments.verbose { finder.telling(&log) } else { finder };
    Host {
        executor: executor.clone(),
        store: store.clone(),
        domain,
        worker: Rc::new(Tapdisks::new(executor, run.clone())),
        opener: Rc::new(finder),
        log,
        offer: Offer {
            persistent: arguments.persistent,
            queues_max: arguments.queues,
            barrier: !arguments.no_barrier,
            ..Offer::default()
        },
        on_death: on_death(executor, run, &arguments.on_death),
    }
}

fn on_death(executor: &Executor, run: &RunDir, action: &DeathAction) -> OnDeath {
    match action {
        DeathAction::Fail => OnDeath::Fail,
        DeathAction::Restart => OnDeath::Help(Rc::new(SameImage::new(executor, run.clone(), &[]))),
        DeathAction::Run(command) => OnDeath::Help(Rc::new(RunCommand::new(executor, command, COMMAND_MAX))),
    }
}

/// Ends when told to, or when the one guest that is served has no devices any more.
async fn until_end(
    executor: &Executor,
    signals: &Signals,
    watchers: &[Watcher],
    domain: Option<DomainId>,
    log: &DaemonLog,
) -> Result<()> {
    let mut guest_gone = pin!(async {
        match domain {
            Some(_) => {
                select_all(watchers.iter().map(|watcher| Box::pin(watcher.until_nothing_is_left()))).await;
                join_all(watchers.iter().map(Watcher::until_none_is_served)).await;
            }
            None => std::future::pending().await,
        }
    });
    loop {
        match select(pin!(signals.next(executor)), guest_gone.as_mut()).await {
            Either::Left((Ok(Signal::HUP), _)) => log.reopen(),
            Either::Left((Ok(signal), _)) => {
                log.info(format!("told to end by signal {}; rings stay as they are", signal.as_raw()));
                return Ok(());
            }
            Either::Left((Err(error), _)) => return Err(error),
            Either::Right(((), _)) => {
                log.info("the guest has no devices any more");
                return Ok(());
            }
        }
    }
}

/// The domain that this is, as XenStore says; the first if it does not.
pub(crate) async fn own_domain(store: &Store) -> Result<DomainId> {
    let node = StorePath::new("domid").expect("a plain name");
    let Some(value) = store.read(&node).await? else { return Ok(DomainId(0)) };
    let number = std::str::from_utf8(&value).ok().and_then(|text| text.parse().ok());
    let nonsense = || Error::new(ErrorKind::Corrupt, format!("domid is {}", value.escape_ascii()));
    number.map(DomainId).ok_or_else(nonsense)
}

/// The file that names the process, for as long as it serves.
struct PidFile(PathBuf);

impl PidFile {
    fn write(path: PathBuf) -> Result<PidFile> {
        fs::write(&path, format!("{}\n", process::id())).context(path.display())?;
        Ok(PidFile(path))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if is_ours(&self.0) {
            let _ = fs::remove_file(&self.0);
        }
    }
}

fn is_ours(path: &Path) -> bool {
    fs::read_to_string(path).is_ok_and(|text| text.trim() == process::id().to_string())
}

/// A connection for each device, and many more when all tapdisks are asked.
fn raise_descriptors() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // Then it is as many as there were.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

/// A daemon that ends by a mistake of ours has nobody else to tell.
fn log_panics() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        log::last_words(&format!("{panic}"));
        usual(panic);
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_says_where_xenstore_is() {
        let at = |text: &str| address(Some(text.into()));
        assert_eq!(at("hosted:/tmp/host").unwrap(), Address::Socket("/tmp/host/socket".into()));
        assert!(at("").is_ok() && at("xen").is_ok() && address(None).is_ok());
        for wrong in ["hosted:", "hosted", "kvm", "xen:x"] {
            assert!(at(wrong).is_err(), "{wrong}");
        }
    }
}
