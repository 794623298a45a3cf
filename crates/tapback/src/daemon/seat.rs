//! Who serves a kind of devices: one process, never two.
//!
//! Whoever serves holds a lock on a file that is named after what it serves. The kernel drops the lock of a process that
//! was killed; one that ends orderly removes the file as well.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::PathBuf,
    process,
};

use block_core::{Error, Result, ResultExt};
use control_api::RunDir;
use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};
use xen::DomainId;

/// The right to serve; it ends when this is dropped, or the process does.
#[derive(Debug)]
pub(super) struct Seat {
    path: PathBuf,
    _file: File,
}

impl Seat {
    /// Takes the right to serve a kind of devices, of all guests or of one.
    pub(super) fn take(run: &RunDir, kind: &str, domain: Option<DomainId>) -> Result<Seat> {
        let guest = domain.map_or_else(String::new, |domain| format!(".{domain}"));
        let path = run.path().join(format!("tapback.{kind}{guest}"));
        loop {
            let mut options = OpenOptions::new();
            let options = options.read(true).write(true).create(true).truncate(false).mode(0o644);
            let mut file = options.open(&path).context(path.display())?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Err(taken(&mut file, kind)),
                Err(error) => return Err(io::Error::from(error)).context(path.display()),
            }
            // Between opening and locking, whoever held it may have ended and removed the file.
            if file.metadata().context(path.display())?.nlink() > 0 {
                file.set_len(0).and_then(|()| write!(file, "{}", process::id())).context(path.display())?;
                return Ok(Seat { path, _file: file });
            }
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        // While the lock is held: nobody else's file goes.
        let _ = fs::remove_file(&self.path);
    }
}

fn taken(file: &mut File, kind: &str) -> Error {
    let mut pid = String::new();
    let _ = file.rewind().and_then(|()| file.read_to_string(&mut pid));
    Error::from_os(format!("another process serves {kind} already: {pid}"), Errno::BUSY.into())
}

#[cfg(test)]
mod tests {
    use control_api::errno;

    use super::*;

    #[test]
    fn a_kind_is_served_by_one_process() {
        let directory = tempfile::tempdir().unwrap();
        let run = RunDir::at(directory.path());
        let seat = Seat::take(&run, "vbd3", None).unwrap();
        let refused = Seat::take(&run, "vbd3", None).unwrap_err();
        assert_eq!((errno(&refused), refused.to_string().contains(&process::id().to_string())), (16, true));
        let others = (Seat::take(&run, "vbd", None).unwrap(), Seat::take(&run, "vbd3", Some(DomainId(7))).unwrap());
        drop((seat, others));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        Seat::take(&run, "vbd3", None).unwrap();
    }
}
