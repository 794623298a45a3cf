//! Minors: the numbers that name disks in a host, and the marker files that stand for them.
//!
//! ```text
//!   free --allocate: marker made--> allocated --attach: marker locked--> held by a tapdisk
//!     ^                                |   ^                                    |
//!     +-----free: marker removed-------+   +----detach, or the process ends-----+
//! ```
//!
//! Allocating and freeing hold a lock on the directory of markers, so that they happen one after the other. Attaching
//! locks the marker itself and never waits for it. The kernel lets go of a dead process's lock.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::Path,
};

use block_core::{Error, Result, ResultExt};
use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

use crate::{Owner, RunDir, paths::numbers_behind};

/// How many minors a host has.
pub const MINORS: u16 = 16384;

/// The number that names a disk in a host. It fits the protocol's 16-bit cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Minor(u16);

impl Minor {
    /// The minor of this number, if it is one.
    pub fn new(number: u16) -> Option<Minor> {
        (number < MINORS).then_some(Minor(number))
    }

    /// Its number.
    pub fn number(self) -> u16 {
        self.0
    }
}

impl fmt::Display for Minor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl RunDir {
    /// Reserves the lowest free minor.
    pub fn allocate_minor(&self) -> Result<Minor> {
        self.allocate_minor_for("")
    }

    /// As [`allocate_minor`](Self::allocate_minor), and writes down for whom: the marker says so until it is freed.
    pub fn allocate_minor_for(&self, owner: &str) -> Result<Minor> {
        let owner: Owner = if owner.is_empty() { Owner::Storage } else { owner.parse()? };
        let _turn = self.lock_markers()?;
        let used = self.minors()?;
        // They are ascending and differ, so the first that is not at its own place comes after a gap.
        let lowest = (0..MINORS).zip(&used).take_while(|(place, minor)| minor.0 == *place).count();
        let minor = u16::try_from(lowest).ok().and_then(Minor::new);
        let minor = minor.ok_or_else(|| os("all minors are in use", Errno::NOSPC))?;
        let path = self.marker(minor);
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).context(path.display())?;
        // A disk that nobody would take away must not be made for a script.
        let kept = self.change_minor_record(minor, |record| record.owner = owner);
        kept.inspect_err(|_| drop(fs::remove_file(&path)))?;
        Ok(minor)
    }

    /// For whom a minor was reserved: empty if nobody said so, none if it is free.
    pub fn minor_owner(&self, minor: Minor) -> Result<Option<String>> {
        Ok(self.minors()?.contains(&minor).then(|| match self.minor_record(minor).owner {
            Owner::Storage => String::new(),
            owner => owner.to_string(),
        }))
    }

    /// Gives a minor back. One that a tapdisk holds, or that is not allocated, is an error.
    pub fn free_minor(&self, minor: Minor) -> Result<()> {
        let _turn = self.lock_markers()?;
        self.free_in_turn(minor)
    }

    /// As [`free_minor`](Self::free_minor), unless that has been done already and the minor is another disk's by now.
    pub fn free_marker(&self, marker: &Marker) -> Result<()> {
        let _turn = self.lock_markers()?;
        if self.is_marker(marker) { self.free_in_turn(marker.minor) } else { Ok(()) }
    }

    /// The marker of a minor as it is now; none if the minor is free. It tells disks apart that have the same number one after
    /// the other.
    pub fn open_marker(&self, minor: Minor) -> Result<Option<Marker>> {
        let path = self.marker(minor);
        match File::open(&path) {
            Ok(file) => Ok(Some(Marker { minor, file })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).context(path.display()),
        }
    }

    /// Whether the minor has not been freed since.
    pub fn is_marker(&self, marker: &Marker) -> bool {
        // While it is open, no other file gets its number.
        let number = |data: io::Result<fs::Metadata>| data.ok().map(|data| (data.dev(), data.ino()));
        let now = number(fs::symlink_metadata(self.marker(marker.minor)));
        now.is_some() && now == number(marker.file.metadata())
    }

    fn free_in_turn(&self, minor: Minor) -> Result<()> {
        let path = self.marker(minor);
        let marker = File::open(&path).context(path.display())?;
        match flock(&marker, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => fs::remove_file(&path).context(path.display()),
            Err(Errno::WOULDBLOCK) => Err(os(format!("minor {minor} is attached to a tapdisk"), Errno::AGAIN)),
            Err(error) => Err(os(path.display().to_string(), error)),
        }
    }

    /// The allocated minors, ascending.
    pub fn minors(&self) -> Result<Vec<Minor>> {
        let markers = self.markers();
        let numbers = numbers_behind(&markers, "tapdisk-").context(markers.display())?;
        Ok(numbers.into_iter().filter_map(|number| Minor::new(u16::try_from(number).ok()?)).collect())
    }

    /// Takes hold of an allocated minor. Never waits: one that somebody else holds is an error.
    pub fn hold_minor(&self, minor: Minor) -> Result<HeldMinor> {
        let path = self.marker(minor);
        let missing = || os(format!("minor {minor} is not allocated"), Errno::PERM);
        let marker = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(missing()),
            marker => marker.context(path.display())?,
        };
        match flock(&marker, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                return Err(os(format!("minor {minor} is held by another tapdisk"), Errno::BUSY));
            }
            Err(error) => return Err(os(path.display().to_string(), error)),
        }
        // Between opening and locking, somebody may have freed the minor: then this is the lock of a file without name.
        match marker.metadata().context(path.display())?.nlink() {
            0 => Err(missing()),
            _ => Ok(HeldMinor { minor, _marker: marker }),
        }
    }

    /// Makes the directory of markers if need be, and waits for the turn to change it.
    fn lock_markers(&self) -> Result<File> {
        let path = self.markers();
        make_directory(&path, 0o700).context(path.display())?;
        let directory = File::open(&path).context(path.display())?;
        loop {
            match flock(&directory, FlockOperation::LockExclusive) {
                Ok(()) => return Ok(directory),
                Err(Errno::INTR) => {}
                Err(error) => return Err(os(path.display().to_string(), error)),
            }
        }
    }
}

