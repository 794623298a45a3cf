//! The rules for `tests/mutants/`: each defect says what it breaks and names the test that must notice.

use super::Complaint;
use super::source::SourceFile;
use crate::mutants::Mutant;
use crate::workspace::Workspace;

/// Checks one patch against the packages and the tests that there are.
pub(crate) fn check(path: &str, text: &str, workspace: &Workspace, sources: &[SourceFile]) -> Vec<Complaint> {
    let packages: Vec<&str> = workspace.packages.iter().map(|package| package.name.as_str()).collect();
    let complaint = complaint(path, text, &packages, sources);
    complaint.map(|reason| Complaint::new(path, 1, reason)).into_iter().collect()
}

fn complaint(path: &str, text: &str, packages: &[&str], sources: &[SourceFile]) -> Option<String> {
    let mutant = match Mutant::parse(path, text) {
        Ok(mutant) => mutant,
        Err(error) => return Some(format!("{error:#}")),
    };
    let Some(package) = mutant.package() else { return Some("the test names no package (-p)".to_owned()) };
    if !packages.contains(&package) {
        return Some(format!("there is no package {package}"));
    }
    let directory = format!("crates/{package}/");
    let mut tests: Vec<&SourceFile> = sources.iter().filter(|source| source.path.starts_with(&directory)).collect();
    if let Some(target) = mutant.test_target() {
        let (file, module) = (format!("{directory}tests/{target}.rs"), format!("{directory}tests/{target}/"));
        tests.retain(|source| source.path == file || source.path.starts_with(&module));
        if tests.is_empty() {
            return Some(format!("{package} has no integration test {target}"));
        }
    }
    let filter = mutant.filter()?;
    let mut functions = tests.iter().flat_map(|source| &source.functions);
    let is_there = functions.any(|function| function.is_test && function.name.contains(filter));
    (!is_there).then(|| format!("{package} has no test {filter}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_defect_names_a_test_that_exists() {
        let source = SourceFile::new("crates/disk/tests/a.rs", "//! A.\nfn data_comes_first() {}\n");
        let check = |test: &str| {
            let text = format!("# breaks: the order\n# test: {test}\n--- a/x\n");
            complaint("tests/mutants/order.patch", &text, &["disk"], std::slice::from_ref(&source))
        };
        assert_eq!(check("-p disk a::data_comes"), None);
        assert_eq!(check("-p disk data_comes_last"), Some("disk has no test data_comes_last".to_owned()));
        assert_eq!(check("-p disk --test a"), None);
        assert_eq!(check("-p disk --test b"), Some("disk has no integration test b".to_owned()));
        assert_eq!(check("-p tape data_comes"), Some("there is no package tape".to_owned()));
        assert_eq!(check("data_comes"), Some("the test names no package (-p)".to_owned()));
    }
}
