//! The rules for `tests/mutants/`: each defect says what it breaks and names the test that must notice.

use anyhow::Result;

use super::Complaint;
use crate::mutants::Mutant;
use crate::workspace::Workspace;

/// Checks one file of the directory.
pub(crate) fn check(path: &str, text: &str, workspace: &Workspace) -> Result<Vec<Complaint>> {
    if path.ends_with("/README.md") {
        return Ok(Vec::new());
    }
    let complaint = |reason: String| vec![Complaint::new(path, 1, reason)];
    let mutant = match Mutant::parse(path, text) {
        Ok(mutant) => mutant,
        Err(error) => return Ok(complaint(format!("{error:#}"))),
    };
    let Some(package) = mutant.package() else {
        return Ok(complaint("the test names no package (-p)".to_owned()));
    };
    let is_ours = workspace.packages.iter().any(|ours| ours.name == package);
    Ok(if is_ours {
        Vec::new()
    } else {
        complaint(format!("there is no package {package}"))
    })
}