/// A minor as it was allocated once.
#[derive(Debug)]
pub struct Marker {
    minor: Minor,
    file: File,
}

impl Marker {
    /// Which one.
    pub fn minor(&self) -> Minor {
        self.minor
    }
}

/// A minor that this process holds; dropping it lets go.
#[derive(Debug)]
pub struct HeldMinor {
    minor: Minor,
    _marker: File,
}

impl HeldMinor {
    /// Which one.
    pub fn minor(&self) -> Minor {
        self.minor
    }
}

/// Makes a directory with this mode, its parents as anybody may enter them; one that exists is fine.
pub fn make_directory(path: &Path, mode: u32) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
    }
    fs::DirBuilder::new().recursive(true).mode(mode).create(path)
}

fn os(context: impl Into<std::borrow::Cow<'static, str>>, error: Errno) -> Error {
    Error::from_os(context, error.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::errno;

    struct Host {
        _directory: tempfile::TempDir,
        run: RunDir,
    }

    fn host() -> Host {
        let directory = tempfile::tempdir().unwrap();
        let run = RunDir::at(directory.path().join("run"));
        Host { _directory: directory, run }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn the_lowest_free_minor_is_handed_out() {
        let Host { _directory, run } = host();
        let first: Vec<_> = (0..3).map(|_| run.allocate_minor().unwrap().number()).collect();
        run.free_minor(Minor(1)).unwrap();
        assert_eq!((first, run.allocate_minor().unwrap()), (vec![0, 1, 2], Minor(1)));
        assert_eq!(run.minors().unwrap(), [Minor(0), Minor(1), Minor(2)]);
    }

    #[test]
    fn markers_are_private_and_lie_in_a_private_directory() {
        let Host { _directory, run } = host();
        let marker = run.marker(run.allocate_minor().unwrap());
        assert_eq!((mode(&run.markers()), mode(&marker)), (0o700, 0o600));
        assert_eq!(fs::metadata(marker).unwrap().len(), 0);
    }

    #[test]
    fn a_marker_says_for_whom_it_is() {
        let Host { _directory, run } = host();
        let (mine, nobodys) = (run.allocate_minor_for("hotplug:/a").unwrap(), run.allocate_minor().unwrap());
        assert_eq!(run.minor_owner(mine).unwrap().as_deref(), Some("hotplug:/a"));
        assert_eq!(run.minor_owner(nobodys).unwrap().as_deref(), Some(""));
        run.free_minor(mine).unwrap();
        assert_eq!(run.minor_owner(mine).unwrap(), None);
    }

    #[test]
    fn a_number_that_was_given_out_again_is_not_freed_by_who_knew_it_before() {
        let Host { _directory, run } = host();
        let minor = run.allocate_minor().unwrap();
        let [first, second] = [0, 1].map(|_| run.open_marker(minor).unwrap().unwrap());
        assert!(run.is_marker(&first));
        run.free_marker(&first).unwrap();
        assert_eq!(run.allocate_minor().unwrap(), minor);
        assert!(!run.is_marker(&second));
        run.free_marker(&second).unwrap();
        assert_eq!(run.minors().unwrap(), [minor], "it is another disk's");
        let now = run.open_marker(minor).unwrap().unwrap();
        run.free_marker(&now).unwrap();
        assert!(run.minors().unwrap().is_empty() && run.open_marker(minor).unwrap().is_none());
    }

    #[test]
    fn a_held_minor_is_neither_freed_nor_held_twice() {
        let Host { _directory, run } = host();
        let minor = run.allocate_minor().unwrap();
        let held = run.hold_minor(minor).unwrap();
        assert_eq!(errno(&run.free_minor(minor).unwrap_err()), 11);
        let error = run.hold_minor(minor).unwrap_err();
        assert_eq!((errno(&error), error.to_string().contains("held by another")), (16, true));
        drop(held);
        run.free_minor(minor).unwrap();
    }

    #[test]
    fn a_minor_that_is_not_allocated_is_told_apart() {
        let Host { _directory, run } = host();
        assert_eq!(errno(&run.free_minor(Minor(3)).unwrap_err()), 2);
        assert_eq!(errno(&run.hold_minor(Minor(3)).unwrap_err()), 1);
    }

    #[test]
    fn a_host_without_a_free_minor_says_so() {
        let Host { _directory, run } = host();
        fs::create_dir_all(run.markers()).unwrap();
        (0..MINORS).for_each(|number| fs::write(run.marker(Minor(number)), "").unwrap());
        assert_eq!(errno(&run.allocate_minor().unwrap_err()), 28);
        run.free_minor(Minor(9999)).unwrap();
        assert_eq!(run.allocate_minor().unwrap(), Minor(9999));
    }

    #[test]
    fn many_at_once_never_get_the_same_minor() {
        let Host { _directory, run } = host();
        let mut all = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| (0..20).map(|_| run.allocate_minor().unwrap()).collect::<Vec<_>>()))
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        all.sort_unstable();
        assert_eq!(all, (0..160).map(Minor).collect::<Vec<_>>());
    }
}
