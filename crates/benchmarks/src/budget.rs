//! The grant budget when a process is killed that has all of it: how long until the next one in line has it.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, mpsc},
    task::{Poll, Wake, Waker},
    time::{Duration, Instant},
};

use block_core::{Error, ErrorKind, Result, ResultExt};
use clap::Args;
use xen::budget::{Budget, Limits, Permit, REQUEST_PAGES_MAX, Waiter};

use crate::{Effort, figures::Report};

/// How often in each round.
const KILLS: u32 = 10;
/// Nothing takes so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a process does that will be killed.
#[derive(Debug, Args)]
pub(crate) struct Hold {
    /// The budget.
    #[arg(long)]
    budget: PathBuf,
}

/// Wakes whoever receives.
struct Bell(mpsc::Sender<()>);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        // Whoever has what he waited for listens no more.
        let _ = self.0.send(());
    }
}

/// Takes all pages, says so, and waits for its end.
pub(crate) fn hold(arguments: &Hold) -> Result<()> {
    let budget = Budget::open(&arguments.budget, None)?;
    let share = budget.share()?;
    let Poll::Ready(_all) = share.waiter().poll(REQUEST_PAGES_MAX, Waker::noop()) else {
        return Err(Error::new(ErrorKind::LimitReached, "somebody else has pages of the budget"));
    };
    println!("taken");
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).context("standard input").map(drop)
}

pub(crate) fn run(effort: &Effort) -> Result<Report> {
    let path = effort.directory.join("grant-budget");
    let budget = Budget::open(&path, Some(Limits::new(REQUEST_PAGES_MAX)?))?;
    let share = budget.share()?;
    let mut report = Report::default();
    for kill in 0..if effort.is_smoke { 1 } else { KILLS } * u32::try_from(effort.rounds).unwrap_or(u32::MAX) {
        let mut waiter = share.waiter();
        let mut holder = Holder::start(&path)?;
        let (to, woken) = mpsc::channel();
        let waker = Waker::from(Arc::new(Bell(to)));
        if waiter.poll(1, &waker).is_ready() {
            return Err(Error::new(ErrorKind::Invalid, "nothing was left to be taken"));
        }
        // Not always at the same time between two looks.
        std::thread::sleep(Duration::from_millis(u64::from(kill * 37 % 100)));
        let killed = Instant::now();
        holder.0.kill().context("a process")?;
        take(&mut waiter, &waker, &woken)?;
        report.add("from a kill to the next in line", "ms", killed.elapsed().as_secs_f64() * 1e3);
    }
    report.expect("from a kill to the next in line", "1000 ms");
    Ok(report)
}

fn take(waiter: &mut Waiter, waker: &Waker, woken: &mpsc::Receiver<()>) -> Result<Permit> {
    loop {
        match waiter.poll(1, waker) {
            Poll::Ready(permit) => return Ok(permit),
            Poll::Pending => {
                woken.recv_timeout(PATIENCE).map_err(|_| Error::new(ErrorKind::TimedOut, "nobody was called"))?;
            }
        }
    }
}

/// A process that has all pages. Dropping it ends it.
struct Holder(Child);

impl Holder {
    fn start(budget: &Path) -> Result<Holder> {
        let program = std::env::current_exe().context("this program")?;
        let mut command = Command::new(program);
        command.arg("hold").arg("--budget").arg(budget);
        let mut holder = Holder(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("a process")?);
        let mut line = String::new();
        let told = holder.0.stdout.take().expect("it is a pipe");
        BufReader::new(told).read_line(&mut line).context("a process")?;
        if line.is_empty() {
            return Err(Error::new(ErrorKind::Invalid, "a process took nothing"));
        }
        Ok(holder)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // It has ended already if this fails.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
