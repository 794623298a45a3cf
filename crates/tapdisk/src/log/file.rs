//! The file. What is written gathers until it is flushed, which the thread does whenever nothing more waits for it: then
//! many lines cost one write, and a single one is there at once.

use std::{
    fmt::Write as _,
    fs::{self, File, OpenOptions},
    io::Write as _,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use control_api::{make_directory, timestamp};

use super::Counters;

/// What lines about requests may fill: other processes need the room too. Begun anew, the file has all of it again.
const REQUEST_LINES_BYTES_MAX: u64 = 256 << 20;

/// How much gathers before it is written whatever still waits.
const GATHERED_BYTES_MAX: usize = 64 << 10;

/// A file that could not be opened is tried again with a line that comes so long after the last attempt.
const OPEN_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// The log file.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    file: Option<File>,
    /// When it was last tried to open it.
    tried: SystemTime,
    /// Whole lines that are to be written next.
    gathered: String,
    /// All that was written or gathered.
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
            tried: SystemTime::now(),
            gathered: String::new(),
            bytes: 0,
            bytes_max: REQUEST_LINES_BYTES_MAX,
            is_torn: false,
            untold: 0,
            counters,
        }
    }

    /// Opens it by its name again.
    pub(super) fn reopen(&mut self) {
        self.flush();
        *self = LogFile { untold: self.untold, ..LogFile::open(&self.path, self.counters.clone()) };
    }

    /// Removes it.
    pub(super) fn remove(&mut self) {
        self.gathered.clear();
        if self.file.take().is_some() {
            let _ = fs::remove_file(&self.path);
        }
    }

    /// Takes one line.
    pub(super) fn write(&mut self, time: SystemTime, text: &str) {
        self.open_again(time);
        let before = self.gathered.len();
        put_line(&mut self.gathered, time, text);
        self.bytes += (self.gathered.len() - before) as u64;
        if self.gathered.len() >= GATHERED_BYTES_MAX {
            self.flush();
        }
    }

    /// The room that was missing may be there by now.
    fn open_again(&mut self, time: SystemTime) {
        let is_recent = time.duration_since(self.tried).is_ok_and(|age| age < OPEN_AGAIN_AFTER);
        if self.file.is_none() && !is_recent {
            self.tried = time;
            self.file = open(&self.path);
        }
    }

    /// Takes one of the lines that may come in any number.
    pub(super) fn write_about_request(&mut self, time: SystemTime, text: &str) {
        match self.bytes < self.bytes_max {
            true => self.write(time, text),
            // Not told line by line, but when something else is told.
            false => self.are_lost(1),
        }
    }

    /// Writes what has gathered, and before it how much is missing.
    pub(super) fn flush(&mut self) {
        if self.gathered.is_empty() {
            return;
        }
        let lines = std::mem::take(&mut self.gathered);
        if self.untold > 0 {
            let mut notice = String::new();
            put_line(&mut notice, SystemTime::now(), &format!("{} lines could not be written", self.untold));
            if self.put(&notice) == 1 {
                self.untold = 0;
            }
        }
        let written = self.put(&lines);
        self.counters.written.fetch_add(written, Relaxed);
        self.are_lost(lines_in(lines.as_bytes()) - written);
        self.gathered = lines;
        self.gathered.clear();
    }

    /// So many lines never came here.
    pub(super) fn is_missing(&mut self, count: u64) {
        self.untold += count;
    }

    fn are_lost(&mut self, count: u64) {
        self.is_missing(count);
        self.counters.unwritten.fetch_add(count, Relaxed);
    }

    /// Writes lines; gives how many of them are in the file. A full disk must not end the daemon, nor be talked about on
    /// that disk.
    fn put(&mut self, lines: &str) -> u64 {
        let Some(file) = &mut self.file else { return 0 };
        if self.is_torn && !matches!(file.write(b"\n"), Ok(1)) {
            return 0;
        }
        let written = write_some(file, lines.as_bytes());
        self.is_torn = written > 0 && lines.as_bytes()[written - 1] != b'\n';
        lines_in(&lines.as_bytes()[..written])
    }
}

fn lines_in(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|byte| **byte == b'\n').count() as u64
}

