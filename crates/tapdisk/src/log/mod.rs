//! The log: a file of its own and the host's log. Whoever logs never waits, and words are found by a thread of the log's
//! own: a request that fails costs its own thread no more than a message. Another one writes the file, so that a file
//! that hangs takes nothing from the host's log.
//!
//! ```text
//!   control, disks, queues --> at most 16384 entries --> log thread --> the host's log: never waited for
//!                                  | full                    |
//!                                  |                         '--> at most 8 MiB --> file thread --> file
//!                                  |                                   | full
//!                                  '--> lost, counted by cause,        '--> lost, counted, told in the file
//!                                       told in the file
//!
//!   Nov 21 05:12:07: [05:12:07.123] minor=4 image=vhd:/a.vhd: opened
//! ```
//!
//! Lines are in UTC. The file goes with the process, unless something went wrong or somebody asked for a dump.

mod causes;
mod file;
mod file_thread;
mod lines;
#[cfg(test)]
mod samples;
mod writer;

use std::{
    fmt::Display,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
        mpsc::{self, Sender, SyncSender},
    },
    thread,
    time::{Duration, SystemTime},
};

use control_api::{Facility, HostLog, HostLogCounters, Minor, Receivers, Severity};
use virtual_disk::{Report, Reporter};

use crate::slot::Published;

use causes::Causes;
pub(crate) use causes::{Cause, Counted};
use file::LogFile;
use file_thread::FileThread;
pub(crate) use lines::seconds;
use writer::Writer;

/// Entries that wait for the thread.
const WAITING_MAX: usize = 16384;
/// How long the end of the process waits for the last lines.
const LAST_LINES_MAX: Duration = Duration::from_secs(2);

/// What the thread is given.
#[derive(Debug)]
enum Entry {
    Line(Severity, String),
    /// What a disk tells by itself.
    Report(Arc<DiskName>, Box<Report>),
    /// Lines for the file only; it is kept.
    Dump(String),
    /// The file is to be opened anew. Cleared when that begins: from then on it may be asked for again.
    Reopen(Arc<AtomicBool>),
    /// The last one; the answer goes back when it is done.
    End(SyncSender<()>),
}

/// An entry, and when it was made.
#[derive(Debug)]
struct Stamped {
    time: SystemTime,
    entry: Entry,
}

/// A way to the log; clones lead to the same.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    entries: Sender<Stamped>,
    counters: Arc<Counters>,
    /// Guards a small table. Whoever may not wait for it tries only.
    causes: Arc<Mutex<Causes>>,
    /// Whether the thread has yet to open the file anew.
    is_reopening: Arc<AtomicBool>,
    path: PathBuf,
}

/// What became of lines; any thread may look.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Entries that the thread has not come to yet.
    waiting: AtomicUsize,
    overflowed: AtomicU64,
    /// Bytes that wait for the file's thread.
    file_waiting: AtomicUsize,
    /// Lines that it had no room for, and has not told of.
    refused: AtomicU64,
    written: AtomicU64,
    unwritten: AtomicU64,
    host: Arc<HostLogCounters>,
}

impl Counters {
    /// Lines that were to be logged: delivered to the host's log or dropped, but for those that wait.
    pub(crate) fn produced(&self) -> u64 {
        self.host.sent() + self.overflowed()
    }

    /// Lines that the host's log has taken.
    pub(crate) fn delivered(&self) -> u64 {
        self.host.delivered()
    }

    /// Lines that the host's log did not get.
    pub(crate) fn dropped(&self) -> u64 {
        self.host.dropped() + self.overflowed()
    }

    /// Lines in the file.
    pub(crate) fn written(&self) -> u64 {
        self.written.load(Relaxed)
    }

    /// Lines that are missing in the file.
    pub(crate) fn lost(&self) -> u64 {
        self.unwritten.load(Relaxed) + self.overflowed()
    }

