//! What to say when an answer does not come: which step hangs, and what the disk is doing instead.

use std::time::Duration;

use block_core::{Error, ErrorKind, Result};
use control_api::{Client, Minor, protocol::ListEntry};

use super::{Session, disk::ANSWER_MAX};

/// A command that does not wait for ever.
pub(super) struct Patience<'a> {
    pub(super) session: &'a Session,
    pub(super) pid: u32,
    pub(super) minor: Minor,
    pub(super) timeout: Option<Duration>,
}

impl Patience<'_> {
    /// The same result; if time ran out, the error says what `command` is waiting for.
    pub(super) fn explain<T>(&self, command: &str, result: Result<T>) -> Result<T> {
        result.map_err(|error| if error.kind() == ErrorKind::TimedOut { self.timed_out(command) } else { error })
    }

    fn timed_out(&self, command: &str) -> Error {
        let limit = self.timeout.unwrap_or_default().as_secs();
        let client = self.session.client(self.pid, Some(ANSWER_MAX));
        let doing = doing(&client, self.minor).unwrap_or_else(|| "the tapdisk does not answer".into());
        Error::new(ErrorKind::TimedOut, format!("{command} has not ended after {limit} s: {doing}"))
    }
}

/// What a disk is doing, as far as its tapdisk tells: its state, the step that it is at, the requests that wait.
fn doing(client: &Client, minor: Minor) -> Option<String> {
    let is_ours = |entry: &ListEntry| entry.minor == i32::from(minor.number());
    let state = client.list().ok()?.into_iter().find(is_ours)?.state;
    let statistics = client.stats(Some(minor)).ok()?;
    let statistics = String::from_utf8_lossy(&statistics);
    let step = text(&statistics, "\"doing\": \"", '"').unwrap_or("no step told");
    let requests = text(&statistics, "\"reqs_outstanding\": ", ',').unwrap_or("?");
    Some(format!("{step} (state {state}, {requests} requests outstanding)"))
}

/// What stands in `statistics` between these two. Our own words only: nothing in them is escaped.
fn text<'a>(statistics: &'a str, before: &str, end: char) -> Option<&'a str> {
    let (_, rest) = statistics.rsplit_once(before)?;
    rest.split(end).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_step_is_read_from_the_statistics() {
        let statistics = "{ \"name\": \"x\", \"reqs_outstanding\": 3, \"doing\": \"flushing the images\" }";
        assert_eq!(text(statistics, "\"doing\": \"", '"'), Some("flushing the images"));
        assert_eq!(text(statistics, "\"reqs_outstanding\": ", ','), Some("3"));
        assert_eq!(text("{  }", "\"doing\": \"", '"'), None);
    }
}
