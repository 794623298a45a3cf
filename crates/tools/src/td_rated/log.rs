//! Where lines go: to stderr in the foreground, else to the host's log.

use std::{
    io::{self, Write},
    process,
    time::Duration,
};

use control_api::{Facility, HostLog, Record, Severity};

/// How long lines may take to leave at the end.
const LAST_LINES_WAIT_MAX: Duration = Duration::from_secs(1);

/// Takes lines, and never waits for whoever reads them.
#[derive(Debug)]
pub(super) struct Log {
    /// Above 1: each grant is told.
    level: u64,
    host: Option<HostLog>,
}

impl Log {
    pub(super) fn to_stderr(level: u64) -> Log {
        Log { level, host: None }
    }

    pub(super) fn to_host() -> Log {
        Log { level: 0, host: Some(HostLog::new("td-rated", Facility::Daemon)) }
    }

    /// Something that people decide on.
    pub(super) fn info(&mut self, text: &str) {
        self.line(Severity::Info, text);
    }

    /// Somebody does what he should not.
    pub(super) fn warning(&mut self, text: &str) {
        self.line(Severity::Warning, text);
    }

    /// What happens all the time, for those who asked for it.
    pub(super) fn detail(&mut self, text: impl FnOnce() -> String) {
        if self.level > 1 {
            self.line(Severity::Info, &text());
        }
    }

    fn line(&mut self, severity: Severity, text: &str) {
        for line in text.lines() {
            match &mut self.host {
                Some(host) => {
                    host.retry();
                    host.send(Record::now(severity, line));
                }
                None => drop(writeln!(io::stderr(), "td-rated[{}]: {line}", process::id())),
            }
        }
    }

    /// Gives what waits some time to leave.
    pub(super) fn finish(&mut self) {
        if let Some(host) = &mut self.host {
            host.finish(LAST_LINES_WAIT_MAX);
        }
    }
}
