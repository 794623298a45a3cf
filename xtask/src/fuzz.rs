//! `cargo xtask fuzz`: strangers that learn from what they see.
//!
//! The targets are programs of the workspace in `fuzz/`, built with libFuzzer and instrumented for coverage, by the same
//! stable compiler as everything else. What they find out about the ways through the code is kept in
//! `tests/fuzz-corpus/TARGET/`, as few files as show the same ways; ordinary tests feed these to the same bodies.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::process::{output_of, run as run_command};
use crate::test::locked;
use crate::workspace::{Workspace, list, metadata, text};

/// The workspace of the targets, seen from the top.
pub(crate) const DIRECTORY: &str = "fuzz";
/// Where what was found out is kept, seen from the top.
const CORPORA: &str = "tests/fuzz-corpus";
const SECONDS: u32 = 10;
/// A string that takes so long makes no progress.
const HANG_SECONDS: u32 = 30;
/// A target that needs more memory holds what strangers send without a bound.
const MEMORY_MIB: u32 = 1024;
/// Longer strings are not tried: what there is to be seen can be seen with these.
const BYTES_MAX: u32 = 2048;

/// What libFuzzer wants to be told by the code: which edges are taken, and what is compared with what.
const INSTRUMENTATION: &[&str] = &[
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
    "--cfg=fuzzing",
];

/// What was asked for.
#[derive(Debug, PartialEq)]
struct Options {
    seconds: u32,
    targets: Vec<String>,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Options> {
        let mut options = Options { seconds: SECONDS, targets: Vec::new() };
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--seconds" => {
                    let seconds = arguments.next().context("--seconds needs a number")?;
                    options.seconds =
                        seconds.parse().with_context(|| format!("{seconds:?} is no number of seconds"))?;
                }
                other if other.starts_with('-') => bail!("fuzz does not know {other:?}; see `cargo xtask help`"),
                target => options.targets.push(target.to_owned()),
            }
        }
        Ok(options)
    }
}

/// Builds the targets that are named, or all of them, and lets each run for a while.
pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> Result<()> {
    let mut options = Options::parse(arguments)?;
    let known = targets(workspace)?;
    if let Some(unknown) = options.targets.iter().find(|target| !known.contains(target)) {
        bail!("there is no fuzz target {unknown:?}; there are {}", known.join(", "));
    }
    if options.targets.is_empty() {
        options.targets = known;
    }
    let fuzzer = Fuzzer::build(workspace, &options.targets)?;
    let mut finds = Vec::new();
    for target in &options.targets {
        println!("==> {target}");
        finds.extend(fuzzer.run(target, options.seconds)?);
    }
    finds.iter().for_each(|find| println!("{find}"));
    ensure!(finds.is_empty(), "{} targets found something", finds.len());
    Ok(())
}

/// The targets that there are.
fn targets(workspace: &Workspace) -> Result<Vec<String>> {
    let metadata = metadata(&workspace.root.join(DIRECTORY), &["--no-deps"])?;
    let mut targets = Vec::new();
    for package in list(&metadata, "packages")? {
        let programs = list(package, "targets")?.iter().filter(|target: &&Value| target["kind"][0] == "bin");
        targets.extend(programs.map(|program| text(program, "name").map(str::to_owned)).collect::<Result<Vec<_>>>()?);
    }
    Ok(targets)
}

/// Built targets.
struct Fuzzer {
    root: PathBuf,
    /// Theirs alone: nothing else is built like this.
    build: PathBuf,
    host: String,
}

/// What a target found: a string of bytes that its body does not survive.
struct Find {
    target: String,
    file: PathBuf,
    kept: PathBuf,
}

impl std::fmt::Display for Find {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Find { target, file, kept } = self;
        writeln!(f, "{target}: found {}", file.display())?;
        write!(f, "    the tests meet it, too, when it is kept: cp {} {}", file.display(), kept.display())
    }
}

impl Fuzzer {
    fn build(workspace: &Workspace, targets: &[String]) -> Result<Fuzzer> {
        let fuzzer =
            Fuzzer { root: workspace.root.clone(), build: workspace.target.join(DIRECTORY), host: host_triple()? };
        let mut cargo = locked(workspace.cargo(&["build", "--release", "--manifest-path", "fuzz/Cargo.toml"]));
        // With a target named, cargo does not instrument what only the build itself runs.
        cargo.args(["--target", &fuzzer.host]).env("CARGO_TARGET_DIR", &fuzzer.build);
        cargo.env_remove("RUSTFLAGS").env("CARGO_ENCODED_RUSTFLAGS", INSTRUMENTATION.join("\u{1f}"));
        targets.iter().for_each(|target| _ = cargo.args(["--bin", target]));
        run_command(&mut cargo)?;
        Ok(fuzzer)
    }

