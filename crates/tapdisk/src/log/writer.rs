//! The log's thread: it finds the words, and gives them to the host's log and to the file's thread. It waits for neither.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::Ordering::Relaxed,
        mpsc::{Receiver, RecvTimeoutError, SyncSender},
    },
    time::{Duration, Instant, SystemTime},
};

use control_api::{Field, HostLog, Record, Severity};
use virtual_disk::Report;

use super::{
    Counters, DiskName, Entry, Stamped,
    causes::{Causes, Telling},
    file_thread::FileThread,
    lines,
};

/// How soon, and how seldom at last, what waits for the host's log is tried again.
const RETRY_FIRST: Duration = Duration::from_millis(1);
const RETRY_LAST: Duration = Duration::from_secs(1);
/// Without anything to do it looks around so often.
const IDLE: Duration = Duration::from_secs(3600);
/// What a busy receiver gets for the last lines; a deaf one costs a tenth of it.
const HOST_LAST_LINES_MAX: Duration = Duration::from_secs(1);

pub(super) struct Writer {
    name: String,
    file: FileThread,
    host: HostLog,
    retry: Retry,
    counters: Arc<Counters>,
    causes: Arc<Mutex<Causes>>,
    /// Of the entries that overflowed, those that have been told.
    told: u64,
    errors: u64,
    is_precious: bool,
}

impl Writer {
    pub(super) fn new(
        pid: u32,
        file: FileThread,
        host: HostLog,
        counters: Arc<Counters>,
        causes: Arc<Mutex<Causes>>,
    ) -> Writer {
        Writer {
            name: format!("tapdisk[{pid}]"),
            file,
            host,
            retry: Retry::default(),
            counters,
            causes,
            told: 0,
            errors: 0,
            is_precious: false,
        }
    }

    pub(super) fn run(mut self, entries: &Receiver<Stamped>) {
        self.file.write(SystemTime::now(), format!("{}: log start, level 0", self.name));
        loop {
            match entries.recv_timeout(self.retry.patience()) {
                Ok(Stamped { time, entry }) => {
                    self.counters.waiting.fetch_sub(1, Relaxed);
                    if let Entry::End(done) = entry {
                        return self.finish(time, done);
                    }
                    self.take(time, entry);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.retry.run(&mut self.host);
            self.tell_overflow();
        }
    }

    fn take(&mut self, time: SystemTime, entry: Entry) {
        match entry {
            Entry::Line(severity, text) => {
                self.send(time, severity, &text, Vec::new());
                self.file.write(time, text);
            }
            Entry::Report(disk, report) => self.report(time, &disk, &report),
            Entry::Dump(text) => {
                self.is_precious = true;
                text.lines().for_each(|line| self.file.write(time, line));
                self.tell_causes(time);
                self.tell_counters(time);
            }
            Entry::Reopen(is_reopening) => self.file.reopen(is_reopening),
            Entry::End(_) => unreachable!("the end is not an entry like others"),
        }
    }

    fn report(&mut self, time: SystemTime, disk: &DiskName, report: &Report) {
        let Telling::Tell { suppressed } = self.causes().note(disk.minor, time, report) else { return };
        if suppressed > 0 {
            let words = format!("minor={}: {suppressed} messages suppressed", disk.minor);
            self.send(time, Severity::Warning, &words, Vec::new());
            self.file.write(time, words);
        }
        let image = disk.published.words().name.to_string();
        let told = lines::tell(disk.minor, &image, report, self.host.takes_fields());
        self.send(time, told.severity, &told.text, told.fields);
        self.file.write_about_request(time, told.text);
    }

    /// Tells the host.
    fn send(&mut self, time: SystemTime, severity: Severity, text: &str, fields: Vec<Field>) {
        self.errors += u64::from(severity == Severity::Error);
        let prefix = if severity == Severity::Info { "" } else { "tap-err:" };
        self.host.send(Record { severity, time, text: format!("{prefix}{text}"), fields });
    }

    fn causes(&self) -> MutexGuard<'_, Causes> {
        self.causes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell_causes(&mut self, time: SystemTime) {
        let lines = self.causes().lines();
        lines.into_iter().for_each(|line| self.file.write(time, line));
    }

    fn tell_overflow(&mut self) {
        let overflowed = self.counters.overflowed();
        if overflowed > self.told {
            self.file.write(SystemTime::now(), format!("{} messages dropped", overflowed - self.told));
            self.told = overflowed;
            self.is_precious = true;
        }
    }

    /// What became of lines: told when somebody looks, since there may be no log on this host.
    fn tell_counters(&mut self, time: SystemTime) {
        let counters = &self.counters;
        let (produced, delivered, dropped) = (counters.produced(), counters.delivered(), counters.dropped());
        // They go on counting while we look.
        let waiting = produced.saturating_sub(delivered + dropped);
        self.file.count(time);
        let words = format!("{produced} messages, {delivered} delivered, {waiting} waiting, {dropped} dropped");
        self.file.write(time, format!("tapdisk-syslog: {words}"));
    }

    fn finish(mut self, time: SystemTime, done: SyncSender<()>) {
        self.tell_overflow();
        self.host.finish(HOST_LAST_LINES_MAX);
        self.tell_causes(time);
        let dropped = self.counters.dropped();
        if dropped > 0 {
            self.file.write(time, format!("tapdisk-syslog: {dropped} messages dropped"));
        }
        self.file.write(time, format!("{}: closing log, {} errors", self.name, self.errors));
        self.file.end(self.errors > 0 || self.is_precious, done);
    }
}

/// When to try again what waits for the host's log: soon at first, then more and more seldom, as long as nothing moves.
#[derive(Debug, Default)]
struct Retry {
    next: Option<Instant>,
    pause: Duration,
}

impl Retry {
    /// How long the thread may sleep.
    fn patience(&self) -> Duration {
        self.next.map_or(IDLE, |next| next.saturating_duration_since(Instant::now()))
    }

    fn run(&mut self, host: &mut HostLog) {
        if !host.is_waiting() {
            *self = Retry::default();
            return;
        }
        let now = Instant::now();
        let has_moved = self.next.is_some_and(|next| next <= now) && host.retry();
        if self.next.is_none_or(|next| next <= now) {
            self.pause = if has_moved { RETRY_FIRST } else { (self.pause * 2).clamp(RETRY_FIRST, RETRY_LAST) };
            self.next = Some(now + self.pause);
        }
    }
}
