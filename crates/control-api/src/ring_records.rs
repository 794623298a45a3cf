//! Records of guests' rings: files of shared memory that outlive the tapdisk that serves a ring. Whoever serves it has the
//! lock of its file, which the kernel gives up when the process has gone.

use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt,
    path::PathBuf,
    thread,
    time::{Duration, SystemTime},
};

use block_core::{Error, Result, ResultExt};
use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

use crate::{OwnDirectory, RunDir};

/// Whoever looks whether somebody has a record has it for a moment.
const LOOKS: u32 = 20;
const LOOK_PAUSE: Duration = Duration::from_millis(5);

/// Which ring: of a guest's device, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RingRecordName {
    /// The guest.
    pub domain: u32,
    /// Its device.
    pub device: u32,
    /// The first is 0.
    pub ring: u16,
}

impl RingRecordName {
    fn file(self) -> String {
        format!("ring-{}-{}-{}", self.domain, self.device, self.ring)
    }

    fn parse(file: &str) -> Option<RingRecordName> {
        let mut parts = file.strip_prefix("ring-")?.split('-');
        let mut next = || parts.next();
        let name = RingRecordName {
            domain: next()?.parse().ok()?,
            device: next()?.parse().ok()?,
            ring: next()?.parse().ok()?,
        };
        (name.file() == file).then_some(name)
    }
}

/// The records of all rings of a host.
#[derive(Clone, Debug)]
pub struct RingRecords(PathBuf);

impl RingRecords {
    /// Those of these directories.
    pub fn new(run: &RunDir) -> RingRecords {
        RingRecords(run.ring_records())
    }

    /// Takes hold of a record of so many bytes, and makes it if it is not there.
    ///
    /// # Errors
    /// `EBUSY` if somebody serves the ring, or what the system says.
    pub fn hold(&self, name: RingRecordName, bytes: u64) -> Result<RingRecordFile> {
        let directory = OwnDirectory::make(&self.0)?;
        let path = self.0.join(name.file()).display().to_string();
        for _ in 0..LOOKS {
            let file = directory.open_or_create(&name.file()).context(path.clone())?;
            let is_ours = match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                // Between opening and locking, somebody may have removed it.
                Ok(()) => file.metadata().context(path.clone())?.nlink() > 0,
                Err(Errno::WOULDBLOCK | Errno::INTR) => false,
                Err(error) => return Err(Error::from_os(path, error.into())),
            };
            if is_ours {
                file.set_len(bytes).context(path)?;
                return Ok(RingRecordFile { directory, name, file });
            }
            thread::sleep(LOOK_PAUSE);
        }
        Err(Error::from_os(format!("{path}: somebody serves this ring"), Errno::BUSY.into()))
    }

    /// Takes hold of the records of a device whose tapdisk has gone; there may be none.
    ///
    /// # Errors
    /// As [`hold`](Self::hold).
    pub fn hold_all(&self, domain: u32, device: u32, bytes: u64) -> Result<Vec<RingRecordFile>> {
        let names = self.all().into_iter().filter(|name| (name.domain, name.device) == (domain, device));
        names.map(|name| self.hold(name, bytes)).collect()
    }

    /// Those that are there, in order, whether somebody serves the ring or not.
    pub fn all(&self) -> Vec<RingRecordName> {
        let Ok(entries) = fs::read_dir(&self.0) else { return Vec::new() };
        let names = entries.flatten().filter_map(|entry| RingRecordName::parse(entry.file_name().to_str()?));
        let mut names: Vec<_> = names.collect();
        names.sort_unstable();
        names
    }

    /// Those whose tapdisk has gone.
    pub fn left(&self) -> Vec<RingRecordName> {
        self.all().into_iter().filter(|name| self.lock_left(*name).is_some()).collect()
    }

    /// One whose tapdisk has gone, and which nobody else has as long as it is locked.
    fn lock_left(&self, name: RingRecordName) -> Option<File> {
        let file = File::options().read(true).write(true).open(self.0.join(name.file())).ok()?;
        flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok().then_some(file)
    }

    /// Removes one, unless somebody serves its ring. Says whether it was there.
    fn remove_if(&self, name: RingRecordName, is_meant: impl FnOnce(&File) -> bool) -> bool {
        let locked = self.lock_left(name);
        locked.is_some_and(|file| is_meant(&file) && fs::remove_file(self.0.join(name.file())).is_ok())
    }

    /// Removes the records of a device, unless somebody serves its rings. Says how many there were.
    pub fn remove(&self, domain: u32, device: u32) -> usize {
        let names = self.all().into_iter().filter(|name| (name.domain, name.device) == (domain, device));
        names.filter(|name| self.remove_if(*name, |_| true)).count()
    }

    /// Removes those that nobody has come for in this time, since they were first found here. How old a file is says nothing:
    /// to write to memory does not change that. One that was found is a byte longer.
    pub fn clean(&self, age: Duration, now: SystemTime) {
        for name in self.all() {
            self.remove_if(name, |file| {
                let Ok(found) = file.metadata() else { return false };
                if found.len().is_multiple_of(2) {
                    let _ = file.set_len(found.len() + 1);
                    return false;
                }
                found.modified().is_ok_and(|since| now.duration_since(since).is_ok_and(|time| time > age))
            });
        }
    }
}

