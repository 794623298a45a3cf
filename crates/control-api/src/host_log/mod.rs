//! Messages to the host's log: the systemd journal where one listens, else syslog. Sending never waits.
//!
//! ```text
//!   send --> waiting: at most 64 KiB --> one datagram each --> receiver
//!               |                           |
//!               full: dropped, counted      full, stopped or gone: it waits for `retry`
//! ```
//!
//! Once messages had to be dropped, all are, until half of what waited is gone; then a notice takes their place and says
//! how many. So the notices and the messages that arrive add up to what was sent, in the order in which it was sent.
//!
//! The journal goes first because it keeps fields apart and hands everything on to syslog, if the host has both: sent to
//! both, every line would be there twice.

mod journal;
mod receiver;
mod syslog;

use std::{
    collections::VecDeque,
    process,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime},
};

pub use receiver::{JOURNAL_VARIABLE, Receivers, SYSLOG_VARIABLE};
pub use syslog::timestamp;

use receiver::{Connection, Sent};

/// What may wait for a receiver, counted in bytes of text.
const WAITING_BYTES_MAX: usize = 64 << 10;
/// How long a receiver without room is left alone.
const DEAF_TIME: Duration = Duration::from_micros(100);
/// What of a text is sent: receivers cut, or refuse, what is much longer.
const TEXT_BYTES_MAX: usize = 8000;

/// Who speaks, as the host's log sorts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Facility {
    /// A program that somebody runs.
    User = 1,
    /// A program that runs on its own.
    Daemon = 3,
}

/// How much a message matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Something failed.
    Error = 3,
    /// Something is not as it should be.
    Warning = 4,
    /// Something happened.
    Info = 6,
}

