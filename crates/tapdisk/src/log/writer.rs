//! The thread that writes. The host's log goes first: it is never waited for, while a file may hang.

use std::{
    sync::{
        Arc,
        atomic::Ordering::Relaxed,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant, SystemTime},
};

use control_api::{HostLog, Record, Severity};

use super::{Counters, Entry, Stamped, file::LogFile};

/// How soon, and how seldom at last, what waits for the host's log is tried again.
const RETRY_FIRST: Duration = Duration::from_millis(1);
const RETRY_LAST: Duration = Duration::from_secs(1);
/// Without anything to do it looks around so often.
const IDLE: Duration = Duration::from_secs(3600);
/// The room that a busy receiver gets for each of the last lines.
const LAST_LINE_PATIENCE: Duration = Duration::from_millis(100);

pub(super) struct Writer {
    name: String,
    file: LogFile,
    host: HostLog,
    retry: Retry,
    counters: Arc<Counters>,
    /// Of the entries that overflowed, those that have been told.
    told: u64,
    errors: u64,
    is_precious: bool,
}

impl Writer {
    pub(super) fn new(pid: u32, file: LogFile, host: HostLog, counters: Arc<Counters>) -> Writer {
        Writer {
            name: format!("tapdisk[{pid}]"),
            file,
            host,
            retry: Retry::default(),
            counters,
            told: 0,
            errors: 0,
            is_precious: false,
        }
    }

    pub(super) fn run(mut self, entries: &Receiver<Stamped>) {
        self.file.write(SystemTime::now(), &format!("{}: log start, level 0", self.name));
        loop {
            match entries.recv_timeout(self.retry.patience()) {
                Ok(Stamped { time, entry }) => {
                    self.counters.waiting.fetch_sub(1, Relaxed);
                    if let Entry::End(done) = entry {
                        self.finish(time);
                        let _ = done.try_send(());
                        return;
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
            Entry::Line(severity, text) => self.line(time, severity, text),
            Entry::Dump(text) => {
                self.is_precious = true;
                text.lines().for_each(|line| self.file.write(time, line));
                self.tell_counters(time);
            }
            Entry::Reopen => self.file.reopen(),
            Entry::End(_) => unreachable!("the end is not an entry like others"),
        }
    }

    fn line(&mut self, time: SystemTime, severity: Severity, text: String) {
        self.errors += u64::from(severity == Severity::Error);
        let prefix = if severity == Severity::Info { "" } else { "tap-err:" };
        self.host.send(Record { severity, time, text: format!("{prefix}{text}"), fields: Vec::new() });
        self.file.write(time, &text);
    }

    fn tell_overflow(&mut self) {
        let overflowed = self.counters.overflowed();
        if overflowed > self.told {
            self.file.write(SystemTime::now(), &format!("{} messages dropped", overflowed - self.told));
            self.told = overflowed;
        }
    }

    /// What became of lines: told when somebody looks, since there may be no log on this host.
    fn tell_counters(&mut self, time: SystemTime) {
        let (host, overflowed) = (self.counters.host(), self.counters.overflowed());
        let (sent, delivered, dropped) = (host.sent(), host.delivered(), host.dropped());
        let waiting = sent - delivered - dropped;
        let (written, unwritten) = (self.counters.written(), self.counters.unwritten());
        let mut tell = |line: String| self.file.write(time, &line);
        tell(format!("log: {written} lines, {unwritten} not written; {overflowed} messages dropped"));
        tell(format!("tapdisk-syslog: {sent} messages, {delivered} delivered, {waiting} waiting, {dropped} dropped"));
    }

    fn finish(&mut self, time: SystemTime) {
        self.tell_overflow();
        self.host.finish(LAST_LINE_PATIENCE);
        let dropped = self.counters.host().dropped();
        if dropped > 0 {
            self.file.write(time, &format!("tapdisk-syslog: {dropped} messages dropped"));
        }
        self.file.write(time, &format!("{}: closing log, {} errors", self.name, self.errors));
        if self.errors == 0 && !self.is_precious {
            self.file.remove();
        }
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
