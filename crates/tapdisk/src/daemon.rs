//! The life of the process: start in the order that spawners rely on, serve, react to signals, leave nothing behind.
//!
//! ```text
//!   control socket, statistics --> limits --> jail --> engine works? --> log, nbdclient --> "ready" line --> serve
//!   last detach, SIGINT or SIGTERM --> sockets and statistics removed --> last answer --> end
//! ```
//!
//! Whatever can fail at the start fails before the line that says "ready", with the reason on stderr and its number as
//! the exit status.
//!
//! SIGTERM closes the disks like SIGINT, where the default action would kill the process: storage managers end a
//! tapdisk with it that they have no use for any more, and an image that was closed needs no recovery. It takes bounded
//! time; a second signal ends the process at once, as SIGKILL always does.

use std::{
    env,
    io::Write,
    process::{self, ExitCode},
    rc::Rc,
    time::Duration,
};

use block_core::{Result, ResultExt};
use control_api::{RunDir, UNUSED_VARIABLE, errno, make_directory, stale::Turn};
use futures_util::future::join;
use rustix::{
    fs::Mode,
    process::{Signal, umask},
};
use storage_io::{
    EngineChoice, EngineKind, Executor, Signals,
    background::{self, Process, Starter},
};

use crate::{
    arguments::{self, Arguments, Options},
    control::{Belongings, Control},
    jail::Jail,
    listener::Listener,
    log::Log,
    loops::Purpose,
    native, process_limits,
    receiver::receive,
    server::Server,
    shared_memory::StatisticsDirectory,
};

const EINVAL: u8 = 22;
/// What nobody but the owner may do.
const OTHERS_WRITE: Mode = Mode::WGRP.union(Mode::WOTH);

/// Runs the program.
pub fn main() -> ExitCode {
    let ended = match arguments::parse(env::args_os().skip(1), |name| env::var_os(name)) {
        Some(Arguments::Run(options)) => start(options),
        Some(Arguments::Help) => return usage(ExitCode::SUCCESS),
        None => return usage(ExitCode::from(EINVAL)),
    };
    ended.unwrap_or_else(|error| {
        let _ = writeln!(std::io::stderr(), "tapdisk: {error}");
        u8::try_from(errno(&error)).map_or(ExitCode::FAILURE, ExitCode::from)
    })
}

fn start(options: Options) -> Result<ExitCode> {
    // Before going to the background, which moves to another directory.
    let (run, jail) = (RunDir::from_environment(), Jail::from_environment(options.is_jailed)?);
    match if options.in_foreground { background::stay() } else { background::leave()? } {
        Process::Daemon(starter) => serve(run, options, jail, starter),
        Process::Started(status) => Ok(status),
    }
}

fn usage(status: ExitCode) -> ExitCode {
    let _ = std::io::stderr().write_all(arguments::usage().as_bytes());
    status
}

fn serve(run: RunDir, options: Options, jail: Jail, starter: Starter) -> Result<ExitCode> {
    let pid = process::id();
    // Whatever the spawner's mask: to connect to a socket is to be allowed to write to it.
    umask(umask(OTHERS_WRITE) | OTHERS_WRITE);
    let signals = [Signal::HUP, Signal::USR1, Signal::USR2, Signal::INT, Signal::TERM, Signal::XFSZ];
    let signals = Signals::take(&signals)?;
    make_directory(run.path(), 0o755).context(run.path().display())?;
    let (listener, cleaned) = control_socket(&run, pid)?;
    let (statistics, no_metrics) = StatisticsDirectory::create(&run, pid)?;
    // Above here is what the jail forbids, below what starts threads.
    let refused = process_limits::raise();
    let missing = jail.enter(&run, pid).context("jail")?;
    let found = try_engine(options.engine)?;
    // Sockets only: disks have executors of their own.
    let executor = Executor::new(EngineChoice::Inline)?;
    let log = Log::start(run.log_file(pid), pid).context("log")?;
    log_panics(&log);
    if !cleaned.is_empty() {
        log.info(format!("removed what dead processes had left: {cleaned:?}"));
    }
    refused.iter().for_each(|refused| log.info(refused));
    missing.iter().for_each(|missing| log.warning(format!("jail: {missing}")));
    no_metrics.iter().for_each(|error| log.warning(format!("no pages for metrics, or no records of rings: {error}")));
    let control = Control::new(&executor, run, pid, options, found, jail, log.clone());
    let server = Server::new(&executor, control.clone());
    let descriptors = Listener::bind(control.run.nbd_client_socket(pid))?;
    let keeper = control.clone();
    let receiver = receive(&executor, descriptors, move |name, descriptor| keeper.keep_descriptor(&name, descriptor));
    let native = native::Server::new(&executor, control.clone());
    let native_listener = Listener::bind(control.run.native_socket(pid))?;
    let listeners = vec![server.listen(listener), native.listen(native_listener), receiver];
    control.own(Belongings { _listeners: listeners, _statistics: statistics });
    log.info(format!("ready, engine {found:?}"));
    starter.tell(&control.run.control_socket(pid).display().to_string())?;
    let _known = control.loops.register(&executor, Purpose::Control);
    let _unused = unused_time().map(|time| executor.spawn(control.clone().end_if_unused(time)));
    let _signals = executor.spawn(react(signals, executor.clone(), control.clone()));
    executor.block_on(async {
        control.ended().await;
        join(server.finish(), native.finish()).await;
    });
    log.finish();
    Ok(ExitCode::SUCCESS)
}

/// How long it may be without anything to do after its start; none: for ever, as those expect who start it by hand.
fn unused_time() -> Option<Duration> {
    let seconds = env::var(UNUSED_VARIABLE).ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// Whether there is any way to do I/O here; which one each disk gets is found out when it is attached.
fn try_engine(engine: EngineChoice) -> Result<EngineKind> {
    Ok(Executor::new(engine).context("no engine for I/O")?.engine())
}

/// Removes what the dead have left, and listens.
fn control_socket(run: &RunDir, pid: u32) -> Result<(Listener, Vec<u32>)> {
    let turn = Turn::wait(run).context(run.path().display())?;
    let cleaned = turn.clean(run, Some(pid));
    Ok((Listener::bind(run.control_socket(pid))?, cleaned))
}

/// A daemon that ends by a mistake of ours has nobody else to tell.
fn log_panics(log: &Log) {
    let (log, usual) = (log.clone(), std::panic::take_hook());
    std::panic::set_hook(Box::new(move |panic| {
        log.last_words(&format!("{panic}"));
        usual(panic);
    }));
}

async fn react(signals: Signals, executor: Executor, control: Rc<Control>) {
    let mut is_ending = false;
    while let Ok(signal) = signals.next(&executor).await {
        match signal {
            Signal::HUP => control.log.reopen(),
            Signal::USR1 => executor.spawn(control.clone().dump()).detach(),
            Signal::INT | Signal::TERM if is_ending => abandon(&control),
            Signal::INT | Signal::TERM => {
                is_ending = true;
                control.log.info(format!("told to end by signal {}: closing all disks", signal.as_raw()));
                let (closing, control) = (control.clone(), control.clone());
                let end = async move {
                    if !closing.close_all().await {
                        abandon(&control);
                    }
                };
                executor.spawn(end).detach();
            }
            // No ring to poll; and a file that is too large is an error of the write, not of the process.
            _ => {}
        }
    }
}

/// Ends at once: storage hangs, or somebody insists. Images are left as they are.
fn abandon(control: &Control) -> ! {
    control.abandon();
    control.log.error("ended without closing all disks");
    control.log.finish();
    process::exit(1)
}