/// Writes as much as it can; gives how much.
fn write_some(file: &mut File, bytes: &[u8]) -> usize {
    let mut count = 0;
    while count < bytes.len() {
        match file.write(&bytes[count..]) {
            Ok(0) => break,
            Ok(written) => count += written,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    count
}

fn open(path: &Path) -> Option<File> {
    make_directory(path.parent()?, 0o755).ok()?;
    OpenOptions::new().append(true).create(true).open(path).ok()
}

fn put_line(out: &mut String, time: SystemTime, text: &str) {
    let stamp = timestamp(time);
    let clock = stamp.rsplit(' ').next().unwrap_or_default();
    let milliseconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.subsec_millis());
    write!(out, "{stamp}: [{clock}.{milliseconds:03}] ").expect("a string takes everything");
    let start = out.len();
    out.push_str(text);
    if text.contains('\n') {
        let line = out.split_off(start).replace('\n', " ");
        out.push_str(&line);
    }
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let mut line = String::new();
        put_line(&mut line, time, "one\ntwo");
        assert_eq!(line, "Nov 21 04:44:05: [04:44:05.007] one two\n");
    }

    #[test]
    fn what_has_no_room_is_counted_and_told_with_the_next_line_that_has() {
        let (_directory, path, mut file) = file();
        file.bytes_max = 100;
        (0..10).for_each(|_| file.write_about_request(START, "a failure"));
        file.write(START, "the end");
        file.flush();
        let text = fs::read_to_string(path).unwrap();
        let lines: Vec<&str> = text.lines().map(|line| line.split_once("] ").unwrap().1).collect();
        assert_eq!(lines, ["7 lines could not be written", "a failure", "a failure", "a failure", "the end"]);
        assert_eq!((file.counters.written(), file.counters.lost()), (4, 7));
    }

    #[test]
    fn what_a_full_disk_did_not_take_is_known_to_the_line() {
        let Ok(full) = OpenOptions::new().write(true).open("/dev/full") else { return };
        let (_directory, path, mut file) = file();
        let good = file.file.replace(full);
        (0..3).for_each(|_| file.write(START, "lost"));
        file.flush();
        file.file = good;
        file.write(START, "found");
        file.flush();
        let text = fs::read_to_string(path).unwrap();
        assert!(text.contains("3 lines could not be written") && text.contains("found"), "{text}");
        assert_eq!((file.counters.written(), file.counters.lost()), (1, 3));
    }

    #[test]
    fn begun_anew_it_has_room_again_and_tells_what_is_missing() {
        let (_directory, path, mut file) = file();
        file.bytes_max = 0;
        file.write_about_request(START, "lost");
        fs::rename(&path, path.with_extension("1")).unwrap();
        file.reopen();
        file.write_about_request(START, "found");
        file.flush();
        let text = fs::read_to_string(path).unwrap();
        assert!(text.contains("1 lines could not be written") && text.contains("found"), "{text}");
    }

    #[test]
    fn a_file_that_could_not_be_opened_is_tried_again_now_and_then() {
        let directory = tempfile::tempdir().unwrap();
        let obstacle = directory.path().join("log");
        fs::write(&obstacle, "").unwrap();
        let path = obstacle.join("x");
        let mut file = LogFile::open(&path, Arc::default());
        let start = file.tried;
        let mut line_after = |seconds, text| {
            file.write(start + Duration::from_secs(seconds), text);
            file.flush();
        };
        line_after(0, "lost");
        line_after(5, "lost, too");
        fs::remove_file(&obstacle).unwrap();
        line_after(9, "too early");
        assert!(!path.exists());
        line_after(10, "found");
        let text = fs::read_to_string(path).unwrap();
        assert!(text.contains("3 lines could not be written") && text.contains("found"), "{text}");
    }

    #[test]
    fn a_line_that_was_cut_off_does_not_spoil_the_next() {
        let (_directory, path, mut file) = file();
        fs::write(&path, "half a li").unwrap();
        file.is_torn = true;
        file.write(START, "a whole one");
        file.flush();
        let text = fs::read_to_string(path).unwrap();
        assert_eq!(text.lines().last().unwrap(), "Jan  1 00:00:00: [00:00:00.000] a whole one");
    }
}
