//! Who serves a kind of devices: one process, never two.
//!
//! Whoever serves holds a lock on a file that is named after what it serves. The kernel drops the lock of a process that
//! was killed; one that ends orderly removes the file as well.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::PathBuf,
    process, thread,
    time::Duration,
};

use block_core::{Error, Result, ResultExt};
use control_api::RunDir;
use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
    process::{Pid, test_kill_process},
};
use xen::DomainId;

/// One that was killed while it started another program leaves the lock to that for a moment, until it becomes the program.
const LOOKS_MAX: u32 = 2000;
const LOOK_PAUSE: Duration = Duration::from_millis(5);

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
        let mut looks = 0..LOOKS_MAX;
        loop {
            let mut options = OpenOptions::new();
            let options = options.read(true).write(true).create(true).truncate(false).mode(0o644);
            let mut file = options.open(&path).context(path.display())?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => {
                    let (pid, error) = taken(&mut file, kind);
                    if pid.is_some_and(is_running) || looks.next().is_none() {
                        return Err(error);
                    }
                    thread::sleep(LOOK_PAUSE);
                    continue;
                }
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

/// Who has it, and how that is told.
fn taken(file: &mut File, kind: &str) -> (Option<Pid>, Error) {
    let mut text = String::new();
    let _ = file.rewind().and_then(|()| file.read_to_string(&mut text));
    let error = Error::from_os(format!("another process serves {kind} already: {text}"), Errno::BUSY.into());
    (text.trim().parse().ok().and_then(Pid::from_raw), error)
}

fn is_running(pid: Pid) -> bool {
    test_kill_process(pid) != Err(Errno::SRCH)
}

#[cfg(test)]
mod tests {
    use control_api::errno;

    use super::*;

    #[test]
    fn a_program_that_a_killed_one_was_about_to_start_has_its_lock_for_a_moment() {
        let directory = tempfile::tempdir().unwrap();
        let mut dead = std::process::Command::new("true").spawn().unwrap();
        dead.wait().unwrap();
        let path = directory.path().join("tapback.vbd3");
        fs::write(&path, dead.id().to_string()).unwrap();
        let file = File::open(&path).unwrap();
        flock(&file, FlockOperation::LockExclusive).unwrap();
        let letting_go = thread::spawn(move || {
            thread::sleep(Duration::from_millis(50));
            drop(file);
        });
        Seat::take(&RunDir::at(directory.path()), "vbd3", None).unwrap();
        letting_go.join().unwrap();
    }

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
