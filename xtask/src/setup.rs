//! `cargo xtask setup`: what the tests and the demo need from the system.
//!
//! The table of tools and packages is [`test_support::TOOLS`]. Only packages whose tools are missing are asked for,
//! and nothing is ever removed: Debian 12 machines may carry `qemu-utils` from backports, which other qemu packages
//! of the main suite would push out.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use test_support::{PACKAGE_SETS, TOOLS, Tool, find_tool};

use crate::process::{run as run_command, succeeds};
use crate::unpack;
use crate::workspace::Workspace;

/// Whose tools are needed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// What `oxtap demo` uses.
    Demo,
    /// What any test uses.
    Tests,
}

/// Installs what is missing, or only says what it is.
pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> Result<()> {
    match arguments {
        [] => ensure_ready(workspace, Scope::Tests)?,
        [check] if check == "--check" => {
            check_toolchain(workspace)?;
            let missing = missing_tools(Scope::Tests);
            ensure!(missing.is_empty(), "{}", describe(&missing));
        }
        _ => bail!("setup takes no argument but --check"),
    }
    println!("the Rust toolchain and all {} tools are there", TOOLS.len());
    Ok(())
}

/// Makes sure that everything in `scope` is there, installing it where we may.
pub(crate) fn ensure_ready(workspace: &Workspace, scope: Scope) -> Result<()> {
    check_toolchain(workspace)?;
    let missing = missing_tools(scope);
    if !missing.is_empty() {
        install(&missing)?;
        let missing = missing_tools(scope);
        ensure!(missing.is_empty(), "installed, and still not there:\n{}", describe(&missing));
    }
    if scope == Scope::Tests {
        PACKAGE_SETS.iter().try_for_each(|set| unpack::ensure(workspace, set))?;
    }
    if !Path::new("/dev/fuse").exists() {
        println!("note: there is no /dev/fuse here; tests that read VHD chains through vhdimount will be skipped");
    }
    Ok(())
}

fn check_toolchain(workspace: &Workspace) -> Result<()> {
    let wanted =
        workspace.packages.iter().filter_map(|package| package.rust_version.as_deref()).max_by_key(|v| version(v));
    let output = workspace.cargo(&["--version"]).output().context("cannot start cargo")?;
    let output = String::from_utf8_lossy(&output.stdout).into_owned();
    let found = output.split_whitespace().nth(1).unwrap_or_default();
    if let Some(wanted) = wanted {
        ensure!(version(found) >= version(wanted), "Rust {wanted} or newer is needed, this is {found}: rustup update");
    }
    for (part, component) in [("fmt", "rustfmt"), ("clippy", "clippy")] {
        let is_there = succeeds(&mut workspace.cargo(&[part, "--version"]));
        ensure!(is_there, "cargo {part} is missing: rustup component add {component}");
    }
    ensure!(find_tool("cc").is_some(), "there is no linker (cc): apt-get install gcc libc6-dev");
    Ok(())
}

fn version(text: &str) -> Vec<u32> {
    text.split(['.', '-']).map_while(|part| part.parse().ok()).collect()
}

fn missing_tools(scope: Scope) -> Vec<&'static Tool> {
    TOOLS.iter().filter(|tool| (tool.demo || scope == Scope::Tests) && !tool.wanted.is_there()).collect()
}

/// The packages of some tools, each once.
fn packages(tools: &[&Tool]) -> Vec<&'static str> {
    let mut packages: Vec<&str> = tools.iter().map(|tool| tool.package).collect();
    packages.sort_unstable();
    packages.dedup();
    packages
}

fn describe(missing: &[&Tool]) -> String {
    let mut text = String::from("these tools are missing:\n");
    for tool in missing {
        text.push_str(&format!("  {:<12} (package {}): {}\n", tool.wanted, tool.package, tool.needed_for));
    }
    text + &format!("to install them, as root: apt-get update && {}", install_words(&packages(missing)).join(" "))
}

/// `--no-remove`: rather fail than take something away from the machine.
fn install_words<'a>(packages: &[&'a str]) -> Vec<&'a str> {
    let mut words = vec!["apt-get", "install", "--yes", "--no-install-recommends", "--no-remove"];
    words.extend(packages);
    words
}

fn install(missing: &[&'static Tool]) -> Result<()> {
    let packages = packages(missing);
    ensure!(
        !packages.contains(&"qemu-utils") || find_tool("qemu-img").is_none(),
        "qemu-img is there but not all of qemu-utils; it is left alone.\n{}",
        describe(missing)
    );
    let Some(prefix) = root_prefix() else { bail!("{}", describe(missing)) };
    println!("installing {}", packages.join(" "));
    for words in [vec!["apt-get", "update"], install_words(&packages)] {
        let words: Vec<&str> =
            prefix.iter().copied().chain(["env", "DEBIAN_FRONTEND=noninteractive"]).chain(words).collect();
        run_command(Command::new(words[0]).args(&words[1..])).with_context(|| describe(missing))?;
    }
    Ok(())
}

/// What stands in front of a command that must run as root here; nothing if we cannot be root, or have no apt-get.
fn root_prefix() -> Option<Vec<&'static str>> {
    find_tool("apt-get")?;
    if rustix::process::geteuid().is_root() {
        return Some(Vec::new());
    }
    succeeds(Command::new("sudo").args(["-n", "true"])).then(|| vec!["sudo", "-n"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_tool_is_described_with_its_package_and_the_command() {
        let tools: Vec<&Tool> = TOOLS.iter().filter(|tool| tool.package == "libnbd-bin").collect();
        let text = describe(&tools);
        assert!(text.contains("nbdinfo      (package libnbd-bin): "), "{text}");
        assert!(text.ends_with("--no-remove libnbd-bin"), "{text}");
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(version("1.100.0") > version("1.89"));
        assert!(version("1.95.0-nightly") > version("1.89"));
        assert!(version("1.88.1") < version("1.89"));
    }
}
