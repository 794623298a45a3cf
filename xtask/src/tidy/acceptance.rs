//! The rule for `docs/acceptance.md`: every statement names tests, in backticks, and every name is a test of the tree.

use super::Complaint;
use super::source::SourceFile;

/// The page that the rule is for.
pub(crate) const PAGE: &str = "docs/acceptance.md";

/// What a statement's heading starts with.
const STATEMENT: &str = "## A";

/// Checks the page against the tests that there are.
pub(crate) fn check(text: &str, sources: &[SourceFile]) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    let mut statement: Option<(usize, &str, usize)> = None;
    let end = |statement: Option<(usize, &str, usize)>, complaints: &mut Vec<Complaint>| {
        if let Some((line, title, 0)) = statement {
            complaints.push(Complaint::new(PAGE, line, format!("no test shows {title}")));
        }
    };
    for (line, number) in text.lines().zip(1..) {
        if line.starts_with('#') {
            end(statement.take(), &mut complaints);
            statement = line.starts_with(STATEMENT).then(|| (number, line.trim_start_matches(['#', ' ']), 0));
        }
        for name in line.split('`').skip(1).step_by(2) {
            if let Some((_, _, count)) = &mut statement {
                *count += 1;
            }
            if !sources.iter().any(|source| has_test(source, name)) {
                complaints.push(Complaint::new(PAGE, number, format!("there is no test {name}")));
            }
        }
    }
    end(statement, &mut complaints);
    complaints
}

/// Whether a file has a test of this name. What is in front of it, with colons between, are files or directories on the
/// way to it.
fn has_test(source: &SourceFile, name: &str) -> bool {
    let (modules, function) = name.rsplit_once("::").unwrap_or(("", name));
    let path = source.path.strip_suffix(".rs").unwrap_or(&source.path);
    let is_on_the_way = |module: &str| path.split('/').any(|part| part == module);
    let mut functions = source.functions.iter();
    functions.any(|found| found.name == function && (is_marked(source, found.line) || is_in_macro(source, found.line)))
        && modules.split("::").filter(|module| !module.is_empty()).all(is_on_the_way)
}

/// Whether `#[test]` stands above the function on this line, perhaps among other attributes.
fn is_marked(source: &SourceFile, line: usize) -> bool {
    let mut above = source.code[..line - 1].iter().rev().map(|code| code.trim());
    above.find(|code| !code.is_empty() && (*code == "#[test]" || !code.starts_with("#["))) == Some("#[test]")
}

/// Whether a macro makes tests of the function on this line: it then stands right inside `name! {`, in test code.
fn is_in_macro(source: &SourceFile, line: usize) -> bool {
    let indentation = |code: &str| code.len() - code.trim_start().len();
    let own = indentation(&source.code[line - 1]);
    let mut above = source.code[..line - 1].iter().rev();
    let around = above.find(|code| !code.trim().is_empty() && indentation(code) < own);
    source.is_test[line - 1] && around.is_some_and(|code| code.trim_end().ends_with("! {"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reasons(page: &str) -> Vec<String> {
        let source = SourceFile::new(
            "crates/disk/tests/control/pause.rs",
            "//! A.\n#[test]\nfn it_waits() {}\nfn help() {}\n\
                      all! {\n    fn it_ends() {\n    }\n}\n",
        );
        let complaints = check(page, &[source]).into_iter();
        complaints.map(|complaint| format!("{}: {}", complaint.line, complaint.reason)).collect()
    }

    #[test]
    fn a_name_is_a_test_and_its_way() {
        let page =
            "# Page\n## A000.1\nWords.\n`pause::it_waits`, `control::pause::it_waits`, `it_waits`, `pause::it_ends`\n";
        assert_eq!(reasons(page), [] as [&str; 0]);
        assert_eq!(reasons("## A000.1\n`it_runs`\n"), ["2: there is no test it_runs"]);
        assert_eq!(reasons("## A000.1\n`help`\n"), ["2: there is no test help"]);
        assert_eq!(reasons("## A000.1\n`resume::it_waits`\n"), ["2: there is no test resume::it_waits"]);
    }

    #[test]
    fn a_statement_without_a_test_is_not_shown() {
        let page = "## A000.1\nWords.\n## A000.2\n`it_waits`\n## Others\n## A000.3 Some\n";
        assert_eq!(reasons(page), ["1: no test shows A000.1", "6: no test shows A000.3 Some"]);
    }
}
