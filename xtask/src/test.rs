//! `cargo xtask test`: everything that must hold before a change is shared.

use std::fs;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use test_support::{SKIPS_VARIABLE, Skip, recorded_skips};

use crate::process::{run as run_command, watch};
use crate::setup::{self, Scope};
use crate::steps::Steps;
use crate::workspace::{Workspace, is_ci};
use crate::{fuzz, layers, licences, mutants, tidy};

#[derive(Default, Debug, PartialEq)]
struct Options {
    long: bool,
    filters: Vec<String>,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Options> {
        let mut options = Options::default();
        for argument in arguments {
            match argument.as_str() {
                "--long" => options.long = true,
                other if other.starts_with('-') => bail!("test does not know {other:?}; see `cargo xtask help`"),
                filter => options.filters.push(filter.to_owned()),
            }
        }
        Ok(options)
    }
}

/// Runs all steps, goes on after a failed one where that makes sense, and ends with a summary.
pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> Result<()> {
    let options = Options::parse(arguments)?;
    let mut steps = Steps::default();
    let mut results = TestResults::default();
    all_steps(workspace, &options, &mut steps, &mut results);
    print!("\n{}", steps.summary());
    print!("{}", results.describe());
    let failed = steps.failed();
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}

fn all_steps(workspace: &Workspace, options: &Options, steps: &mut Steps, results: &mut TestResults) {
    if !steps.run("setup", || setup::ensure_ready(workspace, Scope::Tests)) {
        return;
    }
    if options.filters.is_empty() {
        static_checks(workspace, steps);
    }
    if !steps.run("build", || run_command(&mut locked(workspace.build_programs()))) {
        return;
    }
    let tests_pass = steps.run("tests", || cargo_tests(workspace, options, results));
    if options.filters.is_empty() && tests_pass {
        steps.run("mutants", || mutants::check_after_tests(workspace, options.long));
    }
    // The tests feed the corpora to the same bodies; what is new takes time to find.
    if options.long && options.filters.is_empty() && tests_pass {
        steps.run("fuzz", || fuzz::run(workspace, &[]));
    }
}

fn static_checks(workspace: &Workspace, steps: &mut Steps) {
    steps.run("fmt", || {
        run_command(&mut workspace.cargo(&["fmt", "--all", "--check"]))?;
        run_command(&mut workspace.cargo(&["fmt", "--manifest-path", "fuzz/Cargo.toml", "--check"]))
    });
    steps.run("layers", || layers::run(workspace, &[]));
    steps.run("tidy", || tidy::run(workspace, &[]));
    steps.run("licences", || licences::run(workspace, &[]));
    steps.run("clippy", || {
        let clippy = workspace.cargo(&["clippy", "--workspace", "--all-targets", "--quiet", "--keep-going"]);
        let mut clippy = locked(clippy);
        run_command(clippy.args(["--", "-D", "warnings"]))
    });
}

/// Where a change is decided, what was tested is what was committed: the lock file too.
pub(crate) fn locked(mut command: Command) -> Command {
    if is_ci() {
        command.arg("--locked");
    }
    command
}

fn cargo_tests(workspace: &Workspace, options: &Options, results: &mut TestResults) -> Result<()> {
    let skips = SkipsFile::new(workspace)?;
    let mut command = locked(workspace.cargo(&["test", "--workspace", "--no-fail-fast"]));
    command.env(SKIPS_VARIABLE, &skips.path).env("OXTAP_PROGRAMS", workspace.release_directory());
    if options.long {
        command.env("OXTAP_LONG", "1");
    }
    if !options.filters.is_empty() {
        command.arg("--").args(&options.filters);
    }
    // Its errors go through a pipe, where it would not think of colour by itself.
    if std::io::stderr().is_terminal() && std::env::var_os("CARGO_TERM_COLOR").is_none() {
        command.env("CARGO_TERM_COLOR", "always");
    }
    let succeeded = watch(&mut command, |line| results.read_line(line))?;
    results.skips.extend(recorded_skips(&skips.path).context("cannot read the list of skipped tests")?);
    ensure!(results.failed == 0, "{} tests failed", results.failed);
    ensure!(succeeded, "a test did not compile, or ended before its time");
    ensure!(results.passed > 0, "no test ran");
    ensure!(!is_ci() || results.skips.is_empty(), "{} tests were skipped, and CI=true", results.skips.len());
    Ok(())
}

/// The file in which tests note that they could not run.
struct SkipsFile {
    path: PathBuf,
}

impl SkipsFile {
    fn new(workspace: &Workspace) -> Result<SkipsFile> {
        fs::create_dir_all(&workspace.target)?;
        let path = workspace.target.join(format!("oxtap-skips-{}", std::process::id()));
        fs::write(&path, "").with_context(|| format!("cannot write {}", path.display()))?;
        Ok(SkipsFile { path })
    }
}

