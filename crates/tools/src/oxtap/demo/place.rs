//! The private directory of a demo, and a disk served in it.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use block_core::{Error, ErrorKind, Result, ResultExt};
use control_api::{Client, Minor, OpenRequest, RunDir, spawn};
use tempfile::TempDir;

/// How long a tapdisk may take to end after its last disk has gone. A hang limit.
const END_MAX: Duration = Duration::from_secs(20);

/// A directory that nobody else knows, with a run directory in it. Removed at the end, unless kept.
pub(super) struct Place {
    directory: TempDir,
    run: RunDir,
}

impl Place {
    pub(super) fn new() -> Result<Place> {
        let directory = tempfile::Builder::new().prefix("oxtap-demo-").tempdir().context("temporary directory")?;
        let run = RunDir::at(directory.path().join("run"));
        Ok(Place { directory, run })
    }

    pub(super) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Leaves it where it is.
    pub(super) fn keep(self) -> PathBuf {
        self.directory.keep()
    }

    /// Runs our own `vhd-util` here, the one beside this program.
    pub(super) fn vhd_util(&self, arguments: &[&str]) -> Result<String> {
        self.command(ours("vhd-util"), arguments)
    }

    /// Runs a program here; what it printed on stdout. Its failure is an error with what it printed.
    pub(super) fn command<S: AsRef<OsStr>>(&self, program: impl AsRef<OsStr>, arguments: &[S]) -> Result<String> {
        said_by(Command::new(program).args(arguments).current_dir(self.path()))
    }

    /// Whether the tapdisks that ran here took everything with them.
    pub(super) fn nothing_left(&self) -> Result<()> {
        let mut left: Vec<String> = Vec::new();
        left.extend(self.run.tapdisks().context("run directory")?.iter().map(|pid| format!("process {pid}")));
        left.extend(self.run.minors()?.iter().map(|minor| format!("minor {}", minor.number())));
        left.extend(files_below(self.run.path()));
        left.extend(files_below(self.run.shared_memory_root()));
        if left.is_empty() { Ok(()) } else { Err(failed(format!("left behind: {}", left.join(", ")))) }
    }
}

/// A program of this project: the one beside this one, if there is one.
pub(super) fn ours(name: &str) -> PathBuf {
    let beside = std::env::current_exe().ok().map(|ours| ours.with_file_name(name));
    beside.filter(|program| program.is_file()).unwrap_or_else(|| name.into())
}

/// Runs a command; what it printed on stdout. Its failure is an error with what it printed.
pub(super) fn said_by(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().context(&name)?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(stdout);
    }
    let said = format!("{stdout} {}", String::from_utf8_lossy(&output.stderr));
    Err(failed(format!("{name}: {}: {}", output.status, said.trim())))
}

pub(super) fn failed(words: impl Into<String>) -> Error {
    Error::new(ErrorKind::Mismatch, words.into())
}

fn files_below(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let files = entries.flat_map(|entry| {
        let path = entry.path();
        if path.is_dir() { files_below(&path) } else { vec![path.display().to_string()] }
    });
    files.collect()
}

/// An image served by a tapdisk of its own, through the control protocol from spawn to free.
pub(super) struct Served<'place> {
    place: &'place Place,
    pub(super) client: Client,
    pub(super) minor: Minor,
    pid: u32,
}

impl<'place> Served<'place> {
    pub(super) fn start(place: &'place Place, image: &str) -> Result<Served<'place>> {
        let minor = place.run.allocate_minor().context("allocating a minor")?;
        let mut spawned = spawn(&place.run).context("starting tapdisk")?;
        if spawned.child.id() != spawned.pid {
            // It has put the tapdisk into the background and ended.
            let _ = spawned.child.wait();
        }
        let client = Client::new(&place.run, spawned.pid);
        let served = Served { place, client, minor, pid: spawned.pid };
        served.client.attach(minor).context("attach")?;
        let name = format!("vhd:{}", place.file(image).display());
        served.client.open(minor, &OpenRequest::new(name)?).context("open")?;
        Ok(served)
    }

    /// Where it is served over NBD.
    pub(super) fn socket(&self) -> PathBuf {
        self.place.run.nbd_socket(self.pid, self.minor)
    }

    /// Close, detach, free, in this order; then the process must end.
    pub(super) fn end(self) -> Result<()> {
        self.client.close(self.minor).context("close")?;
        self.client.detach(self.minor).context("detach")?;
        let process = PathBuf::from(format!("/proc/{}", self.pid));
        let deadline = Instant::now() + END_MAX;
        while process.exists() {
            if Instant::now() > deadline {
                return Err(failed(format!("tapdisk {} still runs after its last disk has gone", self.pid)));
            }
            thread::sleep(Duration::from_millis(2));
        }
        self.place.run.free_minor(self.minor).context("free")
    }
}
