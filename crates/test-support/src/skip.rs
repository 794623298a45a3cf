//! Tests that cannot run here say so, in a file that the test command reads.

use std::env;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

/// Names the file that collects the skips of one test run.
pub const SKIPS_VARIABLE: &str = "OXTAP_SKIPS";

const PREFIX: &str = "oxtap-skip: ";

/// A test that could not run, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skip {
    /// The test's name.
    pub test: String,
    /// What it would have needed.
    pub reason: String,
}

/// Records that `test` does not run here. The caller returns after it.
///
/// # Panics
///
/// If the file that collects the skips cannot be written: a skip must never be silent.
pub fn skip(test: &str, reason: &str) {
    let line = format!("{PREFIX}{test}: {}\n", reason.replace('\n', " "));
    eprint!("{line}");
    if let Some(path) = env::var_os(SKIPS_VARIABLE) {
        append(Path::new(&path), &line).unwrap_or_else(|error| panic!("cannot record a skip: {error}"));
    }
}

/// One write in append mode: lines of tests that run at the same time do not mix.
fn append(path: &Path, line: &str) -> io::Result<()> {
    OpenOptions::new().append(true).create(true).open(path)?.write_all(line.as_bytes())
}

/// The skips recorded in `path`; a file that does not exist holds none.
pub fn recorded_skips(path: &Path) -> io::Result<Vec<Skip>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text.lines().filter_map(parse).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn parse(line: &str) -> Option<Skip> {
    let (test, reason) = line.strip_prefix(PREFIX)?.split_once(": ")?;
    Some(Skip { test: test.to_owned(), reason: reason.to_owned() })
}

/// Whether we are root. If not, `test` is recorded as skipped and should return.
#[must_use]
pub fn require_root(test: &str) -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        skip(test, "needs root");
    }
    is_root
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skips_are_read_as_they_were_recorded() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("skips");
        assert_eq!(recorded_skips(&path).unwrap(), []);
        append(&path, "oxtap-skip: discard_reaches_a_device: needs root: loop devices\n").unwrap();
        append(&path, "something else\n").unwrap();
        let expected =
            Skip { test: "discard_reaches_a_device".to_owned(), reason: "needs root: loop devices".to_owned() };
        assert_eq!(recorded_skips(&path).unwrap(), [expected]);
    }
}
