//! Where lines go: to the host's log, or to stderr in the foreground; and to a file, if there is to be one.
//!
//! ```text
//!   devices --> note --+--> the host's log: what it does not take at once waits for a task of ours
//!                      +--> at most 4096 lines --> a thread --> file, stderr: they may hang
//! ```
//!
//! Nobody who notes something waits. What there is no room for is counted, and told when there is room again.

use std::{
    cell::{Cell, RefCell},
    fs::{File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    rc::Rc,
    sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    thread,
    time::Duration,
};

use block_core::{Result, ResultExt};
use control_api::{Facility, HostLog, Record, Severity, timestamp};
use storage_io::{Executor, Signal};

use crate::{DeviceName, Log};

/// Lines that wait for the thread.
const LINES_MAX: usize = 4096;
/// What the host's log has not taken is offered again this soon at first,
const RETRY_FIRST: Duration = Duration::from_millis(1);
/// and this seldom at last.
const RETRY_LAST: Duration = Duration::from_secs(1);
/// What the last lines may take to leave.
const LAST_LINES_MAX: Duration = Duration::from_secs(1);
const PROGRAM: &str = "tapback";

/// What the thread is given.
enum Entry {
    Line(Record),
    /// Opens the file anew.
    Reopen,
    /// The last one; it is dropped when everything before it has been written.
    End(#[expect(dead_code, reason = "it is there to be dropped")] SyncSender<()>),
}

/// The daemon's log.
pub(super) struct DaemonLog {
    executor: Executor,
    host: Option<RefCell<HostLog>>,
    has_waiting: Signal,
    thread: Option<SyncSender<Entry>>,
    lost: Cell<u64>,
}

impl DaemonLog {
    /// Opens it. In the foreground lines go to stderr instead of the host's log.
    pub(super) fn start(executor: &Executor, in_foreground: bool, file: Option<PathBuf>) -> Result<Rc<DaemonLog>> {
        let host = (!in_foreground).then(|| RefCell::new(HostLog::new(PROGRAM, Facility::Daemon)));
        let file = file.map(LogFile::open).transpose()?;
        let thread = (in_foreground || file.is_some()).then(|| Writer { in_foreground, file }.start()).transpose()?;
        let log = Rc::new(DaemonLog {
            executor: executor.clone(),
            host,
            has_waiting: Signal::new(),
            thread,
            lost: Cell::new(0),
        });
        if log.host.is_some() {
            executor.spawn(log.clone().send_what_waits()).detach();
        }
        Ok(log)
    }

    /// Something that people may want to know.
    pub(super) fn info(&self, text: impl Into<String>) {
        self.line(Record::now(Severity::Info, text));
    }

    /// Something failed.
    pub(super) fn error(&self, text: impl Into<String>) {
        self.line(Record::now(Severity::Error, text));
    }

    /// Opens the file anew: the old one has been moved away.
    pub(super) fn reopen(&self) {
        // A thread that has no room for this has other troubles; whoever asked asks again.
        let _ = self.thread.as_ref().map(|thread| thread.try_send(Entry::Reopen));
    }

    /// Writes what is left, in bounded time.
    pub(super) fn finish(&self) {
        if let Some(host) = &self.host {
            host.borrow_mut().finish(LAST_LINES_MAX);
        }
        if let Some(thread) = &self.thread {
            let (done, end) = sync_channel::<()>(0);
            if thread.try_send(Entry::End(done)).is_ok() {
                let _ = end.recv_timeout(LAST_LINES_MAX);
            }
        }
    }

    fn line(&self, record: Record) {
        if let Some(thread) = &self.thread {
            self.hand_over(thread, record.clone());
        }
        if let Some(host) = &self.host {
            host.borrow_mut().send(record);
            self.has_waiting.notify();
        }
    }

    fn hand_over(&self, thread: &SyncSender<Entry>, record: Record) {
        let lost = self.lost.get();
        if lost > 0 {
            let told = Record { text: format!("{lost} lines dropped"), ..record.clone() };
            match thread.try_send(Entry::Line(told)) {
                Ok(()) => self.lost.set(0),
                Err(_) => return self.lost.set(lost + 1),
            }
        }
        if let Err(TrySendError::Full(_)) = thread.try_send(Entry::Line(record)) {
            self.lost.set(self.lost.get() + 1);
        }
    }

    async fn send_what_waits(self: Rc<Self>) {
        let Some(host) = &self.host else { return };
        let mut pause = RETRY_FIRST;
        loop {
            self.has_waiting.until(|| host.borrow().is_waiting()).await;
            self.executor.sleep(pause).await;
            let has_moved = host.borrow_mut().retry();
            pause = if has_moved { RETRY_FIRST } else { (pause * 2).min(RETRY_LAST) };
        }
    }
}

impl Log for DaemonLog {
    fn note(&self, device: &DeviceName, words: &str) {
        self.info(format!("{device}: {words}"));
    }

    fn note_all(&self, kind: &str, words: &str) {
        self.info(format!("{kind}: {words}"));
    }
}

/// The thread's part.
struct Writer {
    in_foreground: bool,
    file: Option<LogFile>,
}

impl Writer {
    fn start(mut self) -> Result<SyncSender<Entry>> {
        let (lines, received) = sync_channel(LINES_MAX);
        let thread = thread::Builder::new().name("log".into());
        thread.spawn(move || self.run(&received)).context("a thread for the log")?;
        Ok(lines)
    }

    fn run(&mut self, entries: &Receiver<Entry>) {
        while let Ok(entry) = entries.recv() {
            match entry {
                Entry::Line(record) => self.write(&record),
                Entry::Reopen => self.file = self.file.take().map(LogFile::reopen),
                Entry::End(_) => return,
            }
        }
    }

    fn write(&mut self, record: &Record) {
        let line = format!("{}: {}\n", timestamp(record.time), record.text.replace('\n', " "));
        if self.in_foreground {
            // Nobody may be there to read it.
            let _ = io::stderr().write_all(line.as_bytes());
        }
        if let Some(LogFile { file, .. }) = &mut self.file {
            let _ = file.write_all(line.as_bytes());
        }
    }
}

struct LogFile {
    path: PathBuf,
    file: File,
}

impl LogFile {
    fn open(path: PathBuf) -> Result<LogFile> {
        let file = append_to(&path).context(path.display())?;
        Ok(LogFile { path, file })
    }

    /// The old one goes on if there is no new one to be had.
    fn reopen(self) -> LogFile {
        match append_to(&self.path) {
            Ok(file) => LogFile { file, ..self },
            Err(_) => self,
        }
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

/// Says what a mistake of ours was, for a process that is about to end by it.
pub(super) fn last_words(text: &str) {
    let mut host = HostLog::new(PROGRAM, Facility::Daemon);
    host.send(Record::now(Severity::Error, text));
    host.finish(LAST_LINES_MAX);
}

#[cfg(test)]
mod tests {
    use std::fs;

    use storage_io::EngineChoice;

    use super::*;

    #[test]
    fn lines_are_in_the_file_and_in_the_new_one_after_it_was_moved() {
        let directory = tempfile::tempdir().unwrap();
        let (path, old) = (directory.path().join("log"), directory.path().join("log.1"));
        let executor = Executor::new(EngineChoice::Inline).unwrap();
        let log = DaemonLog::start(&executor, false, Some(path.clone())).unwrap();
        log.info("first\nsecond");
        while !fs::read_to_string(&path).unwrap().ends_with("first second\n") {
            thread::yield_now();
        }
        fs::rename(&path, &old).unwrap();
        log.reopen();
        log.error("third");
        log.finish();
        assert!(fs::read_to_string(&path).unwrap().ends_with(": third\n"));
        assert!(!fs::read_to_string(&old).unwrap().contains("third"));
    }

    #[test]
    fn a_thread_that_hangs_costs_lines_and_no_time() {
        let executor = Executor::new(EngineChoice::Inline).unwrap();
        let (thread, lines) = sync_channel(2);
        let log =
            DaemonLog { executor, host: None, has_waiting: Signal::new(), thread: Some(thread), lost: Cell::new(0) };
        (0..5).for_each(|number| log.info(number.to_string()));
        let texts = || -> Vec<String> {
            lines
                .try_iter()
                .filter_map(|entry| if let Entry::Line(record) = entry { Some(record.text) } else { None })
                .collect()
        };
        assert_eq!(texts(), ["0", "1"]);
        log.info("5");
        assert_eq!(texts(), ["3 lines dropped", "5"]);
    }
}
