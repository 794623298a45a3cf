//! Messages to the host's log, as datagrams written by hand: sending never waits, and what the log does not take at
//! once is lost and counted.

use std::{
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

const SOCKET: &str = "/dev/log";

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

/// A way to the host's log. Without a log on the host, every message counts as lost.
#[derive(Debug)]
pub struct Syslog {
    path: PathBuf,
    ident: String,
    facility: Facility,
    socket: Option<UnixDatagram>,
    lost: u64,
}

impl Syslog {
    /// A way to the log of this host. `ident` stands in front of every message.
    pub fn new(ident: impl Into<String>, facility: Facility) -> Syslog {
        Syslog::at(SOCKET, ident, facility)
    }

    /// A way to the log that listens at this socket.
    pub fn at(path: impl AsRef<Path>, ident: impl Into<String>, facility: Facility) -> Syslog {
        Syslog { path: path.as_ref().into(), ident: ident.into(), facility, socket: None, lost: 0 }
    }

    /// Sends one message; says whether the log took it. Line breaks become blanks: one message, one line.
    pub fn send(&mut self, severity: Severity, text: &str) -> bool {
        let priority = (self.facility as u8) << 3 | severity as u8;
        let time = timestamp(SystemTime::now());
        let text = text.replace(['\n', '\r', '\0'], " ");
        let line = format!("<{priority}>{time} {}: {text}", self.ident);
        let sent = self.send_line(line.as_bytes());
        if !sent {
            self.lost += 1;
        }
        sent
    }

    /// How many messages the log did not take since this was asked last.
    pub fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }

    fn send_line(&mut self, line: &[u8]) -> bool {
        // The log daemon may have been restarted: then the old connection fails and a new one is tried once.
        for _ in 0..2 {
            if self.socket.is_none() {
                self.socket = self.connect();
            }
            let Some(socket) = &self.socket else { return false };
            match socket.send(line) {
                Ok(_) => return true,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return false,
                Err(_) => self.socket = None,
            }
        }
        false
    }

    fn connect(&self) -> Option<UnixDatagram> {
        let socket = UnixDatagram::unbound().ok()?;
        socket.set_nonblocking(true).ok()?;
        socket.connect(&self.path).ok()?;
        Some(socket)
    }
}

/// `Nov  7 15:04:05`, as logs write it, in UTC.
pub fn timestamp(time: SystemTime) -> String {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    let (month, day) = month_and_day(seconds / 86400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{} {day:2} {hour:02}:{minute:02}:{second:02}", MONTHS[month])
}

/// The month (from 0) and the day (from 1) of a day counted from 1 January 1970.
fn month_and_day(mut day: u64) -> (usize, u64) {
    let is_leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    // 400 years have 146097 days; the rest is counted year by year.
    day %= 146_097;
    while day >= 365 + u64::from(is_leap(year)) {
        day -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let lengths = [31, 28 + u64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while day >= lengths[month] {
        day -= lengths[month];
        month += 1;
    }
    (month, day + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> String {
        timestamp(UNIX_EPOCH + Duration::from_secs(seconds))
    }

    #[test]
    fn timestamps_read_as_in_every_log() {
        assert_eq!(at(0), "Jan  1 00:00:00");
        assert_eq!(at(951_782_400), "Feb 29 00:00:00");
        assert_eq!(at(1_709_251_199), "Feb 29 23:59:59");
        assert_eq!(at(1_795_236_245), "Nov 21 04:44:05");
        assert_eq!(at(4_107_542_400), "Mar  1 00:00:00");
    }

    #[test]
    fn a_message_is_one_datagram() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let log = UnixDatagram::bind(&path).unwrap();
        let mut syslog = Syslog::at(&path, "tapdisk[7]", Facility::Daemon);
        assert!(syslog.send(Severity::Warning, "one\ntwo"));
        let mut bytes = [0; 200];
        let length = log.recv(&mut bytes).unwrap();
        let text = std::str::from_utf8(&bytes[..length]).unwrap();
        assert!(text.starts_with("<28>") && text.ends_with(" tapdisk[7]: one two"), "{text}");
    }

    #[test]
    fn a_log_that_does_not_read_never_blocks_us() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let _deaf = UnixDatagram::bind(&path).unwrap();
        let mut syslog = Syslog::at(&path, "x", Facility::User);
        let taken = (0..5000).filter(|_| syslog.send(Severity::Info, "hello")).count() as u64;
        assert!(taken < 5000);
        assert_eq!((syslog.take_lost(), syslog.take_lost()), (5000 - taken, 0));
    }

    #[test]
    fn a_host_without_a_log_loses_messages_only() {
        let directory = tempfile::tempdir().unwrap();
        let mut syslog = Syslog::at(directory.path().join("none"), "x", Facility::User);
        assert!(!syslog.send(Severity::Error, "hello"));
        assert_eq!(syslog.take_lost(), 1);
    }

    #[test]
    fn a_restarted_log_is_found_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let first = UnixDatagram::bind(&path).unwrap();
        let mut syslog = Syslog::at(&path, "x", Facility::User);
        assert!(syslog.send(Severity::Info, "one"));
        drop(first);
        std::fs::remove_file(&path).unwrap();
        let _second = UnixDatagram::bind(&path).unwrap();
        assert!(syslog.send(Severity::Info, "two"));
    }
}
