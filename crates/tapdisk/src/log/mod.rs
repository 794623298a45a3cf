//! The log: a file of its own and the host's log, both written by a thread of their own. Whoever logs never waits, and
//! words are found by that thread: a request that fails costs its own thread no more than a message.
//!
//! ```text
//!   control, disks, queues --> at most 16384 entries --> log thread --> the host's log: never waited for
//!                                  | full                         '--> file: every line
//!                                  '--> lost, counted by cause, told in the file
//!
//!   Nov 21 05:12:07: [05:12:07.123] minor=4 image=vhd:/a.vhd: opened
//! ```
//!
//! Lines are in UTC. The file goes with the process, unless something went wrong or somebody asked for a dump.

mod file;
mod writer;

use std::{
    fmt::Display,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
        mpsc::{self, Sender, SyncSender},
    },
    thread,
    time::{Duration, SystemTime},
};

use control_api::{Facility, HostLog, HostLogCounters, Receivers, Severity};

use file::LogFile;
use writer::Writer;

/// Entries that wait for the thread.
const WAITING_MAX: usize = 16384;
/// How long the end of the process waits for the last lines.
const LAST_LINES_MAX: Duration = Duration::from_secs(2);

/// What the thread is given.
#[derive(Debug)]
enum Entry {
    Line(Severity, String),
    /// Lines for the file only; it is kept.
    Dump(String),
    Reopen,
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
    path: PathBuf,
}

/// What became of lines; any thread may look.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Entries that the thread has not come to yet.
    waiting: AtomicUsize,
    overflowed: AtomicU64,
    written: AtomicU64,
    unwritten: AtomicU64,
    host: Arc<HostLogCounters>,
}

impl Counters {
    /// Entries that were lost because the thread could not keep up.
    pub(crate) fn overflowed(&self) -> u64 {
        self.overflowed.load(Relaxed)
    }

    /// Lines in the file.
    pub(crate) fn written(&self) -> u64 {
        self.written.load(Relaxed)
    }

    /// Lines that the file had no room for.
    pub(crate) fn unwritten(&self) -> u64 {
        self.unwritten.load(Relaxed)
    }

    /// What became of lines for the host's log.
    pub(crate) fn host(&self) -> &HostLogCounters {
        &self.host
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
        let writer = Writer::new(pid, LogFile::open(&path, counters.clone()), host, counters.clone());
        thread::Builder::new().name("log".into()).spawn(move || writer.run(&received))?;
        Ok(Log { entries, counters, path })
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
        self.push(Entry::End(done));
        let _ = wait.recv_timeout(LAST_LINES_MAX);
    }

    /// Writes one line right here, for a process that has no time left for its thread.
    pub(crate) fn last_words(&self, text: &str) {
        let mut file = LogFile::open(&self.path, self.counters.clone());
        file.write(SystemTime::now(), text);
    }

    /// Gives the thread an entry, unless too many wait already: says whether it took it.
    fn send(&self, entry: Entry) -> bool {
        let has_room = self.counters.waiting.load(Relaxed) < WAITING_MAX;
        match has_room {
            true => self.push(entry),
            false => {
                self.counters.overflowed.fetch_add(1, Relaxed);
            }
        }
        has_room
    }

    fn push(&self, entry: Entry) {
        self.counters.waiting.fetch_add(1, Relaxed);
        // The thread is gone at the end of the process only.
        let _ = self.entries.send(Stamped { time: SystemTime::now(), entry });
    }
}

#[cfg(test)]
mod tests;
