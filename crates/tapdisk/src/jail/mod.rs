//! The jail: what the process gives up before it listens to anybody, so that whoever takes it over by a crafted image or
//! request holds a process that can serve these images and do little else.
//!
//! ```text
//!   one thread --> capabilities --> directories (landlock) --> system calls (seccomp) --> all other threads
//! ```
//!
//! All of it belongs to a thread and is inherited by those that it starts: so it is done before the first one. What was
//! asked for (`OXTAP_IMAGE_DIRS`) must hold, or the process does not start; what is done unasked holds as far as this
//! kernel knows it, and the rest is told.

mod capabilities;
mod directories;
mod filter;

use std::{
    env,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    rc::Rc,
};

use block_core::{Error, ErrorKind, Result, ResultExt};
use control_api::{RunDir, leased_directories};
use rustix::thread::set_no_new_privs;
use storage_io::{LeasedFiles, Opener};

use directories::{Confined, Directories};

/// Names the directories that images are in.
pub(crate) const DIRECTORIES_VARIABLE: &str = "OXTAP_IMAGE_DIRS";

/// What this process will be locked into.
#[derive(Clone, Debug)]
pub(crate) struct Jail {
    is_wanted: bool,
    directories: Option<Directories>,
    /// Where writers of images have leases.
    files: LeasedFiles,
}

impl Jail {
    /// What the environment asks for; nothing at all if the command line says so, which cannot be both. A relative directory is meant from
    /// here, so this comes before a daemon moves to `/`.
    ///
    /// # Errors
    /// A directory without a name; directories, and no jail.
    pub(crate) fn from_environment(is_wanted: bool) -> Result<Jail> {
        let named = env::var_os(DIRECTORIES_VARIABLE).filter(|value| !value.is_empty());
        if named.is_some() && !is_wanted {
            let words = format!("{DIRECTORIES_VARIABLE} and --no-jail contradict each other");
            return Err(Error::new(ErrorKind::Invalid, words));
        }
        let leased = leased_directories();
        let directories = named.as_deref().map(|named| parse(named, &leased)).transpose()?;
        Ok(Jail { is_wanted, directories, files: LeasedFiles::new(&leased) })
    }

    /// Locks the process in: this thread, and all that it will start. Gives what it does without, in words.
    ///
    /// # Errors
    /// What was asked for cannot be had.
    pub(crate) fn enter(&self, run: &RunDir, pid: u32) -> Result<Vec<String>> {
        if !self.is_wanted {
            return Ok(vec!["no jail, as told by --no-jail".to_owned()]);
        }
        require_single_thread()?;
        capabilities::give_up().context("capabilities")?;
        set_no_new_privs(true).map_err(std::io::Error::from).context("no_new_privs")?;
        let mut missing = Vec::new();
        if let Some(directories) = &self.directories {
            missing.extend(directories.enter(run, pid)?);
        }
        match filter::enter(pid) {
            Err(error) if self.directories.is_some() => return Err(error),
            Err(error) => missing.push(error.to_string()),
            Ok(()) => {}
        }
        Ok(missing)
    }

    /// Opens what may be opened in here, and says of the rest why not.
    pub(crate) fn opener(&self) -> Rc<dyn Opener> {
        let files = Rc::new(self.files.clone());
        match &self.directories {
            Some(directories) => Rc::new(Confined::new(files, directories)),
            None => files,
        }
    }
}

fn parse(named: &OsStr, leased: &[PathBuf]) -> Result<Directories> {
    let directories = env::split_paths(named).map(|directory| match directory.as_os_str().is_empty() {
        true => Err(Error::new(ErrorKind::Invalid, format!("{DIRECTORIES_VARIABLE}: a directory without a name"))),
        false => std::path::absolute(&directory).context(directory.display()),
    });
    Ok(Directories::new(directories.collect::<Result<_>>()?, leased.to_vec()))
}

/// A thread that was started before would stay outside. Without `/proc` nobody can tell.
fn require_single_thread() -> Result<()> {
    let count = fs::read_dir(Path::new("/proc/self/task")).map_or(1, Iterator::count);
    assert!(count == 1, "the jail is entered by the only thread, not by one of {count}");
    Ok(())
}
