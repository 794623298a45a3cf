//! The log: a file of its own and the host's log, both written by a thread of their own. Whoever logs never waits: what
//! the thread cannot take is lost and counted.
//!
//! ```text
//!   Nov 21 05:12:07: [05:12:07.123] minor=4 image=vhd:/a.vhd: opened
//! ```
//!
//! Lines are in UTC. The file goes with the process, unless something went wrong or somebody asked for a dump.

use std::{
    fmt::Display,
    fs::{self, File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TrySendError},
    },
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use control_api::{Facility, Severity, Syslog, make_directory, timestamp};

/// Lines that wait for the thread.
const WAITING_MAX: usize = 1024;
/// How long the end of the process waits for the last lines.
const LAST_LINES_MAX: Duration = Duration::from_secs(2);

enum Entry {
    Line(Severity, String),
    /// Lines for the file only; it is kept.
    Dump(String),
    Reopen,
    /// The last one; the answer goes back when it is done.
    End(SyncSender<()>),
}

/// A way to the log; clones lead to the same.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    entries: SyncSender<Entry>,
    lost: Arc<AtomicU64>,
    path: PathBuf,
}

impl Log {
    /// Opens the log of this process. A host that has no room for the file is no obstacle.
    pub(crate) fn start(path: PathBuf, pid: u32) -> std::io::Result<Log> {
        let (entries, received) = mpsc::sync_channel(WAITING_MAX);
        let lost = Arc::new(AtomicU64::new(0));
        let writer = Writer {
            name: format!("tapdisk[{pid}]"),
            file: open(&path),
            path: path.clone(),
            syslog: Syslog::new(format!("tapdisk[{pid}]"), Facility::Daemon),
            lost: lost.clone(),
            errors: 0,
            is_precious: false,
        };
        thread::Builder::new().name("log".into()).spawn(move || writer.run(received))?;
        Ok(Log { entries, lost, path })
    }

    /// Something happened.
    pub(crate) fn info(&self, text: impl Display) {
        self.send(Entry::Line(Severity::Info, text.to_string()));
    }

    /// Something is not as it should be.
    pub(crate) fn warning(&self, text: impl Display) {
        self.send(Entry::Line(Severity::Warning, text.to_string()));
    }

    /// Something failed. The file is kept.
    pub(crate) fn error(&self, text: impl Display) {
        self.send(Entry::Line(Severity::Error, text.to_string()));
    }

    /// What somebody asked to see. The file is kept.
    pub(crate) fn dump(&self, text: String) {
        self.send(Entry::Dump(text));
    }

    /// Opens the file anew: the old one has been moved away.
    pub(crate) fn reopen(&self) {
        self.send(Entry::Reopen);
    }

    /// Writes what is left, in bounded time.
    pub(crate) fn finish(&self) {
        let (done, wait) = mpsc::sync_channel(1);
        self.send(Entry::End(done));
        let _ = wait.recv_timeout(LAST_LINES_MAX);
    }

    /// Writes one line right here, for a process that has no time left for its thread.
    pub(crate) fn last_words(&self, text: &str) {
        if let Some(mut file) = open(&self.path) {
            let _ = writeln!(file, "{}", line(text));
        }
    }

    fn send(&self, entry: Entry) {
        if let Err(TrySendError::Full(_)) = self.entries.try_send(entry) {
            self.lost.fetch_add(1, Relaxed);
        }
    }
}

struct Writer {
    name: String,
    path: PathBuf,
    file: Option<File>,
    syslog: Syslog,
    lost: Arc<AtomicU64>,
    errors: u64,
    is_precious: bool,
}

