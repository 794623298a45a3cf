//! `cargo xtask mutants`: deliberate defects, each of which a test must notice.
//!
//! `tests/mutants/NAME.patch` is a unified diff behind a few header lines:
//!
//! ```text
//!   # breaks: the parent's bytes are not copied into a new block
//!   # test: -p image-chain copy_on_write          arguments of `cargo test`
//!   # build: -p tapdisk                           optional: arguments of `cargo build`, for tests of programs
//!   # ci: yes                                     optional: part of every `cargo xtask test`, not only with --long
//! ```
//!
//! The tree is copied below the target directory; each mutant is applied to the copy, its test is built and run, and
//! the copy is put right again. The test must fail: not pass, not fail to compile, not be missing. Before that it
//! must have passed without the mutant, else its failure says nothing.

mod copy;
mod verdict;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::steps::seconds;
use crate::workspace::{Workspace, is_ci};
use copy::TreeCopy;
use verdict::Verdict;

const DIRECTORY: &str = "tests/mutants/";

/// One deliberate defect.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mutant {
    name: String,
    path: String,
    breaks: String,
    test: Vec<String>,
    build: Option<Vec<String>>,
    ci: bool,
}

impl Mutant {
    /// Reads the header lines of a patch.
    pub(crate) fn parse(path: &str, text: &str) -> Result<Mutant> {
        let name = path.rsplit('/').next().and_then(|file| file.strip_suffix(".patch"));
        let name = name.with_context(|| format!("{path} is not called NAME.patch"))?;
        let mut mutant = Mutant {
            name: name.to_owned(),
            path: path.to_owned(),
            breaks: String::new(),
            test: Vec::new(),
            build: None,
            ci: false,
        };
        for line in text.lines().map_while(|line| line.strip_prefix('#')) {
            let (key, value) =
                line.split_once(':').with_context(|| format!("{path}: header without a colon: #{line}"))?;
            let words = || value.split_whitespace().map(str::to_owned).collect();
            match key.trim() {
                "breaks" => mutant.breaks = value.trim().to_owned(),
                "test" => mutant.test = words(),
                "build" => mutant.build = Some(words()),
                "ci" => mutant.ci = value.trim() == "yes",
                other => bail!("{path}: unknown header {other:?}"),
            }
        }
        ensure!(!mutant.breaks.is_empty(), "{path}: no header line `# breaks: what is wrong with it`");
        ensure!(!mutant.test.is_empty(), "{path}: no header line `# test: arguments of cargo test`");
        Ok(mutant)
    }

    /// The package whose test it names.
    pub(crate) fn package(&self) -> Option<&str> {
        self.word_after(&["-p", "--package"])
    }

    /// The integration test that it names, if it names one.
    pub(crate) fn test_target(&self) -> Option<&str> {
        self.word_after(&["--test"])
    }

    fn word_after(&self, options: &[&str]) -> Option<&str> {
        let at = self.test.iter().position(|word| options.contains(&word.as_str()))?;
        self.test.get(at + 1).map(String::as_str)
    }

    /// What the names of its tests contain, without the modules in front; nothing if all tests of the target are meant.
    pub(crate) fn filter(&self) -> Option<&str> {
        let mut words = self.test.iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                "-p" | "--package" | "--test" => drop(words.next()),
                option if option.starts_with('-') => {}
                name => return name.rsplit("::").next(),
            }
        }
        None
    }
}

/// Runs the mutants that are named, or all.
pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> Result<()> {
    let (flags, names): (Vec<&String>, Vec<&String>) = arguments.iter().partition(|word| word.starts_with('-'));
    ensure!(flags.iter().all(|flag| *flag == "--ci"), "mutants takes no option but --ci");
    let mut mutants = load(workspace)?;
    if let Some(unknown) = names.iter().find(|name| !mutants.iter().any(|mutant| mutant.name == name.as_str())) {
        bail!("there is no {DIRECTORY}{unknown}.patch");
    }
    mutants.retain(|mutant| names.is_empty() || names.contains(&&mutant.name));
    mutants.retain(|mutant| flags.is_empty() || mutant.ci);
    Hunt::new(workspace)?.run(&mutants, Baseline::Check)
}

/// Runs the mutants that stand for the others, or all, in a tree whose tests have just passed. The others must at least
/// apply: one that does not follow its code guards nothing.
pub(crate) fn check_after_tests(workspace: &Workspace, all: bool) -> Result<()> {
    let (chosen, others): (Vec<_>, Vec<_>) = load(workspace)?.into_iter().partition(|mutant| mutant.ci || all);
    let hunt = Hunt::new(workspace)?;
    hunt.run(&chosen, Baseline::Known)?;
    hunt.check_that_they_apply(&others)
}

fn load(workspace: &Workspace) -> Result<Vec<Mutant>> {
    let files = workspace.files()?;
    let patches = files.iter().filter(|path| path.starts_with(DIRECTORY) && path.ends_with(".patch"));
    let read = |path: &String| Mutant::parse(path, &fs::read_to_string(workspace.root.join(path))?);
    patches.map(read).collect()
}