    /// Lets a target run. What it learns goes into its corpus when it has found nothing.
    fn run(&self, target: &str, seconds: u32) -> Result<Option<Find>> {
        let corpus = self.root.join(CORPORA).join(target);
        let (learnt, finds) = (self.place("corpus", target)?, self.place("finds", target)?);
        fs::create_dir_all(&corpus)?;
        let before = files(&finds)?;
        let mut fuzzer = self.program(target);
        fuzzer.arg(format!("-max_total_time={seconds}")).arg(format!("-artifact_prefix={}/", finds.display()));
        let succeeded = fuzzer.args([&learnt, &corpus]).status().context("cannot start a fuzz target")?.success();
        let new = files(&finds)?.into_iter().find(|file| !before.contains(file));
        if let Some(file) = new.filter(|_| !succeeded) {
            let name = file.file_name().context("a file has a name")?;
            let kept = Path::new(CORPORA).join(target).join(name);
            return Ok(Some(Find { target: target.to_owned(), file, kept }));
        }
        ensure!(succeeded, "{target} ended, and left no file of what it was given");
        self.keep(target, &corpus, &learnt)?;
        Ok(None)
    }

    /// Adds to the corpus what takes a way that no file takes, as few files as there need be. How often a way is taken does
    /// not count: the corpus is what the tests have time for.
    fn keep(&self, target: &str, corpus: &Path, learnt: &Path) -> Result<()> {
        let before = files(corpus)?.len();
        let merge =
            self.program(target).args(["-set_cover_merge=1", "-use_counters=0"]).args([corpus, learnt]).output()?;
        ensure!(merge.status.success(), "{target}: {}", String::from_utf8_lossy(&merge.stderr));
        println!("    {} files in the corpus, {before} before", files(corpus)?.len());
        Ok(())
    }

    fn program(&self, target: &str) -> Command {
        let mut program = Command::new(self.build.join(&self.host).join("release").join(target));
        program.current_dir(&self.build).arg(format!("-max_len={BYTES_MAX}"));
        program.arg(format!("-timeout={HANG_SECONDS}")).arg(format!("-rss_limit_mb={MEMORY_MIB}"));
        program.args(["-print_final_stats=1", "-verbosity=1"]);
        program
    }

    fn place(&self, kind: &str, target: &str) -> Result<PathBuf> {
        let place = self.build.join(kind).join(target);
        fs::create_dir_all(&place).with_context(|| format!("cannot make {}", place.display()))?;
        Ok(place)
    }
}

fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    entries.map(|entry| Ok(entry?.path())).collect()
}

/// What this compiler builds for by itself.
fn host_triple() -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version = output_of(Command::new(rustc).arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("rustc does not say what it builds for")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_and_seconds_are_told_apart() {
        let parse = |words: &[&str]| Options::parse(&words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>());
        assert_eq!(parse(&[]).unwrap(), Options { seconds: SECONDS, targets: Vec::new() });
        let expected = Options { seconds: 60, targets: vec!["ring".to_owned(), "vhd".to_owned()] };
        assert_eq!(parse(&["ring", "--seconds", "60", "vhd"]).unwrap(), expected);
        for wrong in [["--seconds"].as_slice(), &["--seconds", "soon"], &["--long"]] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_find_says_where_it_is_and_how_it_is_kept() {
        let file = PathBuf::from("target/fuzz/finds/ring/crash-1");
        let find = Find { target: "ring".into(), file, kept: PathBuf::from("tests/fuzz-corpus/ring/crash-1") };
        let words = find.to_string();
        assert!(words.starts_with("ring: found target/fuzz/finds/ring/crash-1\n"), "{words}");
        assert!(words.ends_with("cp target/fuzz/finds/ring/crash-1 tests/fuzz-corpus/ring/crash-1"), "{words}");
    }

    #[test]
    fn every_target_has_a_corpus_and_every_corpus_a_target() {
        let workspace = Workspace::load().unwrap();
        let mut targets = targets(&workspace).unwrap();
        let mut corpora: Vec<String> = files(&workspace.root.join(CORPORA))
            .unwrap()
            .iter()
            .filter(|path| path.is_dir())
            .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
            .collect();
        targets.sort();
        corpora.sort();
        assert_eq!(targets, corpora);
    }
}
