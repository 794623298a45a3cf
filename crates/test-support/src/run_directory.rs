//! A private place for the programs of one test.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use std::{env, fs, io, thread};

use tempfile::TempDir;

use crate::process::ProcessGuard;
use crate::program::{program_directory, target_program};

const VARIABLE: &str = "OXTAP_RUN_DIR";
/// Where programs find the host's log: nobody listens there, unless the test does.
const SYSLOG_VARIABLE: &str = "OXTAP_SYSLOG";

/// A temporary directory with a run directory in it, which replaces the host's for every program started through it.
///
/// ```text
///   /tmp/oxtap-x8Yz2Q/          scratch(): images and whatever else the test makes
///   +-- run/                    path(), OXTAP_RUN_DIR: sockets and tapdisk/ (markers)
///   +-- run.shm/                made by the programs: shared memory
///   +-- run.log/                made by the programs: logs
/// ```
///
/// When it goes out of scope, the processes that still run with this directory are killed, and it is removed.
#[derive(Debug)]
pub struct RunDirectory {
    scratch: TempDir,
    run: PathBuf,
}

impl Default for RunDirectory {
    fn default() -> RunDirectory {
        RunDirectory::new()
    }
}

impl RunDirectory {
    /// Makes a fresh one.
    ///
    /// # Panics
    ///
    /// If the temporary directory cannot be made.
    pub fn new() -> RunDirectory {
        let scratch = tempfile::Builder::new().prefix("oxtap-").tempdir().expect("cannot make a temporary directory");
        let run = scratch.path().join("run");
        fs::create_dir(&run).expect("cannot make the run directory");
        RunDirectory { scratch, run }
    }

    /// The run directory itself.
    pub fn path(&self) -> &Path {
        &self.run
    }

    /// A directory for images and other files of the test.
    pub fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    /// Where the programs look for a syslog daemon.
    pub fn syslog(&self) -> PathBuf {
        self.scratch().join("syslog")
    }

    /// A command that runs one of our programs in this place.
    pub fn program(&self, name: &str) -> Command {
        self.command(target_program(name))
    }

    /// A command that runs anything in this place, with our programs first in the search path.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let path = env::var_os("PATH").unwrap_or_default();
        let directories = std::iter::once(program_directory()).chain(env::split_paths(&path));
        let path = env::join_paths(directories).expect("the parts of a search path join again");
        let mut command = Command::new(program);
        command.env(VARIABLE, &self.run).env(SYSLOG_VARIABLE, self.syslog()).env_remove("OXTAP_JOURNAL");
        command.env("PATH", path).env_remove("TAPDISK").env_remove("TAPDISK2");
        command
    }

    /// The processes that run with this directory in their environment, whoever started them.
    pub fn processes(&self) -> io::Result<Vec<ProcessGuard>> {
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            // The descriptor first, the question second: the answer is then about the process that we hold.
            let Ok(guard) = ProcessGuard::new(pid) else { continue };
            if self.is_environment_of(pid) {
                found.push(guard);
            } else {
                guard.release();
            }
        }
        Ok(found)
    }

    fn is_environment_of(&self, pid: u32) -> bool {
        let expected = [VARIABLE.as_bytes(), b"=", self.run.as_os_str().as_encoded_bytes()].concat();
        fs::read(format!("/proc/{pid}/environ"))
            .is_ok_and(|environment| environment.split(|&byte| byte == 0).any(|variable| variable == expected))
    }

    /// What is left of the programs: processes, sockets, markers, shared memory. Empty when all went well.
    pub fn leftovers(&self) -> io::Result<Vec<String>> {
        let mut left = Vec::new();
        for guard in self.processes()? {
            left.push(format!("process {}", guard.pid()));
            guard.release();
        }
        left.extend(files_below(&self.run)?);
        left.extend(files_below(&self.scratch.path().join("run.shm"))?);
        Ok(left)
    }

    /// Asserts that nothing is left, after giving processes that are about to end the time to do so.
    ///
    /// # Panics
    ///
    /// If something is left; the message lists it.
    pub fn assert_nothing_left(&self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let left = self.leftovers().expect("cannot look for leftovers");
            if left.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "left behind: {}", left.join(", "));
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for RunDirectory {
    fn drop(&mut self) {
        // The guards kill as they go. One that forks while we look is caught by the next round.
        for _ in 0..10 {
            match self.processes() {
                Ok(processes) if !processes.is_empty() => drop(processes),
                _ => break,
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Every file below `directory` that is not a directory; none if there is no such directory.
fn files_below(directory: &Path) -> io::Result<Vec<String>> {
    let mut files = Vec::new();
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(files),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            files.extend(files_below(&entry.path())?);
        } else {
            files.push(entry.path().display().to_string());
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_or_lies_in_the_place_is_a_leftover() {
        let place = RunDirectory::new();
        let mut child = place.command("sleep").arg("60").spawn().unwrap();
        fs::create_dir(place.path().join("tapdisk")).unwrap();
        fs::write(place.path().join("tapdisk").join("tapdisk-0"), "").unwrap();
        // The environment is visible only after exec, which spawn has waited for.
        let left = place.leftovers().unwrap();
        assert_eq!(left[0], format!("process {}", child.id()));
        assert!(left[1].ends_with("tapdisk/tapdisk-0"), "{left:?}");
        assert_eq!(left.len(), 2);
        child.kill().unwrap();
        child.wait().unwrap();
        fs::remove_file(place.path().join("tapdisk").join("tapdisk-0")).unwrap();
        place.assert_nothing_left();
    }

    #[test]
    fn a_forgotten_process_ends_with_its_place() {
        let place = RunDirectory::new();
        let mut child = place.command("sleep").arg("60").spawn().unwrap();
        let path = place.scratch().to_path_buf();
        drop(place);
        assert!(!child.wait().unwrap().success());
        assert!(!path.exists());
    }
}