    /// Entries that were lost because the thread could not keep up. (Causes count them too, but for those that came
    /// while somebody else looked at the table.)
    fn overflowed(&self) -> u64 {
        self.overflowed.load(Relaxed)
    }
}

impl Log {
    /// Opens the log of this process. A host that has no room for the file is no obstacle.
    pub(crate) fn start(path: PathBuf, pid: u32) -> std::io::Result<Log> {
        Log::start_with(path, pid, Receivers::from_environment())
    }

    fn start_with(path: PathBuf, pid: u32, receivers: Receivers) -> std::io::Result<Log> {
        let host = HostLog::at(receivers, "tapdisk", pid, Facility::Daemon);
        let counters = Arc::new(Counters { host: host.counters(), ..Counters::default() });
        let (entries, received) = mpsc::channel();
        let causes = Arc::default();
        let is_reopening = Arc::default();
        let log = Log { entries, counters: counters.clone(), causes: Arc::clone(&causes), is_reopening, path };
        let file = FileThread::start(LogFile::open(&log.path, counters.clone()), counters.clone())?;
        let writer = Writer::new(pid, file, host, counters, causes);
        thread::Builder::new().name("log".into()).spawn(move || writer.run(&received))?;
        Ok(log)
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

    /// Opens the file anew: the old one has been moved away. It is done however much waits; one such entry at a time is
    /// enough.
    pub(crate) fn reopen(&self) {
        if !self.is_reopening.swap(true, Relaxed) {
            self.push(Entry::Reopen(self.is_reopening.clone()));
        }
    }

    /// Writes what is left, in bounded time.
    pub(crate) fn finish(&self) {
        let (done, wait) = mpsc::sync_channel(1);
        self.push(Entry::End(done));
        let _ = wait.recv_timeout(LAST_LINES_MAX);
    }

    /// What became of lines.
    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Why requests have failed so far.
    pub(crate) fn causes(&self) -> Vec<Counted> {
        self.causes.lock().unwrap_or_else(PoisonError::into_inner).all()
    }

    /// Where a disk reports to.
    pub(crate) fn reporter(&self, minor: Minor, published: Arc<Published>) -> Arc<dyn Reporter> {
        Arc::new(DiskLog { log: self.clone(), name: Arc::new(DiskName { minor, published }) })
    }

    /// Writes one line right here, for a process that has no time left for its thread.
    pub(crate) fn last_words(&self, text: &str) {
        let mut file = LogFile::open(&self.path, self.counters.clone());
        file.write(SystemTime::now(), text);
        file.flush();
    }

    /// Gives the thread an entry, unless too many wait already.
    fn send(&self, entry: Entry) {
        if self.has_room() {
            self.push(entry);
        }
    }

    /// Whether the thread takes an entry; one that it does not take counts as lost.
    fn has_room(&self) -> bool {
        let has_room = self.counters.waiting.load(Relaxed) < WAITING_MAX;
        if !has_room {
            self.counters.overflowed.fetch_add(1, Relaxed);
        }
        has_room
    }

    fn push(&self, entry: Entry) {
        self.counters.waiting.fetch_add(1, Relaxed);
        // The thread is gone at the end of the process only.
        let _ = self.entries.send(Stamped { time: SystemTime::now(), entry });
    }
}

/// How lines name a disk.
#[derive(Debug)]
struct DiskName {
    minor: Minor,
    published: Arc<Published>,
}

/// A disk's way to the log.
struct DiskLog {
    log: Log,
    name: Arc<DiskName>,
}

impl Reporter for DiskLog {
    fn report(&self, report: Report) {
        if self.log.has_room() {
            self.log.push(Entry::Report(self.name.clone(), Box::new(report)));
        } else if let Ok(mut causes) = self.log.causes.try_lock() {
            causes.note_lost(self.name.minor, SystemTime::now(), &report);
        }
    }
}

#[cfg(test)]
mod tests;
