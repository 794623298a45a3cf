//! `cargo xtask demo`: the programs, built as users get them, show what they can do.

use std::env;
use std::process::Command;

use anyhow::{Result, ensure};

use crate::process::run as run_command;
use crate::setup::{self, Scope};
use crate::workspace::Workspace;

/// Installs what the demo uses, builds the programs and runs `oxtap demo`.
pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> Result<()> {
    setup::ensure_ready(workspace, Scope::Demo)?;
    run_command(&mut workspace.build_programs())?;
    let programs = workspace.release_directory();
    let path = env::var_os("PATH").unwrap_or_default();
    let path = env::join_paths(std::iter::once(programs.clone()).chain(env::split_paths(&path)))?;
    // Ctrl-C reaches the demo as it reaches us: it cleans up, and we wait for it.
    let status = Command::new(programs.join("oxtap")).arg("demo").args(arguments).env("PATH", path).status()?;
    ensure!(status.success(), "the demo failed ({status})");
    Ok(())
}
