//! `oxtap ls`: every disk of this host. Asks each tapdisk; one that does not answer in time is listed as such.

use std::{collections::BTreeSet, io::Write, time::Duration};

use block_core::{Result, ResultExt};
use control_api::{
    Client, Minor, RunDir,
    protocol::{ListEntry, VbdState},
};
use serde_json::{Value, json};

use super::{arguments::Ls, size, text};

/// A tapdisk answers from a snapshot, whatever its disks are doing; one that takes this long is stuck or stopped.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// One line of the list.
#[derive(Debug, Default, PartialEq, Eq)]
struct Row {
    pid: Option<u32>,
    minor: Option<u16>,
    state: &'static str,
    bytes: Option<u64>,
    image: Option<String>,
    socket: Option<String>,
}

pub(super) fn run(arguments: &Ls) -> Result<()> {
    let rows = rows(&RunDir::from_environment())?;
    let text = if arguments.json { to_json(&rows) } else { to_table(&rows) };
    std::io::stdout().write_all(text.as_bytes()).context("stdout")
}

fn rows(run: &RunDir) -> Result<Vec<Row>> {
    let mut unattached: BTreeSet<u16> = run.minors()?.into_iter().map(Minor::number).collect();
    let mut rows = Vec::new();
    for pid in run.tapdisks().context(run.path().display())? {
        let disks = rows_of(run, pid);
        for row in &disks {
            if let Some(minor) = row.minor {
                unattached.remove(&minor);
            }
        }
        rows.extend(disks);
    }
    rows.extend(unattached.into_iter().map(|minor| Row { minor: Some(minor), state: "unattached", ..Row::default() }));
    Ok(rows)
}

/// The disks of one tapdisk. A socket that nobody listens on any more is none; silence is worth a line.
fn rows_of(run: &RunDir, pid: u32) -> Vec<Row> {
    let client = Client::new(run, pid).timeout(ANSWER_MAX);
    let idle = |state| Row { pid: Some(pid), state, ..Row::default() };
    match client.list() {
        Ok(entries) if entries.is_empty() => vec![idle("idle")],
        Ok(entries) => entries.iter().rev().map(|entry| row(run, &client, pid, entry)).collect(),
        Err(error) if control_api::errno(&error) == TIMED_OUT => vec![idle("silent")],
        Err(_) => Vec::new(),
    }
}

/// `ETIMEDOUT`, as the control protocol's client tells it.
const TIMED_OUT: i32 = 110;

fn row(run: &RunDir, client: &Client, pid: u32, entry: &ListEntry) -> Row {
    let minor = u16::try_from(entry.minor).ok().and_then(Minor::new);
    let image = Some(entry.path.to_string()).filter(|image| !image.is_empty());
    let geometry = minor.filter(|_| image.is_some()).and_then(|minor| client.disk_info(minor).ok());
    let socket = minor.map(|minor| run.nbd_socket(pid, minor)).filter(|socket| socket.exists());
    Row {
        pid: Some(pid),
        minor: minor.map(Minor::number),
        state: describe(entry.state, image.is_some()),
        bytes: geometry.map(|geometry| geometry.sectors.saturating_mul(block_core::SECTOR)),
        image,
        socket: socket.map(|socket| socket.display().to_string()),
    }
}

/// The state in one word, the most urgent first.
fn describe(state: VbdState, has_image: bool) -> &'static str {
    let words = [
        (VbdState::DEAD, "stuck"),
        (VbdState::SHUTDOWN_REQUESTED, "closing"),
        (VbdState::RESUME_FAILED, "resume failed"),
        (VbdState::PAUSED, "paused"),
        (VbdState::PAUSE_REQUESTED, "pausing"),
        (VbdState::CLOSED, "closed"),
    ];
    let word = words.into_iter().find(|(bit, _)| state.contains(*bit)).map(|(_, word)| word);
    word.unwrap_or(if has_image { "running" } else { "attached" })
}

fn to_table(rows: &[Row]) -> String {
    if rows.is_empty() {
        return "no disks\n".to_owned();
    }
    let head = ["PID", "MINOR", "STATE", "SIZE", "IMAGE"].map(str::to_owned);
    let or_dash = |cell: Option<String>| cell.unwrap_or_else(|| "-".to_owned());
    let lines = rows.iter().map(|row| {
        [
            or_dash(row.pid.map(|pid| pid.to_string())),
            or_dash(row.minor.map(|minor| minor.to_string())),
            row.state.to_owned(),
            or_dash(row.bytes.map(size::describe)),
            or_dash(row.image.clone()),
        ]
    });
    text::columns(&std::iter::once(head).chain(lines).collect::<Vec<_>>())
}

fn to_json(rows: &[Row]) -> String {
    let list: Vec<Value> = rows
        .iter()
        .map(|row| {
            json!({ "pid": row.pid, "minor": row.minor, "state": row.state, "bytes": row.bytes, "image": row.image,
                    "nbd_socket": row.socket })
        })
        .collect();
    format!("{:#}\n", Value::Array(list))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_most_urgent_is_told() {
        assert_eq!(describe(VbdState::EMPTY, true), "running");
        assert_eq!(describe(VbdState::EMPTY, false), "attached");
        assert_eq!(describe(VbdState::CLOSED, false), "closed");
        assert_eq!(describe(VbdState::PAUSED | VbdState::CLOSED | VbdState::QUIESCED, true), "paused");
        assert_eq!(describe(VbdState::PAUSED | VbdState::RESUME_FAILED, true), "resume failed");
    }

    #[test]
    fn a_host_without_disks_says_so() {
        let directory = tempfile::tempdir().unwrap();
        let rows = rows(&RunDir::at(directory.path())).unwrap();
        assert_eq!((to_table(&rows).as_str(), to_json(&rows).as_str()), ("no disks\n", "[]\n"));
    }

    #[test]
    fn a_minor_without_a_tapdisk_is_listed() {
        let directory = tempfile::tempdir().unwrap();
        let run = RunDir::at(directory.path());
        run.allocate_minor().unwrap();
        assert_eq!(
            to_table(&rows(&run).unwrap()),
            "PID  MINOR  STATE       SIZE  IMAGE\n-    0      unattached  -     -\n"
        );
    }
}
