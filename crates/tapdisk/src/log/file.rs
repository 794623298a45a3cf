//! The file: a write for each line, so that whoever reads it sees everything.

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{SystemTime, UNIX_EPOCH},
};

use control_api::{make_directory, timestamp};

use super::Counters;

/// What lines about requests may fill: other processes need the room too. Begun anew, the file has all of it again.
const REQUEST_LINES_BYTES_MAX: u64 = 256 << 20;

/// The log file.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    file: Option<File>,
    bytes: u64,
    bytes_max: u64,
    /// The last line has no end.
    is_torn: bool,
    /// Lines that could not be written since this was told.
    untold: u64,
    counters: Arc<Counters>,
}

impl LogFile {
    pub(super) fn open(path: &Path, counters: Arc<Counters>) -> LogFile {
        LogFile {
            path: path.into(),
            file: open(path),
            bytes: 0,
            bytes_max: REQUEST_LINES_BYTES_MAX,
            is_torn: false,
            untold: 0,
            counters,
        }
    }

    /// Opens it by its name again.
    pub(super) fn reopen(&mut self) {
        *self = LogFile { untold: self.untold, ..LogFile::open(&self.path, self.counters.clone()) };
    }

    /// Removes it.
    pub(super) fn remove(&mut self) {
        if self.file.take().is_some() {
            let _ = fs::remove_file(&self.path);
        }
    }

    /// Writes one line.
    pub(super) fn write(&mut self, time: SystemTime, text: &str) {
        if self.untold > 0 && self.put(time, &format!("{} lines could not be written", self.untold)) {
            self.untold = 0;
        }
        match self.put(time, text) {
            true => self.counters.written.fetch_add(1, Relaxed),
            false => self.is_lost(),
        };
    }

    /// Writes one of the lines that may come in any number.
    pub(super) fn write_about_request(&mut self, time: SystemTime, text: &str) {
        match self.bytes < self.bytes_max {
            true => self.write(time, text),
            // Not told line by line, but when something else is told.
            false => drop(self.is_lost()),
        }
    }

    fn is_lost(&mut self) -> u64 {
        self.untold += 1;
        self.counters.unwritten.fetch_add(1, Relaxed)
    }

    /// A full disk must not end the daemon, nor be talked about on that disk.
    fn put(&mut self, time: SystemTime, text: &str) -> bool {
        let Some(file) = &mut self.file else { return false };
        let mut line = stamped(time, text);
        if self.is_torn {
            line.insert(0, '\n');
        }
        let before = self.bytes;
        let written = write_counted(file, line.as_bytes(), &mut self.bytes);
        self.is_torn = if written { false } else { self.is_torn || self.bytes > before };
        written
    }
}

fn write_counted(file: &mut File, mut bytes: &[u8], count: &mut u64) -> bool {
    while !bytes.is_empty() {
        match file.write(bytes) {
            Ok(0) => return false,
            Ok(written) => {
                *count += written as u64;
                bytes = &bytes[written..];
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return false,
        }
    }
    true
}

fn open(path: &Path) -> Option<File> {
    make_directory(path.parent()?, 0o755).ok()?;
    OpenOptions::new().append(true).create(true).open(path).ok()
}

fn stamped(time: SystemTime, text: &str) -> String {
    let stamp = timestamp(time);
    let clock = stamp.rsplit(' ').next().unwrap_or_default();
    let milliseconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.subsec_millis());
    format!("{stamp}: [{clock}.{milliseconds:03}] {}\n", text.replace('\n', " "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const START: SystemTime = UNIX_EPOCH;

    fn file() -> (tempfile::TempDir, PathBuf, LogFile) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log").join("x");
        let file = LogFile::open(&path, Arc::default());
        (directory, path, file)
    }

    #[test]
    fn a_line_tells_its_time_in_the_form_of_logs() {
        let time = UNIX_EPOCH + Duration::from_millis(1_795_236_245_007);
        assert_eq!(stamped(time, "one\ntwo"), "Nov 21 04:44:05: [04:44:05.007] one two\n");
    }

    #[test]
    fn what_has_no_room_is_counted_and_told_with_the_next_line_that_has() {
        let (_directory, path, mut file) = file();
        file.bytes_max = 100;
        (0..10).for_each(|_| file.write_about_request(START, "a failure"));
        file.write(START, "the end");
        let text = fs::read_to_string(path).unwrap();
        let lines: Vec<&str> = text.lines().map(|line| line.split_once("] ").unwrap().1).collect();
        assert_eq!(lines, ["a failure", "a failure", "a failure", "7 lines could not be written", "the end"]);
        assert_eq!((file.counters.written(), file.counters.lost()), (4, 7));
    }

    #[test]
    fn begun_anew_it_has_room_again_and_tells_what_is_missing() {
        let (_directory, path, mut file) = file();
        file.bytes_max = 0;
        file.write_about_request(START, "lost");
        fs::rename(&path, path.with_extension("1")).unwrap();
        file.reopen();
        file.write_about_request(START, "found");
        let text = fs::read_to_string(path).unwrap();
        assert!(text.contains("1 lines could not be written") && text.contains("found"), "{text}");
    }

    #[test]
    fn a_line_that_was_cut_off_does_not_spoil_the_next() {
        let (_directory, path, mut file) = file();
        fs::write(&path, "half a li").unwrap();
        file.is_torn = true;
        file.write(START, "a whole one");
        let text = fs::read_to_string(path).unwrap();
        assert_eq!(text.lines().last().unwrap(), "Jan  1 00:00:00: [00:00:00.000] a whole one");
    }
}