/// What a journal keeps apart: a name in capitals, and its value.
pub type Field = (&'static str, String);

/// One message.
#[derive(Clone, Debug)]
pub struct Record {
    /// How much it matters.
    pub severity: Severity,
    /// When it happened.
    pub time: SystemTime,
    /// In words, one line; line breaks become blanks.
    pub text: String,
    /// What a journal is told besides.
    pub fields: Vec<Field>,
}

impl Record {
    /// A message of this moment, without fields.
    pub fn now(severity: Severity, text: impl Into<String>) -> Record {
        Record { severity, time: SystemTime::now(), text: text.into(), fields: Vec::new() }
    }

    fn bytes(&self) -> usize {
        self.text.len() + self.fields.iter().map(|(_, value)| value.len()).sum::<usize>()
    }
}

/// What became of messages; any thread may look.
#[derive(Debug, Default)]
pub struct HostLogCounters {
    sent: AtomicU64,
    delivered: AtomicU64,
    dropped: AtomicU64,
}

impl HostLogCounters {
    /// Messages that were given to us, without our own notices.
    pub fn sent(&self) -> u64 {
        self.sent.load(Relaxed)
    }

    /// Those of them that a receiver took.
    pub fn delivered(&self) -> u64 {
        self.delivered.load(Relaxed)
    }

    /// Those of them that are lost. The rest waits.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }
}

/// Who speaks.
#[derive(Clone, Debug)]
struct Speaker {
    program: &'static str,
    pid: u32,
    facility: Facility,
}

/// A way to the host's log.
#[derive(Debug)]
pub struct HostLog {
    speaker: Speaker,
    receivers: Receivers,
    connection: Option<Connection>,
    /// Nobody listened when we looked last.
    is_absent: bool,
    /// When the receiver had no room last.
    refused: Option<Instant>,
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    /// Dropped, and not told yet.
    untold: u64,
    counters: Arc<HostLogCounters>,
    datagram: Vec<u8>,
}

#[derive(Debug)]
struct Waiting {
    record: Record,
    is_notice: bool,
}

impl HostLog {
    /// A way to the log of this host, for this process.
    pub fn new(program: &'static str, facility: Facility) -> HostLog {
        HostLog::at(Receivers::from_environment(), program, process::id(), facility)
    }

    /// A way to one of these receivers.
    pub fn at(receivers: Receivers, program: &'static str, pid: u32, facility: Facility) -> HostLog {
        HostLog {
            speaker: Speaker { program, pid, facility },
            receivers,
            connection: None,
            is_absent: false,
            refused: None,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            untold: 0,
            counters: Arc::default(),
            datagram: Vec::new(),
        }
    }

    /// What became of messages, from now on and for any thread.
    pub fn counters(&self) -> Arc<HostLogCounters> {
        self.counters.clone()
    }

    /// Whether fields arrive, as far as is known: a syslog daemon gets none.
    pub fn takes_fields(&self) -> bool {
        self.connection.as_ref().map_or(self.receivers.journal.is_some(), Connection::takes_fields)
    }

    /// Whether messages wait for their receiver: then [`retry`](Self::retry) should be called now and then.
    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Takes one message, and sends it if that is possible at once.
    pub fn send(&mut self, record: Record) {
        self.counters.sent.fetch_add(1, Relaxed);
        // Looking for a receiver that is not there is for those who have the time; nor is one that had no room a moment
        // ago asked for each message.
        let is_deaf = self.refused.is_some_and(|refused| refused.elapsed() < DEAF_TIME);
        let may_pass = !self.is_absent && !is_deaf && self.flush();
        if self.untold > 0 || self.waiting_bytes + record.bytes() > WAITING_BYTES_MAX {
            self.untold += 1;
            self.counters.dropped.fetch_add(1, Relaxed);
            return;
        }
        self.wait(record, false);
        if may_pass {
            self.flush();
        }
    }

    /// Sends what waits as far as a receiver takes it, also to one that is new. Says whether any was taken.
    pub fn retry(&mut self) -> bool {
        let before = self.waiting.len();
        self.is_absent = false;
        self.flush();
        self.waiting.len() < before
    }

    /// Sends what waits and gives up the rest, which counts as dropped. A receiver that listens and is busy gets so much
    /// time for all of it, and a tenth of that for each message.
    pub fn finish(&mut self, limit: Duration) {
        let end = Instant::now() + limit;
        while !self.flush() && !self.is_absent && Instant::now() < end {
            let has_room = self.connection.as_ref().is_some_and(|connection| connection.wait_for_room(limit / 10));
            if !has_room {
                break;
            }
        }
        let lost = self.waiting.drain(..).filter(|waiting| !waiting.is_notice).count();
        self.waiting_bytes = 0;
        self.counters.dropped.fetch_add(lost as u64, Relaxed);
    }

    fn wait(&mut self, record: Record, is_notice: bool) {
        self.waiting_bytes += record.bytes();
        self.waiting.push_back(Waiting { record, is_notice });
    }

    /// Sends what waits; says whether everything is gone.
    fn flush(&mut self) -> bool {
        self.refused = None;
        while let Some(first) = self.waiting.front() {
            match transmit(&mut self.connection, &self.receivers, &self.speaker, &first.record, &mut self.datagram) {
                Sent::Taken => self.has_gone(|counters| &counters.delivered),
                Sent::Refused => {
                    self.untold += 1;
                    self.has_gone(|counters| &counters.dropped);
                }
                Sent::Later => {
                    self.refused = Some(Instant::now());
                    return false;
                }
                Sent::Nobody => {
                    self.is_absent = true;
                    return false;
                }
            }
            self.tell_dropped();
        }
        true
    }

    fn has_gone(&mut self, counter: fn(&HostLogCounters) -> &AtomicU64) {
        let gone = self.waiting.pop_front().expect("it was looked at");
        self.waiting_bytes -= gone.record.bytes();
        if !gone.is_notice {
            counter(&self.counters).fetch_add(1, Relaxed);
        }
    }

    /// There is room again: says what is missing, where it is missing.
    fn tell_dropped(&mut self) {
        if self.untold > 0 && self.waiting_bytes <= WAITING_BYTES_MAX / 2 {
            let lost = std::mem::take(&mut self.untold);
            let text = format!("{}-syslog: {lost} messages dropped", self.speaker.program);
            self.wait(Record::now(Severity::Warning, text), true);
        }
    }
}

/// Sends one message over the connection that there is, or over a new one if that has ended: the receiver may have been
/// restarted.
fn transmit(
    connection: &mut Option<Connection>,
    receivers: &Receivers,
    speaker: &Speaker,
    record: &Record,
    datagram: &mut Vec<u8>,
) -> Sent {
    let is_new = connection.is_none();
    for _ in 0..if is_new { 1 } else { 2 } {
        if connection.is_none() {
            *connection = receivers.connect();
        }
        let Some(receiver) = connection else { return Sent::Nobody };
        datagram.clear();
        receiver.encode(speaker, record, datagram);
        match receiver.send(datagram) {
            Sent::Nobody => *connection = None,
            sent => return sent,
        }
    }
    Sent::Nobody
}

/// A text as it is sent: one line of bounded length.
fn line(text: &str) -> String {
    let ends = text.char_indices().map(|(start, character)| start + character.len_utf8());
    let end = match text.len() {
        ..=TEXT_BYTES_MAX => text.len(),
        _ => ends.take_while(|end| *end <= TEXT_BYTES_MAX).last().unwrap_or(0),
    };
    text[..end].replace(['\n', '\r', '\0'], " ")
}

#[cfg(test)]
mod tests;
