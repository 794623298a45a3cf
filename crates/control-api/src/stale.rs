//! What processes that were killed have left: sockets and statistics under the name of a process that is no more.
//!
//! A process is believed to be gone only if there is none of this id *and* nobody listens on its control socket: the
//! run directory may be shared with containers that number their processes differently. Looking, removing and the making
//! of one's own control socket happen under a lock on the run directory, so that nobody removes the socket of a process
//! that has just been born under an old number.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant, SystemTime},
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with},
    process::{Pid, test_kill_process},
};

use crate::{OwnDirectory, RingRecords, RunDir};

/// The lock is held for milliseconds; whoever waits longer does without cleaning.
const TURN_WAIT_MAX: Duration = Duration::from_secs(5);

/// Somebody comes for a record of a ring soon after its tapdisk has gone, unless the guest has gone as well.
const RECORD_AGE_MAX: Duration = Duration::from_secs(24 * 3600);

/// What comes before a process id in the name of a socket.
const PREFIXES: [&str; 7] = ["ctl", "oxtap", "nbdclient", "nbdserver-new", "nbdserver", "nbd-old", "nbd"];

/// The turn to change what lies in the run directory; dropping it ends the turn.
#[derive(Debug)]
pub struct Turn {
    _directory: File,
    is_ours: bool,
}

impl Turn {
    /// Waits for the turn, in bounded time.
    ///
    /// # Errors
    /// There is no run directory.
    pub fn wait(run: &RunDir) -> std::io::Result<Turn> {
        let directory = File::open(run.path())?;
        let deadline = Instant::now() + TURN_WAIT_MAX;
        loop {
            match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
                Err(Errno::WOULDBLOCK | Errno::INTR) if Instant::now() < deadline => {
                    thread::sleep(Duration::from_millis(5));
                }
                // A file system without locks: then nothing is removed.
                result => return Ok(Turn { _directory: directory, is_ours: result.is_ok() }),
            }
        }
    }

    /// Removes what the dead have left, and what a dead process of our own number has if we are to have one. Gives their
    /// numbers.
    pub fn clean(&self, run: &RunDir, ours: Option<u32>) -> Vec<u32> {
        let mut cleaned = Vec::new();
        if !self.is_ours {
            return cleaned;
        }
        RingRecords::new(run).clean(RECORD_AGE_MAX, SystemTime::now());
        for (pid, paths) in sockets(run.path()) {
            if Some(pid) == ours || is_gone(run, pid) {
                // The control socket goes last, by which the rest is found.
                paths.iter().rev().for_each(|path| drop(fs::remove_file(path)));
                remove_statistics(&run.shared_memory(pid));
                remove_metrics(&run.metrics(), pid);
                cleaned.push(pid);
            }
        }
        cleaned
    }
}

/// Processes that are no more and have left something, and how many sockets each. It is there to be seen, and may go any moment
/// with the start of another.
pub fn left_by_the_dead(run: &RunDir) -> BTreeMap<u32, usize> {
    let all = sockets(run.path()).into_iter().filter(|(pid, _)| is_gone(run, *pid));
    all.map(|(pid, paths)| (pid, paths.len())).collect()
}

/// Removes a directory of statistics and the files in it, if it is ours.
pub fn remove_statistics(path: &Path) {
    // What cannot be removed is not worth more than the next process's attempt.
    if let Ok(ours) = OwnDirectory::open(path) {
        let _ = ours.remove_all("").and_then(|()| fs::remove_dir(path));
    }
}

/// Removes the metrics pages of a process, which may be gone.
pub fn remove_metrics(directory: &Path, pid: u32) {
    if let Ok(ours) = OwnDirectory::open(directory) {
        let _ = ours.remove_all(&format!("tap-{pid}-"));
    }
}

/// The sockets of every process that has a control socket, that one first.
pub fn sockets(directory: &Path) -> BTreeMap<u32, Vec<PathBuf>> {
    let mut all: BTreeMap<u32, Vec<PathBuf>> = BTreeMap::new();
    let Ok(entries) = fs::read_dir(directory) else { return all };
    for entry in entries.flatten() {
        let is_socket = entry.file_type().is_ok_and(|kind| kind.is_socket());
        let name = entry.file_name();
        if let Some(pid) = name.to_str().filter(|_| is_socket).and_then(owner) {
            all.entry(pid).or_default().push(entry.path());
        }
    }
    let is_control = |path: &PathBuf| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"ctl"));
    for paths in all.values_mut() {
        paths.sort_by_key(|path| !is_control(path));
    }
    all.retain(|_, paths| is_control(&paths[0]));
    all
}

