//! A copy of the tree in which things may be broken.
//!
//! It stays where it is between runs, and only files that differ are written: cargo then rebuilds only what changed.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process_group};
use test_support::{SKIPS_VARIABLE, recorded_skips};

use super::verdict::Verdict;
use crate::workspace::Workspace;

/// A test that takes longer has not noticed that something is wrong. Generous: CI machines are small.
const TEST_LIMIT: Duration = Duration::from_secs(15 * 60);

/// The copy, and where it is built.
pub(crate) struct TreeCopy {
    directory: PathBuf,
    tree: PathBuf,
}

impl TreeCopy {
    pub(crate) fn new(directory: &Path) -> TreeCopy {
        TreeCopy { directory: directory.to_path_buf(), tree: directory.join("tree") }
    }

    /// Where the output of a test goes.
    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.log"))
    }

    /// Makes the copy equal to the tree.
    pub(crate) fn put_right(&self, workspace: &Workspace) -> Result<()> {
        let files = workspace.files()?;
        for path in &files {
            copy_if_different(&workspace.root.join(path), &self.tree.join(path))
                .with_context(|| format!("cannot copy {path}"))?;
        }
        let wanted = files.iter().map(|path| self.tree.join(path)).collect();
        remove_others(&self.tree, &wanted).context("cannot clear the copy")
    }

    /// Applies a patch to the copy, exactly: a patch that has gone stale is an error.
    pub(crate) fn apply(&self, patch: &Path) -> Result<()> {
        let mut git = Command::new("git");
        // The copy lies in an ignored directory of a repository; it must not be taken for a part of it.
        git.env("GIT_CEILING_DIRECTORIES", &self.directory).current_dir(&self.tree);
        let output = git.args(["apply", "--whitespace=nowarn"]).arg(patch).output().context("cannot start git")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{}", said.trim().replace('\n', "; "));
        Ok(())
    }

    /// Builds and runs a test in the copy.
    pub(crate) fn run_test(&self, name: &str, test: &[String], build: Option<&[String]>) -> Result<Verdict> {
        let log = File::create(self.log(name)).context("cannot write the log of a mutant")?;
        if let Some(build) = build
            && !self.cargo(&log, "build", build)?.status()?.success()
        {
            return Ok(Verdict::NotCompiled);
        }
        let mut compile = self.cargo(&log, "test", &["--no-run".to_owned()])?;
        if !compile.args(test).status()?.success() {
            return Ok(Verdict::NotCompiled);
        }
        let skips = self.directory.join("skips");
        fs::write(&skips, "")?;
        let mut run = self.cargo(&log, "test", test)?;
        // A group of its own: when it hangs, what it started goes with it.
        let child = run.env(SKIPS_VARIABLE, &skips).process_group(0).spawn().context("cannot start cargo")?;
        let Some(succeeded) = wait_with_limit(child)? else {
            return Ok(Verdict::Hung);
        };
        let output = String::from_utf8_lossy(&fs::read(self.log(name))?).into_owned();
        let skip = recorded_skips(&skips)?.pop().map(|skip| skip.reason);
        Ok(Verdict::of_run(&output, succeeded, skip))
    }

    fn cargo(&self, log: &File, command: &str, arguments: &[String]) -> Result<Command> {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.arg(command).args(arguments).current_dir(&self.tree);
        cargo
            .env("CARGO_TARGET_DIR", self.directory.join("build"))
            .env_remove("OXTAP_PROGRAMS")
            .env_remove("OXTAP_SEED")
            // Always the same, so that a defect that was noticed once is noticed always.
            .env("OXTAP_FRESH_SEED", "1")
            .env_remove("OXTAP_LONG");
        cargo.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log.try_clone()?);
        Ok(cargo)
    }
}

/// Whether the process succeeded; nothing if it did not end in time and was killed.
fn wait_with_limit(mut child: Child) -> Result<Option<bool>> {
    let deadline = Instant::now() + TEST_LIMIT;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status.success()));
        }
        if Instant::now() > deadline {
            // The group is ours: it was made for this child, which has not been waited for.
            let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("a child has an id")?;
            kill_process_group(group, Signal::KILL).context("cannot end a test that hangs")?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn copy_if_different(from: &Path, to: &Path) -> Result<()> {
    if to.is_file() && fs::read(from)? == fs::read(to)? {
        return Ok(());
    }
    fs::create_dir_all(to.parent().context("a file lies in a directory")?)?;
    // Not fs::copy: the time of the copy must be now, or cargo would not see the change.
    fs::write(to, fs::read(from)?)?;
    fs::set_permissions(to, from.metadata()?.permissions())?;
    Ok(())
}

/// Removes the files below `directory` that are not wanted.
fn remove_others(directory: &Path, wanted: &BTreeSet<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_others(&entry.path(), wanted)?;
        } else if !wanted.contains(&entry.path()) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_copy_is_written_only_where_it_differs() {
        let place = tempfile::tempdir().unwrap();
        let (from, to) = (place.path().join("from"), place.path().join("tree/a/to"));
        fs::write(&from, "one").unwrap();
        copy_if_different(&from, &to).unwrap();
        assert_eq!(fs::read(&to).unwrap(), b"one");
        let written = to.metadata().unwrap().modified().unwrap();
        copy_if_different(&from, &to).unwrap();
        assert_eq!(to.metadata().unwrap().modified().unwrap(), written);
        fs::write(&from, "two").unwrap();
        copy_if_different(&from, &to).unwrap();
        assert_eq!(fs::read(&to).unwrap(), b"two");
    }

    #[test]
    fn what_the_tree_does_not_have_is_removed() {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir(place.path().join("a")).unwrap();
        for name in ["a/kept", "a/new"] {
            fs::write(place.path().join(name), "").unwrap();
        }
        remove_others(place.path(), &BTreeSet::from([place.path().join("a/kept")])).unwrap();
        assert!(place.path().join("a/kept").exists() && !place.path().join("a/new").exists());
    }
}