impl Writer {
    fn run(mut self, entries: Receiver<Entry>) {
        self.write(&format!("{}: log start, level 0", self.name));
        loop {
            // Now and then it looks whether lines were lost while it was busy.
            match entries.recv_timeout(Duration::from_secs(3600)) {
                Ok(Entry::Line(severity, text)) => self.line(severity, &text),
                Ok(Entry::Dump(text)) => {
                    self.is_precious = true;
                    text.lines().for_each(|line| self.write(line));
                    self.tell_unsent();
                }
                Ok(Entry::Reopen) => self.file = open(&self.path),
                Ok(Entry::End(done)) => {
                    self.finish();
                    let _ = done.try_send(());
                    return;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.count_lost();
        }
    }

    fn line(&mut self, severity: Severity, text: &str) {
        self.errors += u64::from(severity == Severity::Error);
        let prefix = if severity == Severity::Info { "" } else { "tap-err:" };
        self.syslog.send(severity, &format!("{prefix}{text}"));
        self.write(text);
    }

    fn write(&mut self, text: &str) {
        if let Some(file) = &mut self.file {
            // A full disk must not end the daemon, nor be talked about on that disk.
            let _ = writeln!(file, "{}", line(text));
        }
    }

    fn count_lost(&mut self) {
        let lost = self.lost.swap(0, Relaxed);
        if lost > 0 {
            self.write(&format!("{lost} messages dropped"));
        }
    }

    /// What the host's log did not take: told when somebody looks, since there may be none on this host.
    fn tell_unsent(&mut self) {
        let lost = self.syslog.take_lost();
        if lost > 0 {
            self.write(&format!("tapdisk-syslog: {lost} messages dropped"));
        }
    }

    fn finish(&mut self) {
        self.count_lost();
        self.tell_unsent();
        self.write(&format!("{}: closing log, {} errors", self.name, self.errors));
        if self.errors == 0 && !self.is_precious && self.file.take().is_some() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn open(path: &Path) -> Option<File> {
    make_directory(path.parent()?, 0o755).ok()?;
    OpenOptions::new().append(true).create(true).open(path).ok()
}

fn line(text: &str) -> String {
    let now = SystemTime::now();
    let stamp = timestamp(now);
    let time = stamp.rsplit(' ').next().unwrap_or_default();
    let milliseconds = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.subsec_millis());
    format!("{stamp}: [{time}.{milliseconds:03}] {}", text.replace('\n', " "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log() -> (tempfile::TempDir, PathBuf, Log) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log").join("tapdisk.7.log");
        let log = Log::start(path.clone(), 7).unwrap();
        (directory, path, log)
    }

    #[test]
    fn a_log_without_errors_goes_with_the_process() {
        let (_directory, path, log) = log();
        log.info("minor=4: attached");
        log.finish();
        assert!(!path.exists());
    }

    #[test]
    fn a_log_with_an_error_stays() {
        let (_directory, path, log) = log();
        log.error("minor=4: open:\nno");
        log.finish();
        let text = fs::read_to_string(path).unwrap();
        let words = text.lines().map(|line| line.split_once("] ").unwrap().1);
        // There need not be a log on this host.
        let words: Vec<&str> = words.filter(|line| !line.starts_with("tapdisk-syslog")).collect();
        assert_eq!(words, ["tapdisk[7]: log start, level 0", "minor=4: open: no", "tapdisk[7]: closing log, 1 errors"]);
    }

    #[test]
    fn a_dump_is_kept_and_a_moved_log_is_begun_anew() {
        let (_directory, path, log) = log();
        log.dump("one\ntwo".into());
        while !fs::read_to_string(&path).is_ok_and(|text| text.contains("two")) {
            thread::yield_now();
        }
        fs::rename(&path, path.with_extension("1")).unwrap();
        log.reopen();
        log.info("three");
        log.finish();
        assert!(fs::read_to_string(&path).unwrap().contains("three"));
    }

    #[test]
    fn a_log_that_has_nowhere_to_go_hinders_nobody() {
        let log = Log::start("/proc/none/tapdisk.log".into(), 7).unwrap();
        (0..10_000).for_each(|number| log.error(number));
        log.finish();
    }
}
