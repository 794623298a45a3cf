//! Hosts without Xen, each of several processes: memory and XenStore, tapback, and the tapdisks of its disks.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use block_core::{Result, ResultExt};
use control_api::{Client, Minor, RunDir};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::place::{Place, failed, ours, said_by};

/// How long a program may take to come up, or to end when it is told to. A hang limit.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK_PAUSE: Duration = Duration::from_millis(2);
/// The guest's domain, on whichever host it is.
pub(super) const DOMAIN: u16 = 1;
/// The guest's disk.
pub(super) const DISK: &str = "xvda";

/// A host. Dropping it ends all of its processes.
pub(super) struct Host {
    pub(super) directory: PathBuf,
    pub(super) run: RunDir,
    machine: Process,
    tapback: Option<Process>,
}

/// Which tapdisk serves a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Serving {
    pub(super) pid: u32,
    pub(super) minor: Minor,
}

impl Host {
    /// Starts memory, XenStore and tapback in a directory of this name.
    pub(super) fn start(place: &Place, name: &str) -> Result<Host> {
        let directory = place.file(name);
        let run = RunDir::at(directory.join("run"));
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["hosted", "run", "--no-backend"]).arg(&directory);
        let machine = Process::start(&mut command, &run, &place.file(&format!("{name}.log")))?;
        let mut host = Host { directory, run, machine, tapback: None };
        let socket = host.directory.join("socket");
        host.machine.until("does not listen", || socket.exists())?;
        host.start_tapback()?;
        Ok(host)
    }

    pub(super) fn start_tapback(&mut self) -> Result<()> {
        let mut command = Command::new(ours("tapback"));
        command.arg("-d").env("OXTAP_XEN", self.platform());
        let log = self.directory.with_extension("tapback.log");
        self.tapback = Some(Process::start(&mut command, &self.run, &log)?);
        Ok(())
    }

    /// As when memory is short: it has no time for anything.
    pub(super) fn kill_tapback(&mut self) -> Result<()> {
        let Some(mut tapback) = self.tapback.take() else { return Ok(()) };
        tapback.child.kill()?;
        tapback.child.wait()?;
        Ok(())
    }

    fn platform(&self) -> String {
        format!("hosted:{}", self.directory.display())
    }

    /// What this program is told about the host; to be run, perhaps elsewhere.
    pub(super) fn oxtap(&self, words: &[&str]) -> Result<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(words).env("OXTAP_RUN_DIR", self.run.path()).env("XENSTORED_PATH", self.directory.join("socket"));
        Ok(command)
    }

    pub(super) fn name(&self) -> String {
        self.directory.display().to_string()
    }

    /// The toolstack gives the guest a disk.
    pub(super) fn add_disk(&self, image: &Path) -> Result<Serving> {
        Host::serving(&said_by(&mut self.adding(image)?)?)
    }

    /// The command that does so; [`serving`](Self::serving) reads what it says.
    pub(super) fn adding(&self, image: &Path) -> Result<Command> {
        let image = format!("vhd:{}", image.display());
        self.oxtap(&["hosted", "add-disk", "--json", &self.name(), &DOMAIN.to_string(), DISK, &image])
    }

    pub(super) fn serving(told: &str) -> Result<Serving> {
        let told: Value = serde_json::from_str(told).map_err(|error| failed(format!("add-disk: {error}")))?;
        let number = |name: &str| told[name].as_u64().and_then(|number| u32::try_from(number).ok());
        let minor = number("minor").and_then(|minor| Minor::new(u16::try_from(minor).ok()?));
        let serving = number("pid").zip(minor).map(|(pid, minor)| Serving { pid, minor });
        serving.ok_or_else(|| failed("add-disk does not say who serves the disk"))
    }

    /// The control client of a tapdisk, as storage managers use it.
    pub(super) fn client(&self, serving: Serving) -> Client {
        Client::new(&self.run, serving.pid)
    }

    /// Whether nothing is left of disks and domains.
    pub(super) fn check(&self) -> Result<()> {
        let said = said_by(&mut self.oxtap(&["doctor"])?)?;
        match said.lines().last() {
            Some("nothing to repair") => Ok(()),
            _ => Err(failed(format!("oxtap doctor: {said}"))),
        }
    }

    /// Ends it, tapback first.
    pub(super) fn end(mut self) -> Result<()> {
        if let Some(tapback) = self.tapback.take() {
            tapback.end()?;
        }
        self.machine.end()
    }
}

/// A program of ours. Dropping it ends it.
struct Process {
    name: String,
    child: Child,
}

impl Process {
    fn start(command: &mut Command, run: &RunDir, log: &Path) -> Result<Process> {
        let log = File::create(log).context(log.display())?;
        command.env("OXTAP_RUN_DIR", run.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let name = command.get_program().to_string_lossy().into_owned();
        let child = command.spawn().context(&name)?;
        Ok(Process { name, child })
    }

    /// Waits for something that only a running program can do.
    fn until(&mut self, complaint: &str, is_so: impl Fn() -> bool) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !is_so() {
            if let Some(status) = self.child.try_wait()? {
                return Err(failed(format!("{} has ended: {status}", self.name)));
            }
            if Instant::now() > deadline {
                return Err(failed(format!("{} {complaint}", self.name)));
            }
            thread::sleep(LOOK_PAUSE);
        }
        Ok(())
    }

    fn end(mut self) -> Result<()> {
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let deadline = Instant::now() + PATIENCE;
        while self.child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                return Err(failed(format!("{} does not end", self.name)));
            }
            thread::sleep(LOOK_PAUSE);
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
            let deadline = Instant::now() + PATIENCE;
            while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
                thread::sleep(LOOK_PAUSE);
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
