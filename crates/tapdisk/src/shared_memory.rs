//! Statistics in shared memory: a directory for the process, a page for each open disk, written once a second by those
//! who count and read by whoever wants to.
//!
//! ```text
//!   0 version (4)  8 -             16 reads     24 reads done   32 sectors read     40 microseconds
//!                                  48 writes    56 writes done  64 sectors written  72 microseconds   80 errors
//! ```

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use block_core::{Result, ResultExt};
use control_api::{RunDir, make_directory};
use virtual_disk::{RequestKind, Status};

/// Readers map a page.
const FILE_BYTES: u64 = 4096;
/// What of it means something.
const RECORD_BYTES: usize = 96;

/// The directory of this process; it goes with it.
#[derive(Debug)]
pub(crate) struct StatisticsDirectory(PathBuf);

impl StatisticsDirectory {
    /// Makes it, empty: a process that was killed may have left one of this name. The one that all share is made as well.
    pub(crate) fn create(run: &RunDir, pid: u32) -> Result<StatisticsDirectory> {
        let (path, parent) = (run.shared_memory(pid), run.shared_memory_root());
        make_directory(parent, 0o755).context(parent.display())?;
        match DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => empty(&path).context(path.display())?,
            made => made.context(path.display())?,
        }
        // Its bits let its owner in, also one that may not ignore them. Whoever misses a page in it is told when it is made.
        let _ = DirBuilder::new().mode(0o700).create(run.metrics());
        Ok(StatisticsDirectory(path))
    }
}

impl Drop for StatisticsDirectory {
    fn drop(&mut self) {
        remove(&self.0);
    }
}

/// Removes a directory of statistics and the files in it.
pub(crate) fn remove(path: &Path) {
    // What cannot be removed is not worth more than the next process's attempt.
    let _ = empty(path).and_then(|()| fs::remove_dir(path));
}

fn empty(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Removes the metrics pages of a process, which may be gone.
pub(crate) fn remove_metrics(directory: &Path, pid: u32) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    let prefix = format!("tap-{pid}-");
    for entry in entries.flatten() {
        if entry.file_name().as_encoded_bytes().starts_with(prefix.as_bytes()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// The page of one disk; it goes when the disk is closed or paused.
#[derive(Debug)]
pub(crate) struct StatisticsFile {
    path: PathBuf,
    file: File,
    written: [u8; RECORD_BYTES],
}

impl StatisticsFile {
    /// Makes the page, with nothing counted yet.
    pub(crate) fn create(path: PathBuf) -> Result<StatisticsFile> {
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
        let file = file.context(path.display())?;
        let page = StatisticsFile { path, file, written: [0; RECORD_BYTES] };
        page.file.set_len(FILE_BYTES).context(page.path.display())?;
        Ok(page)
    }

    /// Writes what has changed.
    pub(crate) fn update(&mut self, status: &Status) {
        let record = record(status);
        if record != self.written && self.file.write_all_at(&record, 0).is_ok() {
            self.written = record;
        }
    }
}

impl Drop for StatisticsFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn record(status: &Status) -> [u8; RECORD_BYTES] {
    let mut record = [0; RECORD_BYTES];
    for (kind, at) in [(RequestKind::Read, 16), (RequestKind::Write, 48)] {
        let count = status.count(kind);
        let time = count.queued_microseconds + count.served_microseconds;
        for (index, value) in [count.requests, count.completed, count.sectors, time].into_iter().enumerate() {
            put(&mut record, at + 8 * index, value);
        }
    }
    let errors = RequestKind::ALL.iter().map(|kind| status.count(*kind).errors).sum();
    put(&mut record, 80, errors);
    record
}

fn put(record: &mut [u8], at: usize, value: u64) {
    record[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_is_emptied_when_it_was_left_and_goes_with_us() {
        let place = tempfile::tempdir().unwrap();
        let run = RunDir::at(place.path().join("run"));
        let path = run.shared_memory(7);
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("vdi-3"), "old").unwrap();
        let directory = StatisticsDirectory::create(&run, 7).unwrap();
        assert!(run.metrics().is_dir());
        assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
        drop(directory);
        assert!(!path.exists());
    }

    #[test]
    fn a_page_is_there_while_somebody_counts() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("vdi-3");
        let mut page = StatisticsFile::create(path.clone()).unwrap();
        page.update(&Status::new());
        assert_eq!(fs::read(&path).unwrap(), vec![0; 4096]);
        drop(page);
        assert!(!path.exists());
    }
}
