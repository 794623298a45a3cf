//! `cargo xtask xen-lab`: a script in the dom0 of a real Xen.

use anyhow::{Result, ensure};

use crate::setup::{self, Scope};
use crate::workspace::Workspace;

/// Builds the test bed and runs it; what it says of itself is in `cargo xtask xen-lab --usage`.
pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> Result<()> {
    setup::ensure_ready(workspace, Scope::Tests)?;
    let arguments = arguments.iter().map(|argument| if argument == "--usage" { "--help" } else { argument.as_str() });
    let mut command = workspace.cargo(&["run", "--quiet", "--release", "--package", "xen-lab", "--"]);
    let status = command.args(arguments).status()?;
    ensure!(status.success(), "the script failed ({status})");
    Ok(())
}
