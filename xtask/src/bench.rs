//! `cargo xtask bench`: the programs, built as users get them, are measured.

use std::process::Command;

use anyhow::{Result, ensure};

use crate::process::run as run_command;
use crate::workspace::Workspace;

/// Builds the programs and runs `oxtap-bench`.
pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> Result<()> {
    run_command(&mut workspace.build_programs())?;
    let status = Command::new(workspace.release_directory().join("oxtap-bench")).args(arguments).status()?;
    ensure!(status.success(), "the benchmarks failed ({status})");
    Ok(())
}