/// A record that this process holds; dropping it lets go, and leaves the file to whoever comes.
#[derive(Debug)]
pub struct RingRecordFile {
    directory: OwnDirectory,
    name: RingRecordName,
    file: File,
}

impl RingRecordFile {
    /// The file, to be mapped.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The ring has ended, and nobody comes for it.
    pub fn remove(self) {
        // What cannot be removed is replaced when the ring's name comes again.
        let _ = self.directory.remove(&self.name.file());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::errno;

    const NAME: RingRecordName = RingRecordName { domain: 5, device: 51712, ring: 1 };

    fn records() -> (tempfile::TempDir, RingRecords) {
        let place = tempfile::tempdir().unwrap();
        let run = RunDir::at(place.path().join("run"));
        fs::create_dir(run.shared_memory_root()).unwrap();
        (place, RingRecords::new(&run))
    }

    #[test]
    fn a_record_stays_until_its_ring_has_ended() {
        let (_place, records) = records();
        let held = records.hold(NAME, 4096).unwrap();
        assert_eq!(errno(&records.hold(NAME, 4096).unwrap_err()), 16);
        assert_eq!((records.all(), records.left(), records.remove(5, 51712)), (vec![NAME], vec![], 0));
        drop(held);
        assert_eq!((records.left(), records.remove(5, 51713)), (vec![NAME], 0));
        let held = records.hold_all(5, 51712, 4096).unwrap();
        assert_eq!(held.len(), 1);
        held.into_iter().for_each(RingRecordFile::remove);
        assert!(records.all().is_empty());
    }

    #[test]
    fn what_nobody_comes_for_is_removed_after_a_while() {
        let (_place, records) = records();
        drop(records.hold(NAME, 4096).unwrap());
        let (now, hour) = (SystemTime::now(), Duration::from_secs(3600));
        // A ring may have been served for long: that it was left is seen now.
        records.clean(hour, now + 2 * hour);
        assert_eq!(records.all(), [NAME]);
        drop(records.hold(NAME, 4096).unwrap());
        records.clean(hour, now + 4 * hour);
        assert_eq!(records.all(), [NAME], "somebody has come for it meanwhile");
        let held = records.hold(NAME, 4096).unwrap();
        records.clean(hour, now + 6 * hour);
        records.clean(hour, now + 8 * hour);
        assert_eq!(records.all(), [NAME], "somebody serves it");
        drop(held);
        records.clean(hour, now);
        records.clean(hour, now);
        assert_eq!(records.all(), [NAME]);
        records.clean(hour, now + 2 * hour);
        assert!(records.all().is_empty());
    }

    #[test]
    fn other_names_are_no_records() {
        for name in ["ring-5-51712", "ring-5-51712-1-2", "ring-05-1-1", "ring--1-1", "vdi-3", "ring-5-1-x"] {
            assert_eq!(RingRecordName::parse(name), None, "{name}");
        }
        assert_eq!(RingRecordName::parse("ring-5-51712-1"), Some(NAME));
    }
}
