//! Statistics in shared memory: a directory for the process, a page for each open disk, written once a second by those
//! who count and read by whoever wants to.
//!
//! ```text
//!   0 version (4)  8 -             16 reads     24 reads done   32 sectors read     40 microseconds
//!                                  48 writes    56 writes done  64 sectors written  72 microseconds   80 errors
//! ```

use std::{fs::File, io, os::unix::fs::FileExt, path::PathBuf, rc::Rc};

use block_core::{Error, Result, ResultExt};
use control_api::{OwnDirectory, RunDir, make_directory, stale::remove_statistics};
use export::blkif::{RingTraffic, SideTraffic};
use virtual_disk::{RequestKind, Status};

/// Readers map a page.
const FILE_BYTES: u64 = 4096;
/// What of it means something.
const RECORD_BYTES: usize = 96;
/// Readers of guests' pages look at it first.
const GUEST_VERSION: u32 = 1;

/// The directory of this process; it goes with it.
#[derive(Debug)]
pub(crate) struct StatisticsDirectory(PathBuf);

impl StatisticsDirectory {
    /// Makes it, empty: a process that was killed may have left one of this name. Those that all share are made as well;
    /// without them there is a page less of each disk, or no record of rings, and the reason is given.
    pub(crate) fn create(run: &RunDir, pid: u32) -> Result<(StatisticsDirectory, Option<Error>)> {
        let (path, parent) = (run.shared_memory(pid), run.shared_memory_root());
        make_directory(parent, 0o755).context(parent.display())?;
        OwnDirectory::make(&path)?.remove_all("").context(path.display())?;
        let shared = [run.metrics(), run.ring_records()].map(|path| OwnDirectory::make(&path).err());
        Ok((StatisticsDirectory(path), shared.into_iter().flatten().next()))
    }
}

impl Drop for StatisticsDirectory {
    fn drop(&mut self) {
        remove_statistics(&self.0);
    }
}

/// The page of one disk; it goes when the disk is closed or paused.
#[derive(Debug)]
pub(crate) struct StatisticsFile {
    directory: Rc<OwnDirectory>,
    name: String,
    file: File,
    written: [u8; RECORD_BYTES],
}

impl StatisticsFile {
    /// Makes the page, with nothing counted yet.
    pub(crate) fn create(directory: Rc<OwnDirectory>, name: String) -> io::Result<StatisticsFile> {
        let file = directory.create(&name)?;
        let page = StatisticsFile { directory, name, file, written: [0; RECORD_BYTES] };
        page.file.set_len(FILE_BYTES)?;
        Ok(page)
    }

    /// Writes what has changed.
    pub(crate) fn update(&mut self, record: &Record) {
        let record = record.bytes();
        if record != self.written && self.file.write_all_at(&record, 0).is_ok() {
            self.written = record;
        }
    }
}

impl Drop for StatisticsFile {
    fn drop(&mut self) {
        let _ = self.directory.remove(&self.name);
    }
}

/// What a page tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Record {
    version: u32,
    counts: RingTraffic,
}

impl Record {
    /// Of everything that a disk has done.
    pub(crate) fn of_disk(status: &Status) -> Record {
        let side = |kind| {
            let count = status.count(kind);
            let microseconds = count.queued_microseconds + count.served_microseconds;
            SideTraffic { begun: count.requests, ended: count.completed, sectors: count.sectors, microseconds }
        };
        let errors = RequestKind::ALL.iter().map(|kind| status.count(*kind).errors).sum();
        let (read, write) = (side(RequestKind::Read), side(RequestKind::Write));
        Record { version: 0, counts: RingTraffic { read, write, errors } }
    }

    /// Of what a guest has done.
    pub(crate) fn of_guest(traffic: &RingTraffic) -> Record {
        Record { version: GUEST_VERSION, counts: *traffic }
    }

    /// What is left when guests' part is taken away. They are not counted in the same moment as the disk.
    pub(crate) fn without(&self, guests: &RingTraffic) -> Record {
        let side = |all: SideTraffic, part: SideTraffic| SideTraffic {
            begun: all.begun.saturating_sub(part.begun),
            ended: all.ended.saturating_sub(part.ended),
            sectors: all.sectors.saturating_sub(part.sectors),
            microseconds: all.microseconds.saturating_sub(part.microseconds),
        };
        let RingTraffic { read, write, errors } = self.counts;
        let errors = errors.saturating_sub(guests.errors);
        let counts = RingTraffic { read: side(read, guests.read), write: side(write, guests.write), errors };
        Record { counts, ..*self }
    }