impl Drop for SkipsFile {
    fn drop(&mut self) {
        // A file left in the target directory harms nobody.
        let _ = fs::remove_file(&self.path);
    }
}

/// What the tests said, read from the output of `cargo test`.
#[derive(Default, Debug)]
pub(crate) struct TestResults {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    /// The test program whose output is being read.
    program: String,
    failures: Vec<String>,
    skips: Vec<Skip>,
}

impl TestResults {
    /// Reads one line. Known are cargo's `Running tests/FILE (target/debug/deps/PROGRAM-HASH)` and `Doc-tests NAME`,
    /// and the tests' own `test NAME ... VERDICT` and `test result: VERDICT. N passed; N failed; ...`.
    pub(crate) fn read_line(&mut self, line: &str) {
        if let Some(program) = program_of(line) {
            self.program = program;
            return;
        }
        if let Some(counts) = line.strip_prefix("test result: ") {
            self.passed += count_before(counts, " passed");
            self.failed += count_before(counts, " failed");
            return;
        }
        let Some((name, verdict)) = line.strip_prefix("test ").and_then(|rest| rest.rsplit_once(" ... ")) else {
            return;
        };
        if verdict == "FAILED" {
            self.failures.push(format!("{} {name}", self.program));
        } else if let Some(reason) = verdict.strip_prefix("ignored") {
            let reason = format!("ignored{reason}");
            self.skips.push(Skip { test: format!("{} {name}", self.program), reason });
        }
    }

    /// The closing lines of a run. The last one counts all tests, in a form that other programs read.
    fn describe(&self) -> String {
        if self.passed + self.failed == 0 {
            return String::new();
        }
        let mut text = String::new();
        for skip in &self.skips {
            text.push_str(&format!("skipped: {}: {}\n", skip.test, skip.reason));
        }
        for failure in &self.failures {
            text.push_str(&format!("failed: {failure}\n"));
        }
        // A test that skips itself has passed in the eyes of cargo.
        let ran = self
            .passed
            .saturating_sub(self.skips.iter().filter(|skip| !skip.reason.starts_with("ignored")).count() as u64);
        text + &format!("tests: {ran} passed, {} failed, {} skipped\n", self.failed, self.skips.len())
    }
}

/// The program that a line of cargo's announces. The line may be coloured.
fn program_of(line: &str) -> Option<String> {
    if let Some((_, announced)) = line.split_once("Running") {
        let path = announced.rsplit_once('(')?.1.strip_suffix(')')?;
        let (program, _hash) = path.rsplit('/').next()?.rsplit_once('-')?;
        return Some(program.to_owned());
    }
    let (_, name) = line.split_once("Doc-tests")?;
    Some(format!("documentation of {}", name.rsplit(' ').next()?))
}

/// The number in front of `word`: 12 in "ok. 12 passed; 0 failed".
fn count_before(text: &str, word: &str) -> u64 {
    let number = text.split(word).next().and_then(|front| front.rsplit(' ').next());
    number.and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
     Running tests/format.rs (target/debug/deps/format-0123abcd)
running 4 tests
test vhd::opens ... ok
test vhd::tears ... FAILED
test disk::slow ... ignored, takes hours
test result: FAILED. 2 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s
test result: ok. 40 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s";

    #[test]
    fn the_output_of_all_test_programs_is_added_up() {
        let mut results = TestResults::default();
        OUTPUT.lines().for_each(|line| results.read_line(line));
        results.skips.push(Skip { test: "device".to_owned(), reason: "needs root".to_owned() });
        let expected = "\
skipped: format disk::slow: ignored, takes hours
skipped: device: needs root
failed: format vhd::tears
tests: 41 passed, 1 failed, 2 skipped
";
        assert_eq!(results.describe(), expected);
    }

    #[test]
    fn the_test_program_is_known_by_the_line_in_front() {
        let coloured = "\u{1b}[1m\u{1b}[92m     Running\u{1b}[0m unittests src/lib.rs (target/debug/deps/wire-01)";
        assert_eq!(program_of(coloured).as_deref(), Some("wire"));
        assert_eq!(program_of("   Doc-tests block_core").as_deref(), Some("documentation of block_core"));
        assert_eq!(program_of("test a::Running ... ok"), None);
        assert_eq!(program_of("running 4 tests"), None);
    }

    #[test]
    fn options_and_filters_are_told_apart() {
        let arguments = ["--long".to_owned(), "vhd".to_owned()];
        let expected = Options { long: true, filters: vec!["vhd".to_owned()] };
        assert_eq!(Options::parse(&arguments).unwrap(), expected);
        assert!(Options::parse(&["--fast".to_owned()]).is_err());
    }
}
