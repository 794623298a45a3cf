//! `cargo xtask tidy`: the rules of style that a machine can check.
//!
//! What needs judgement stays with the reader; what is here fails the tests, with file, line and reason.

mod acceptance;
mod mutant_rules;
mod ratchet;
mod rules;
mod source;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use crate::workspace::Workspace;
use ratchet::Ratchet;
use source::SourceFile;

const RATCHET: &str = "xtask/tidy-ratchet.txt";

/// One broken rule.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Complaint {
    path: String,
    /// Counted from one; zero if it is about the whole file.
    line: usize,
    reason: String,
}

impl Complaint {
    fn new(path: &str, line: usize, reason: impl Into<String>) -> Complaint {
        Complaint { path: path.to_owned(), line, reason: reason.into() }
    }
}

/// Checks every file of the tree.
pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> Result<()> {
    let shrink = match arguments {
        [] => false,
        [shrink] if shrink == "--shrink" => true,
        _ => bail!("tidy takes no argument but --shrink"),
    };
    let mut complaints = Vec::new();
    let mut sources = Vec::new();
    let (mut patches, mut page) = (Vec::new(), None);
    // What a fuzzer has found is nobody's text.
    for path in workspace.files()?.into_iter().filter(|path| !path.starts_with("tests/fuzz-corpus/")) {
        let Some(text) = read_text(&workspace.root.join(&path))? else {
            continue;
        };
        complaints.extend(rules::check_text(&path, &text));
        if path.ends_with(".rs") {
            let source = SourceFile::new(&path, &text);
            complaints.extend(rules::check_source(&source));
            sources.push(source);
        }
        if path.starts_with("tests/mutants/") && !path.ends_with(".md") {
            patches.push((path, text));
        } else if path == acceptance::PAGE {
            page = Some(text);
        }
    }
    complaints.extend(page.iter().flat_map(|page| acceptance::check(page, &sources)));
    for (path, text) in &patches {
        complaints.extend(mutant_rules::check(path, text, workspace, &sources));
    }
    complaints.extend(check_lengths(workspace, &sources, shrink)?);
    complaints.sort();
    for complaint in &complaints {
        println!("{}:{}: {}", complaint.path, complaint.line, complaint.reason);
    }
    ensure!(complaints.is_empty(), "{} places are not tidy", complaints.len());
    Ok(())
}

fn check_lengths(workspace: &Workspace, sources: &[SourceFile], shrink: bool) -> Result<Vec<Complaint>> {
    let path = workspace.root.join(RATCHET);
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {RATCHET}"))?;
    let ratchet = Ratchet::parse(&text)?;
    if shrink {
        fs::write(&path, ratchet.shrunk(sources).to_text()).with_context(|| format!("cannot write {RATCHET}"))?;
        return check_lengths(workspace, sources, false);
    }
    Ok(ratchet.check(sources))
}

/// A file's text, or nothing if it holds something else.
fn read_text(path: &Path) -> Result<Option<String>> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(String::from_utf8(bytes).ok())
}
