//! Long functions are counted, and may only get shorter and fewer.
//!
//! Each line of the ratchet file is `path function lines`: a function that was over the limit when somebody decided to
//! leave it so. A new one needs a line written by hand, where a reviewer sees it.

use anyhow::{Context, Result};

use super::source::SourceFile;
use super::{Complaint, RATCHET};

/// Past this, a function is looked at again.
const FUNCTION_LINES_MAX: usize = 70;

const HEADER: &str = "\
# Functions of more than 70 lines that are known: path, name, lines.
# Lines may only be removed or lowered (cargo xtask tidy --shrink does it); adding one is a decision for the review.
";

/// The known long functions.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ratchet {
    entries: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    path: String,
    function: String,
    length: usize,
}

impl Ratchet {
    pub(crate) fn parse(text: &str) -> Result<Ratchet> {
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let entries = lines.map(|line| Entry::parse(line).with_context(|| format!("{RATCHET}: bad line {line:?}")));
        Ok(Ratchet { entries: entries.collect::<Result<_>>()? })
    }

    pub(crate) fn to_text(&self) -> String {
        let mut text = HEADER.to_owned();
        for Entry { path, function, length } in &self.entries {
            text.push_str(&format!("{path} {function} {length}\n"));
        }
        text
    }

    /// Complains about functions that are longer than known, and about lines that are higher than needed.
    pub(crate) fn check(&self, sources: &[SourceFile]) -> Vec<Complaint> {
        let mut complaints = Vec::new();
        let long = long_functions(sources);
        for (line, entry) in &long {
            let known = self.entries.iter().find(|known| known.is_same_function(entry));
            let known_length = known.map_or(FUNCTION_LINES_MAX, |known| known.length);
            if entry.length > known_length {
                let reason = format!("{} has {} lines, {known_length} is the most", entry.function, entry.length);
                complaints.push(Complaint::new(&entry.path, *line, reason));
            }
        }
        let longest = |known: &Entry| longest(&long, known).unwrap_or(0);
        for known in self.entries.iter().filter(|known| longest(known) < known.length) {
            let Entry { path, function, length } = known;
            let reason = format!("{path} {function} has less than {length} lines now: cargo xtask tidy --shrink");
            complaints.push(Complaint::new(RATCHET, 0, reason));
        }
        complaints
    }

    /// The same, lowered to what is needed.
    pub(crate) fn shrunk(&self, sources: &[SourceFile]) -> Ratchet {
        let long = long_functions(sources);
        let shrink = |known: &Entry| {
            let length = longest(&long, known)?.min(known.length);
            Some(Entry { length, ..known.clone() })
        };
        Ratchet { entries: self.entries.iter().filter_map(shrink).collect() }
    }
}

impl Entry {
    fn parse(line: &str) -> Option<Entry> {
        let mut words = line.split_whitespace();
        let (path, function) = (words.next()?.to_owned(), words.next()?.to_owned());
        let length = words.next()?.parse().ok()?;
        words.next().is_none().then_some(Entry { path, function, length })
    }

    fn is_same_function(&self, other: &Entry) -> bool {
        self.path == other.path && self.function == other.function
    }
}

/// Functions of one file with one name share a line: the longest counts.
fn longest(long: &[(usize, Entry)], known: &Entry) -> Option<usize> {
    long.iter().filter(|(_, entry)| entry.is_same_function(known)).map(|(_, entry)| entry.length).max()
}

fn long_functions(sources: &[SourceFile]) -> Vec<(usize, Entry)> {
    let mut long = Vec::new();
    for source in sources {
        for function in &source.functions {
            if function.length > FUNCTION_LINES_MAX && !function.is_test {
                let (path, name) = (source.path.clone(), function.name.clone());
                long.push((function.line, Entry { path, function: name, length: function.length }));
            }
        }
    }
    long
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with one function of so many lines.
    fn source(lines: usize) -> SourceFile {
        SourceFile::new("a.rs", &format!("fn f() {{\n{}}}\n", "    g();\n".repeat(lines - 2)))
    }

    fn ratchet(length: usize) -> Ratchet {
        Ratchet::parse(&format!("# known\na.rs f {length}\n")).unwrap()
    }

    fn reasons(ratchet: &Ratchet, source: SourceFile) -> Vec<String> {
        ratchet.check(&[source]).into_iter().map(|complaint| complaint.reason).collect()
    }

    #[test]
    fn a_long_function_must_be_known() {
        let none = Ratchet::parse("").unwrap();
        assert_eq!(reasons(&none, source(70)), Vec::<String>::new());
        assert_eq!(reasons(&none, source(71)), ["f has 71 lines, 70 is the most"]);
    }

    #[test]
    fn a_known_function_may_not_grow() {
        assert_eq!(reasons(&ratchet(80), source(80)), Vec::<String>::new());
        assert_eq!(reasons(&ratchet(80), source(81)), ["f has 81 lines, 80 is the most"]);
    }

    #[test]
    fn what_got_shorter_stays_short() {
        assert_eq!(reasons(&ratchet(80), source(75)).len(), 1);
        assert_eq!(ratchet(80).shrunk(&[source(75)]), ratchet(75));
        assert_eq!(ratchet(80).shrunk(&[source(90)]), ratchet(80));
        assert_eq!(ratchet(80).shrunk(&[source(70)]).to_text(), HEADER);
    }

    #[test]
    fn a_bad_line_is_an_error() {
        assert!(Ratchet::parse("a.rs f\n").is_err());
        assert!(Ratchet::parse("a.rs f 80 more\n").is_err());
    }
}
