//! Who takes the messages: sockets on which a journal or a syslog daemon listens.

use std::{
    env,
    ffi::OsString,
    io::{self, ErrorKind},
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

use super::{Record, Speaker, journal, syslog};

/// The variable that names the syslog socket instead of `/dev/log`.
pub const SYSLOG_VARIABLE: &str = "OXTAP_SYSLOG";
/// The variable that names the journal's socket instead of `/run/systemd/journal/socket`.
pub const JOURNAL_VARIABLE: &str = "OXTAP_JOURNAL";

const SYSLOG: &str = "/dev/log";
const JOURNAL: &str = "/run/systemd/journal/socket";

/// The sockets to try.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Receivers {
    /// Of a systemd journal; tried first.
    pub journal: Option<PathBuf>,
    /// Of a syslog daemon.
    pub syslog: Option<PathBuf>,
}

impl Receivers {
    /// Those of this host. If one of the variables is set, only what they name; empty, they name nothing.
    pub fn from_environment() -> Receivers {
        Receivers::named(env::var_os(JOURNAL_VARIABLE), env::var_os(SYSLOG_VARIABLE))
    }

    fn named(journal: Option<OsString>, syslog: Option<OsString>) -> Receivers {
        if journal.is_none() && syslog.is_none() {
            return Receivers { journal: Some(JOURNAL.into()), syslog: Some(SYSLOG.into()) };
        }
        let path = |name: Option<OsString>| name.filter(|name| !name.is_empty()).map(PathBuf::from);
        Receivers { journal: path(journal), syslog: path(syslog) }
    }

    /// A connection to the first that listens.
    pub(super) fn connect(&self) -> Option<Connection> {
        let to = |path: &Option<PathBuf>, form| {
            let socket = path.as_deref().and_then(connect)?;
            Some(Connection { socket, form })
        };
        to(&self.journal, Form::Journal).or_else(|| to(&self.syslog, Form::Syslog))
    }
}

fn connect(path: &Path) -> Option<UnixDatagram> {
    let socket = UnixDatagram::unbound().ok()?;
    socket.set_nonblocking(true).ok()?;
    socket.connect(path).ok()?;
    Some(socket)
}

/// What the receiver reads.
#[derive(Clone, Copy, Debug)]
enum Form {
    Journal,
    Syslog,
}

/// A connection to a receiver.
#[derive(Debug)]
pub(super) struct Connection {
    socket: UnixDatagram,
    form: Form,
}

/// How sending went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    Taken,
    /// The receiver has no room now.
    Later,
    /// The receiver will never take this one.
    Refused,
    /// Nobody listens there any more.
    Nobody,
}

impl Connection {
    pub(super) fn encode(&self, speaker: &Speaker, record: &Record, out: &mut Vec<u8>) {
        match self.form {
            Form::Journal => journal::encode(speaker, record, out),
            Form::Syslog => syslog::encode(speaker, record, out),
        }
    }

    pub(super) fn takes_fields(&self) -> bool {
        matches!(self.form, Form::Journal)
    }

    pub(super) fn send(&self, datagram: &[u8]) -> Sent {
        match self.socket.send(datagram) {
            Ok(_) => Sent::Taken,
            Err(error) => outcome(&error),
        }
    }

    /// Waits until the receiver has room, at most for so long.
    pub(super) fn wait_for_room(&self, limit: Duration) -> bool {
        let Ok(limit) = Timespec::try_from(limit) else { return false };
        let mut sockets = [PollFd::new(&self.socket, PollFlags::OUT)];
        poll(&mut sockets, Some(&limit)).is_ok_and(|ready| ready > 0)
    }
}

fn outcome(error: &io::Error) -> Sent {
    let number = error.raw_os_error().map(Errno::from_raw_os_error);
    match number {
        Some(Errno::MSGSIZE) => Sent::Refused,
        Some(Errno::NOBUFS | Errno::NOMEM) => Sent::Later,
        _ if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Sent::Later,
        _ => Sent::Nobody,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_named_replaces_all_of_the_host() {
        let named = |journal: Option<&str>, syslog: Option<&str>| {
            let named = Receivers::named(journal.map(Into::into), syslog.map(Into::into));
            [named.journal, named.syslog].map(|path| path.map_or("-".into(), |path| path.display().to_string()))
        };
        assert_eq!(named(None, None), [JOURNAL, SYSLOG]);
        assert_eq!(named(None, Some("/x")), ["-", "/x"]);
        assert_eq!(named(Some("/j"), Some("")), ["/j", "-"]);
    }
}