    fn bytes(&self) -> [u8; RECORD_BYTES] {
        let mut record = [0; RECORD_BYTES];
        record[..4].copy_from_slice(&self.version.to_le_bytes());
        for (side, at) in [(self.counts.read, 16), (self.counts.write, 48)] {
            let SideTraffic { begun, ended, sectors, microseconds } = side;
            for (index, value) in [begun, ended, sectors, microseconds].into_iter().enumerate() {
                put(&mut record, at + 8 * index, value);
            }
        }
        put(&mut record, 80, self.counts.errors);
        record
    }
}

fn put(record: &mut [u8], at: usize, value: u64) {
    record[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use control_api::stale::remove_metrics;

    use super::*;

    fn place() -> (tempfile::TempDir, RunDir) {
        let place = tempfile::tempdir().unwrap();
        let run = RunDir::at(place.path().join("run"));
        make_directory(run.shared_memory_root(), 0o755).unwrap();
        (place, run)
    }

    #[test]
    fn the_directory_is_emptied_when_it_was_left_and_goes_with_us() {
        let (_place, run) = place();
        let path = run.shared_memory(7);
        make_directory(&path, 0o755).unwrap();
        fs::write(path.join("vdi-3"), "old").unwrap();
        let (directory, missing) = StatisticsDirectory::create(&run, 7).unwrap();
        assert!(missing.is_none() && run.metrics().is_dir());
        assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
        drop(directory);
        assert!(!path.exists());
    }

    #[test]
    fn links_of_others_lead_nowhere() {
        let (place, run) = place();
        let precious = place.path().join("precious");
        fs::create_dir(&precious).unwrap();
        let files = ["vdi-3", "tap-7-3"].map(|name| precious.join(name));
        files.iter().for_each(|file| fs::write(file, "keep").unwrap());
        symlink(&precious, run.shared_memory(7)).unwrap();
        symlink(&precious, run.metrics()).unwrap();
        // As the cleaning of what the dead have left, and as a start.
        remove_statistics(&run.shared_memory(7));
        remove_metrics(&run.metrics(), 7);
        let (directory, missing) = StatisticsDirectory::create(&run, 7).unwrap();
        assert!(missing.is_none());
        for path in [run.shared_memory(7), run.metrics()] {
            assert!(fs::symlink_metadata(path).unwrap().is_dir());
        }
        drop(directory);
        files.iter().for_each(|file| assert_eq!(fs::read(file).unwrap(), b"keep"));
    }

    #[test]
    fn guests_are_counted_on_their_own_page_and_not_twice() {
        let side = |begun| SideTraffic { begun, ended: begun, sectors: 8 * begun, microseconds: 100 };
        let guests = RingTraffic { read: side(2), write: side(1), errors: 1 };
        let page = Record::of_guest(&guests).bytes();
        let word = |at: usize| u64::from_le_bytes(page[at..at + 8].try_into().unwrap());
        assert_eq!([0, 16, 24, 32, 40, 48, 64, 80].map(word), [1, 2, 2, 16, 100, 1, 8, 1]);
        let all = Record { version: 0, counts: RingTraffic { read: side(5), write: side(1), errors: 0 } };
        let rest = RingTraffic { read: SideTraffic { microseconds: 0, ..side(3) }, ..RingTraffic::default() };
        assert_eq!(all.without(&guests), Record { version: 0, counts: rest });
    }

    #[test]
    fn a_page_is_there_while_somebody_counts() {
        let (_place, run) = place();
        let path = run.shared_memory(7);
        let directory = Rc::new(OwnDirectory::make(&path).unwrap());
        let mut page = StatisticsFile::create(directory, "vdi-3".into()).unwrap();
        page.update(&Record::of_disk(&Status::new()));
        assert_eq!(fs::read(path.join("vdi-3")).unwrap(), vec![0; 4096]);
        drop(page);
        assert!(!path.join("vdi-3").exists());
    }
}
