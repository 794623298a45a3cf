//! `cargo xtask licences`: what we build from, against `deny.toml`.
//!
//! cargo-deny reads the same file and checks more; this needs no installation and runs with every test.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::expect_no_arguments;
use crate::fuzz;
use crate::workspace::{Workspace, list, metadata, text};

const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Checks every crate of the lock files that this platform builds: ours, and that of the fuzz targets.
pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> Result<()> {
    expect_no_arguments(arguments)?;
    let policy = fs::read_to_string(workspace.root.join("deny.toml")).context("cannot read deny.toml")?;
    let (allowed, exceptions) = (allowed_licences(&policy)?, exceptions(&policy));
    let mut complaints = Vec::new();
    for root in [workspace.root.clone(), workspace.root.join(fuzz::DIRECTORY)] {
        let metadata = metadata(&root, &["--filter-platform", "x86_64-unknown-linux-gnu"])?;
        for package in list(&metadata, "packages")? {
            let name = text(package, "name")?;
            let also = exceptions.iter().filter(|(of, _)| of == name).map(|(_, licence)| licence.clone());
            let allowed: Vec<String> = allowed.iter().cloned().chain(also).collect();
            complaints.extend(check(package, &allowed)?);
        }
    }
    complaints.sort();
    complaints.dedup();
    ensure!(complaints.is_empty(), "{}", complaints.join("\n"));
    Ok(())
}

/// What single crates may have besides: the lines `{ allow = ["LICENCE"], crate = "NAME" }` of the list of exceptions.
fn exceptions(policy: &str) -> Vec<(String, String)> {
    let section = policy.split("exceptions = [\n").nth(1).and_then(|rest| rest.split("\n]").next()).unwrap_or_default();
    let exception = |line: &str| {
        let mut strings = line.split('"').skip(1).step_by(2);
        let licence = strings.next()?.to_owned();
        Some((strings.next()?.to_owned(), licence))
    };
    section.lines().filter(|line| line.trim_start().starts_with('{')).filter_map(exception).collect()
}

/// The strings of the list `allow = [...]` in the section `[licenses]`.
fn allowed_licences(policy: &str) -> Result<Vec<String>> {
    let section = policy.split("[licenses]").nth(1).context("deny.toml has no section [licenses]")?;
    let items = section.split("allow = [").nth(1).and_then(|rest| rest.split(']').next());
    let items = items.context("deny.toml allows no licences")?;
    Ok(items.split('"').skip(1).step_by(2).map(str::to_owned).collect())
}

fn check(package: &Value, allowed: &[String]) -> Result<Option<String>> {
    let name = format!("{} {}", text(package, "name")?, text(package, "version")?);
    if let Some(source) = package["source"].as_str()
        && source != CRATES_IO
    {
        return Ok(Some(format!("{name}: comes from {source}, not from crates.io")));
    }
    let Some(licence) = package["license"].as_str() else {
        return Ok(Some(format!("{name}: names no licence")));
    };
    let refusal = || format!("{name}: {licence} is not among the licences of deny.toml");
    Ok((!is_allowed(licence, allowed)).then(refusal))
}

/// Whether an SPDX expression can be satisfied: `A OR B` by either, `A AND B` by both. Older crates write `/` for OR.
fn is_allowed(expression: &str, allowed: &[String]) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words = spaced.split_whitespace().peekable();
    any_of(&mut words, allowed) && words.next().is_none()
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn any_of(words: &mut Words<'_>, allowed: &[String]) -> bool {
    let mut holds = all_of(words, allowed);
    while words.next_if_eq(&"OR").is_some() {
        holds |= all_of(words, allowed);
    }
    holds
}

fn all_of(words: &mut Words<'_>, allowed: &[String]) -> bool {
    let mut holds = one(words, allowed);
    while words.next_if_eq(&"AND").is_some() {
        holds &= one(words, allowed);
    }
    holds
}

/// A licence, with its exception if it has one, or an expression in parentheses.
fn one(words: &mut Words<'_>, allowed: &[String]) -> bool {
    if words.next_if_eq(&"(").is_some() {
        let holds = any_of(words, allowed);
        return words.next_if_eq(&")").is_some() && holds;
    }
    let mut licence = words.next().unwrap_or_default().to_owned();
    if words.next_if_eq(&"WITH").is_some() {
        licence = format!("{licence} WITH {}", words.next().unwrap_or_default());
    }
    allowed.contains(&licence)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_read_as_spdx_means_them() {
        let allowed = ["MIT".to_owned(), "Apache-2.0".to_owned(), "Unicode-3.0".to_owned()];
        let holds = |expression| is_allowed(expression, &allowed);
        assert!(holds("MIT"));
        assert!(holds("MIT/GPL-3.0"));
        assert!(holds("GPL-2.0 OR Apache-2.0"));
        assert!(holds("(MIT OR Apache-2.0) AND Unicode-3.0"));
        assert!(!holds("(MIT OR Apache-2.0) AND OpenSSL"));
        assert!(!holds("GPL-2.0-or-later"));
        assert!(!holds("Apache-2.0 WITH LLVM-exception"));
        assert!(!holds("(MIT"));
        assert!(!holds(""));
    }

    #[test]
    fn an_exception_is_for_one_crate() {
        let policy =
            "[licenses]\nallow = [\"MIT\"]\nexceptions = [\n  # Why.\n  { allow = [\"NCSA\"], crate = \"a\" },\n]\n";
        assert_eq!(exceptions(policy), [("a".to_owned(), "NCSA".to_owned())]);
        assert_eq!(exceptions("[licenses]\nallow = [\"MIT\"]\n"), []);
    }

    #[test]
    fn the_list_is_found_in_its_section() {
        let policy = "[bans]\nallow = [\"x\"]\n[licenses]\nallow = [\n  \"MIT\", # us\n  \"ISC\",\n]\n";
        assert_eq!(allowed_licences(policy).unwrap(), ["MIT", "ISC"]);
    }
}