/// Whose socket a name says that it is: `<prefix><pid>`, or `<prefix><pid>.<minor>`.
fn owner(name: &str) -> Option<u32> {
    let rest = PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix))?;
    let (pid, minor) = rest.split_once('.').unwrap_or((rest, "0"));
    minor.parse::<u32>().ok()?;
    pid.parse().ok()
}

fn is_gone(run: &RunDir, pid: u32) -> bool {
    !exists(pid) && refuses(&run.control_socket(pid))
}

/// Whether there is such a process. One that has ended and was not waited for yet is none; one that we may not signal is.
pub fn exists(pid: u32) -> bool {
    let number = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let is_known = number.is_some_and(|pid| test_kill_process(pid) != Err(Errno::SRCH));
    let state = || {
        let line = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        line.rsplit_once(") ")?.1.chars().next()
    };
    is_known && !matches!(state(), Some('Z' | 'X'))
}

/// Whether nobody listens.
fn refuses(path: &Path) -> bool {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let Ok(socket) = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None) else { return false };
    let Ok(address) = SocketAddrUnix::new(path) else { return false };
    connect(&socket, &address) == Err(Errno::CONNREFUSED)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    /// Larger than any process id can be.
    const NOBODY: u32 = 1 << 30;

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn names_tell_their_owner() {
        let owners =
            ["ctl12", "oxtap12", "nbdclient12", "nbd12.3", "nbd-old12.3", "nbdserver12.3", "nbdserver-new12.3"];
        assert!(owners.iter().all(|name| owner(name) == Some(12)));
        assert!(["tapdisk", "nbd", "nbd12.x", "nbd/12", "ctl-12", "ctlx"].iter().all(|name| owner(name).is_none()));
    }

    #[test]
    fn only_what_the_dead_have_left_is_removed() {
        let place = tempfile::tempdir().unwrap();
        let run = RunDir::at(place.path().join("run"));
        fs::create_dir_all(run.markers()).unwrap();
        let bind = |name: String| UnixListener::bind(run.path().join(name)).unwrap();
        // Dead; alive by its process; alive by its socket, in another container.
        let left: Vec<_> = ["ctl", "oxtap", "nbdclient"].map(|prefix| bind(format!("{prefix}{NOBODY}"))).into();
        drop((left, bind(format!("nbd{NOBODY}.3")), bind("ctl1".into())));
        let _listening = bind(format!("ctl{}", NOBODY + 1));
        fs::create_dir_all(run.shared_memory(NOBODY)).unwrap();
        fs::write(run.shared_memory(NOBODY).join("vdi-3"), "").unwrap();
        fs::write(run.path().join(format!("ctl{}", NOBODY + 2)), "no socket").unwrap();

        assert_eq!(left_by_the_dead(&run), [(NOBODY, 4)].into());
        let cleaned = Turn::wait(&run).unwrap().clean(&run, Some(4711));
        assert_eq!(cleaned, [NOBODY]);
        let kept = [format!("ctl{}", NOBODY + 1), format!("ctl{}", NOBODY + 2), "ctl1".into(), "tapdisk".into()];
        let mut kept = kept.to_vec();
        kept.sort();
        assert_eq!(names(run.path()), kept);
        assert!(!run.shared_memory(NOBODY).exists() && left_by_the_dead(&run).is_empty());
    }

    #[test]
    fn what_a_predecessor_of_our_own_number_left_is_removed() {
        let place = tempfile::tempdir().unwrap();
        let run = RunDir::at(place.path());
        drop((UnixListener::bind(run.control_socket(1)).unwrap(), UnixListener::bind(place.path().join("nbd1.0"))));
        assert_eq!(Turn::wait(&run).unwrap().clean(&run, Some(1)), [1]);
        assert_eq!(names(place.path()), [] as [&str; 0]);
    }
}
