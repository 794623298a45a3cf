//! Going to the background: the process that was started stays until the daemon is ready or has failed, and ends with
//! the daemon's own status, so that whoever started it learns why.
//!
//! ```text
//!   started --fork--> daemon: sets up -- ready: its line on stdout, then a byte --> serves
//!      '-- waits for the byte: 0, or for the daemon's end: its status
//! ```

use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::OwnedFd,
    process::ExitCode,
};

use crate::{Fork, fork};
use block_core::{Error, Result, ResultExt};
use rustix::{
    pipe::{PipeFlags, pipe_with},
    process::{Pid, WaitOptions, chdir, setsid, waitpid},
    stdio::{dup2_stderr, dup2_stdin, dup2_stdout},
};

/// What the daemon still owes to whoever started it.
#[derive(Debug)]
pub struct Starter {
    /// Where to say that it is ready; none in the foreground.
    ready: Option<File>,
}

/// Which process goes on.
#[derive(Debug)]
pub enum Process {
    /// The daemon.
    Daemon(Starter),
    /// The one that was started; it has nothing left to do.
    Started(ExitCode),
}

/// Stays in the foreground.
pub fn stay() -> Process {
    Process::Daemon(Starter { ready: None })
}

/// Goes to the background.
///
/// # Errors
/// Threads have been started, or what the operating system says.
pub fn leave() -> Result<Process> {
    let (told, ready) = pipe_with(PipeFlags::CLOEXEC).map_err(io::Error::from).context("pipe")?;
    match fork()? {
        Fork::Parent { child } => {
            drop(ready);
            Ok(Process::Started(wait(told, child)))
        }
        Fork::Child => {
            drop(told);
            setsid().map_err(io::Error::from).context("setsid")?;
            chdir("/").map_err(io::Error::from).context("chdir /")?;
            dup2_stdin(null()?).map_err(io::Error::from).context("stdin")?;
            Ok(Process::Daemon(Starter { ready: Some(ready.into()) }))
        }
    }
}

fn wait(told: OwnedFd, child: Pid) -> ExitCode {
    if File::from(told).read_exact(&mut [0]).is_ok() {
        return ExitCode::SUCCESS;
    }
    let status = waitpid(Some(child), WaitOptions::empty()).ok().flatten().and_then(|(_, status)| status.exit_status());
    status.and_then(|status| u8::try_from(status).ok()).map_or(ExitCode::FAILURE, ExitCode::from)
}

fn null() -> Result<File> {
    const PATH: &str = "/dev/null";
    File::options().read(true).write(true).open(PATH).context(PATH)
}

impl Starter {
    /// Says `line`, lets go of whoever waits, and of the standard streams.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn tell(self, line: &str) -> Result<()> {
        let mut stdout = io::stdout().lock();
        // Nobody may be reading any more; that is not our trouble.
        let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
        drop(stdout);
        self.let_go()
    }

    /// As [`tell`](Self::tell), of a daemon that has nothing to say.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn let_go(self) -> Result<()> {
        let Some(mut ready) = self.ready else { return Ok(()) };
        let null = null()?;
        dup2_stdout(&null).map_err(io::Error::from).context("stdout")?;
        dup2_stderr(&null).map_err(io::Error::from).context("stderr")?;
        ready.write_all(&[0]).map_err(|error| Error::from_os("starter", error))
    }
}
