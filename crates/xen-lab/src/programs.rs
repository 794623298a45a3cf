//! Our programs, built so that they run in dom0 whatever libraries it has.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use crate::packages::{output, run};

const TARGET: &str = "x86_64-unknown-linux-musl";

/// Builds the programs of these packages and puts them into `directory`.
///
/// # Errors
/// When the target is not there and cannot be added, or when something does not compile.
pub fn static_programs(packages: &[&str], names: &[&str], directory: &Path) -> Result<()> {
    let installed = output(Command::new("rustc").args(["--print", "target-libdir", "--target", TARGET]))?;
    if !Path::new(installed.trim()).exists() {
        run(Command::new("rustup").args(["target", "add", TARGET]))
            .context("static programs need the musl target of Rust: rustup target add x86_64-unknown-linux-musl")?;
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let target = directory.join("build");
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--release", "--bins", "--target", TARGET, "--target-dir"]).arg(&target);
    for package in packages {
        command.args(["--package", package]);
    }
    run(&mut command)?;
    for name in names {
        let built: PathBuf = target.join(TARGET).join("release").join(name);
        ensure!(built.exists(), "{} was not built", built.display());
        fs::copy(&built, directory.join(name)).with_context(|| built.display().to_string())?;
    }
    Ok(())
}