/// Whether the tests are known to pass without the mutants.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Baseline {
    Known,
    Check,
}

/// One run over several mutants.
struct Hunt<'a> {
    workspace: &'a Workspace,
    copy: TreeCopy,
    /// Held while the copy is in use.
    _lock: File,
}

impl<'a> Hunt<'a> {
    fn new(workspace: &'a Workspace) -> Result<Hunt<'a>> {
        let directory = workspace.target.join("mutants");
        fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        let lock = File::create(directory.join("lock")).context("cannot make the lock of the mutants")?;
        lock.lock().context("cannot lock the copy for mutants")?;
        Ok(Hunt { workspace, copy: TreeCopy::new(&directory), _lock: lock })
    }

    fn run(&self, mutants: &[Mutant], baseline: Baseline) -> Result<()> {
        self.copy.put_right(self.workspace)?;
        if baseline == Baseline::Check {
            self.check_baseline(mutants)?;
        }
        let mut missed = Vec::new();
        let width = mutants.iter().map(|mutant| mutant.name.len()).max().unwrap_or(0);
        for mutant in mutants {
            let start = Instant::now();
            let verdict = self.try_mutant(mutant)?;
            self.report(mutant, &verdict, start.elapsed(), width);
            if !verdict.is_good(is_ci()) {
                missed.push(mutant.name.as_str());
            }
        }
        ensure!(missed.is_empty(), "not caught: {}", missed.join(", "));
        println!("    {} mutants", mutants.len());
        Ok(())
    }

    fn check_that_they_apply(&self, mutants: &[Mutant]) -> Result<()> {
        for mutant in mutants {
            self.copy.apply(&self.workspace.root.join(&mutant.path)).with_context(|| mutant.path.clone())?;
            self.copy.put_right(self.workspace)?;
        }
        println!("    {} more apply", mutants.len());
        Ok(())
    }

    /// Each test passes without a defect.
    fn check_baseline(&self, mutants: &[Mutant]) -> Result<()> {
        let tests: BTreeSet<_> = mutants.iter().map(|mutant| (&mutant.test, &mutant.build)).collect();
        for (test, build) in tests {
            let words = test.join(" ");
            match self.copy.run_test("baseline", test, build.as_deref())? {
                Verdict::Survived(_) | Verdict::Skipped(_) => {}
                other => bail!("without any mutant, cargo test {words}: {other}"),
            }
        }
        Ok(())
    }

    fn try_mutant(&self, mutant: &Mutant) -> Result<Verdict> {
        if let Err(error) = self.copy.apply(&self.workspace.root.join(&mutant.path)) {
            return Ok(Verdict::NotApplied(format!("{error:#}")));
        }
        let verdict = self.copy.run_test(&mutant.name, &mutant.test, mutant.build.as_deref());
        self.copy.put_right(self.workspace)?;
        verdict
    }

    fn report(&self, mutant: &Mutant, verdict: &Verdict, duration: Duration, width: usize) {
        let Mutant { name, breaks, test, .. } = mutant;
        println!("    {name:<width$} {:>8}  {verdict}", seconds(duration));
        if !verdict.is_good(is_ci()) {
            println!("        breaks: {breaks}\n        test:   cargo test {}", test.join(" "));
            println!("        output: {}", self.copy.log(name).display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_names_the_test() {
        let text =
            "# test: -p block-core overlap\n# breaks: overlapping ranges are missed\n# ci: yes\n--- a/x\n# not: read\n";
        let mutant = Mutant::parse("tests/mutants/overlap.patch", text).unwrap();
        assert_eq!(mutant.name, "overlap");
        assert_eq!(mutant.breaks, "overlapping ranges are missed");
        assert_eq!(mutant.test, ["-p", "block-core", "overlap"]);
        assert_eq!(
            (mutant.package(), mutant.test_target(), mutant.filter()),
            (Some("block-core"), None, Some("overlap"))
        );
        assert!(mutant.ci);
    }

    #[test]
    fn an_integration_test_can_be_named() {
        let text = "# breaks: x\n# test: -p image-chain --test two_queues -- --exact drain::step\n";
        let mutant = Mutant::parse("tests/mutants/a.patch", text).unwrap();
        assert_eq!((mutant.test_target(), mutant.filter()), (Some("two_queues"), Some("step")));
        let whole = Mutant::parse("tests/mutants/a.patch", "# breaks: x\n# test: -p a --lib\n").unwrap();
        assert_eq!((whole.test_target(), whole.filter()), (None, None));
    }

    #[test]
    fn a_header_that_is_incomplete_or_unknown_is_refused() {
        let parse = |text| Mutant::parse("tests/mutants/a.patch", text).map_err(|error| error.to_string());
        assert!(parse("# breaks: x\n--- a/x\n").unwrap_err().contains("# test:"));
        assert!(parse("# test: -p x\n").unwrap_err().contains("# breaks:"));
        assert!(parse("# tests: -p x\n").unwrap_err().contains("unknown header \"tests\""));
        assert!(Mutant::parse("tests/mutants/a.diff", "").is_err());
    }
}
