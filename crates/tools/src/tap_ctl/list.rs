//! `list`: every disk that is attached, every tapdisk that has none, every minor that nobody holds.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    io::{self, IsTerminal},
};

use block_core::{ErrorKind, Result};
use control_api::{Client, Minor, protocol::ListEntry};

use super::{Failure, Options, Session, disk::ANSWER_MAX, write};

/// One line. What is not known is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Row {
    pid: Option<u32>,
    minor: Option<i32>,
    state: Option<String>,
    /// The parts in front of the first colon and behind it.
    image: Option<(Vec<u8>, Vec<u8>)>,
}

impl Row {
    fn of(pid: u32, entry: &ListEntry) -> Row {
        let image = entry.path.iter().position(|byte| *byte == b':').map(|colon| {
            let (kind, path) = entry.path.split_at(colon);
            (kind.to_vec(), path[1..].to_vec())
        });
        Row { pid: Some(pid), minor: Some(entry.minor), state: Some(entry.state.to_string()), image }
    }

    /// `pid=7 minor=0 state=0 args=vhd:/a.vhd`, as storage managers parse it.
    fn to_fields(&self) -> Vec<u8> {
        let mut parts: Vec<Vec<u8>> = Vec::new();
        parts.extend(self.pid.map(|pid| format!("pid={pid}").into_bytes()));
        parts.extend(self.minor.map(|minor| format!("minor={minor}").into_bytes()));
        parts.extend(self.state.as_ref().map(|state| format!("state={state}").into_bytes()));
        parts.extend(self.image.as_ref().map(|(kind, path)| [b"args=", &kind[..], b":", path].concat()));
        [parts.join(&b' '), b"\n".to_vec()].concat()
    }

    /// The same in columns, for people.
    fn to_columns(&self) -> Vec<u8> {
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
        let (kind, path) = self.image.clone().unwrap_or_else(|| (b"-".to_vec(), b"-".to_vec()));
        let mut line = String::new();
        let _ = write!(
            line,
            "{:>8} {:>4} {:>4} {:>10} ",
            or_dash(self.pid.map(|pid| pid.to_string())),
            or_dash(self.minor.map(|minor| minor.to_string())),
            or_dash(self.state.clone()),
            String::from_utf8_lossy(&kind),
        );
        [line.as_bytes(), &path, b"\n"].concat()
    }
}

pub(super) fn run(session: &Session, options: &Options) -> std::result::Result<(), Failure> {
    let rows = collect(session, options)?;
    let is_for_people = io::stdout().is_terminal();
    let lines = rows.iter().filter(|row| is_wanted(row, options));
    let lines: Vec<u8> = lines.flat_map(|row| if is_for_people { row.to_columns() } else { row.to_fields() }).collect();
    Ok(write(lines)?)
}

fn collect(session: &Session, options: &Options) -> Result<Vec<Row>> {
    // Markers first: what is attached in between is then found at its tapdisk, and not taken for an orphan.
    let mut orphans: BTreeSet<i32> = session.run.minors()?.into_iter().map(Minor::number).map(i32::from).collect();
    let pids = match options.number(b'p') {
        Some(pid) => u32::try_from(pid).into_iter().collect(),
        None => session.run.tapdisks()?,
    };
    let mut rows = Vec::new();
    for pid in pids {
        rows.extend(rows_of(pid, &session.client(pid, Some(ANSWER_MAX))));
    }
    for row in &rows {
        row.minor.map(|minor| orphans.remove(&minor));
    }
    rows.extend(orphans.into_iter().map(|minor| Row { minor: Some(minor), ..Row::default() }));
    Ok(rows)
}

/// The rows of one tapdisk: none if it does not answer, one without a disk if it has none.
fn rows_of(pid: u32, client: &Client) -> Vec<Row> {
    let alone = || vec![Row { pid: Some(pid), ..Row::default() }];
    if client.pid().is_err() {
        return Vec::new();
    }
    match client.list() {
        Ok(entries) if entries.is_empty() => alone(),
        Ok(entries) => entries.iter().rev().map(|entry| Row::of(pid, entry)).collect(),
        // It is there, but it hangs.
        Err(error) if error.kind() == ErrorKind::TimedOut => alone(),
        // It has ended in between.
        Err(_) => Vec::new(),
    }
}

fn is_wanted(row: &Row, options: &Options) -> bool {
    let has_number =
        |letter, number: Option<i64>| options.number(letter).is_none_or(|wanted| number == Some(wanted.into()));
    let has_text = |letter, text: Option<&[u8]>| options.bytes(letter).is_none_or(|wanted| text == Some(wanted));
    has_number(b'p', row.pid.map(i64::from))
        && has_number(b'm', row.minor.map(i64::from))
        && has_text(b't', row.image.as_ref().map(|(kind, _)| &kind[..]))
        && has_text(b'f', row.image.as_ref().map(|(_, path)| &path[..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use control_api::protocol::{Text, VbdState};
    use std::ffi::OsString;

    fn row(state: VbdState, path: &[u8]) -> Row {
        Row::of(19403, &ListEntry { count: 1, minor: 0, state, path: Text::new(path).unwrap() })
    }

    fn fields(row: &Row) -> String {
        String::from_utf8(row.to_fields()).unwrap()
    }

    #[test]
    fn rows_read_as_storage_managers_parse_them() {
        let open = row(VbdState::EMPTY, b"vhd:/a b:c.vhd");
        assert_eq!(fields(&open), "pid=19403 minor=0 state=0 args=vhd:/a b:c.vhd\n");
        assert_eq!(fields(&row(VbdState::CLOSED, b"")), "pid=19403 minor=0 state=0x2\n");
        assert_eq!(fields(&Row { pid: Some(7), ..Row::default() }), "pid=7\n");
        assert_eq!(fields(&Row { minor: Some(3), ..Row::default() }), "minor=3\n");
    }

    #[test]
    fn rows_are_columns_for_people() {
        let text = |row: Row| String::from_utf8(row.to_columns()).unwrap();
        assert_eq!(text(row(VbdState::EMPTY, b"vhd:/a.vhd")), "   19403    0    0        vhd /a.vhd\n");
        assert_eq!(text(Row { pid: Some(7), ..Row::default() }), "       7    -    -          - -\n");
    }

    #[test]
    fn filters_match_exactly() {
        let open = row(VbdState::EMPTY, b"vhd:/a:b");
        let wanted = |line: &str| {
            let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            is_wanted(&open, &super::super::syntax::LIST.parse(&words).unwrap())
        };
        assert!(wanted("-p 19403 -m 0 -t vhd -f /a:b"));
        assert!(!wanted("-p 1") && !wanted("-m 1") && !wanted("-t vh") && !wanted("-f /a"));
    }
}
