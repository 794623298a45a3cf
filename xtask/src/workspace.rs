//! What cargo and git know about this tree.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::process::output_of;

/// The tree that this program was built from.
pub(crate) struct Workspace {
    /// Its top directory.
    pub(crate) root: PathBuf,
    /// Where cargo builds.
    pub(crate) target: PathBuf,
    /// The crates of this tree.
    pub(crate) packages: Vec<Package>,
}

/// One crate of ours.
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) rust_version: Option<String>,
    pub(crate) dependencies: Vec<Dependency>,
    /// Whether it has a program.
    pub(crate) has_program: bool,
}

/// One line of a crate's dependencies.
pub(crate) struct Dependency {
    pub(crate) name: String,
    /// A path dependency: one of our own crates.
    pub(crate) is_ours: bool,
    /// Used by tests only.
    pub(crate) is_for_tests: bool,
}

impl Workspace {
    /// Asks cargo about the tree that this command was given in.
    pub(crate) fn load() -> Result<Workspace> {
        // What cargo says now, not what it said when this was built: two trees may share a target directory.
        let xtask = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
        let root = Path::new(&xtask).parent().context("xtask has no parent directory")?;
        let metadata = metadata(root, &["--no-deps"])?;
        Workspace::from_metadata(&metadata)
    }

    fn from_metadata(metadata: &Value) -> Result<Workspace> {
        let root = PathBuf::from(text(metadata, "workspace_root")?);
        let target = PathBuf::from(text(metadata, "target_directory")?);
        let packages = list(metadata, "packages")?;
        let packages = packages.iter().map(Package::from_metadata).collect::<Result<_>>()?;
        Ok(Workspace { root, target, packages })
    }

    /// A cargo command in the top directory.
    pub(crate) fn cargo(&self, arguments: &[&str]) -> Command {
        let mut command = cargo();
        command.args(arguments).current_dir(&self.root);
        command
    }

    /// Every file that belongs to the tree, relative to the top: tracked or new, but not ignored, and still there.
    pub(crate) fn files(&self) -> Result<Vec<String>> {
        let mut git = Command::new("git");
        git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).current_dir(&self.root);
        let listed = output_of(&mut git)?;
        let mut files: Vec<String> = listed
            .split('\0')
            .filter(|name| !name.is_empty() && self.root.join(name).is_file())
            .map(str::to_owned)
            .collect();
        files.sort();
        files.dedup();
        ensure!(!files.is_empty(), "git lists no files in {}", self.root.display());
        Ok(files)
    }

    /// Where the programs of a release build are.
    pub(crate) fn release_directory(&self) -> PathBuf {
        self.target.join("release")
    }

    /// Builds all programs as users get them.
    pub(crate) fn build_programs(&self) -> Command {
        let mut command = self.cargo(&["build", "--release", "--bins"]);
        for package in self.packages.iter().filter(|package| package.has_program && package.name != "xtask") {
            command.args(["--package", &package.name]);
        }
        command
    }
}

impl Package {
    fn from_metadata(package: &Value) -> Result<Package> {
        let is_program = |target: &Value| target["kind"][0] == "bin";
        Ok(Package {
            name: text(package, "name")?.to_owned(),
            rust_version: package["rust_version"].as_str().map(str::to_owned),
            dependencies: list(package, "dependencies")?
                .iter()
                .map(Dependency::from_metadata)
                .collect::<Result<_>>()?,
            has_program: list(package, "targets")?.iter().any(is_program),
        })
    }
}

impl Dependency {
    fn from_metadata(dependency: &Value) -> Result<Dependency> {
        Ok(Dependency {
            name: text(dependency, "name")?.to_owned(),
            is_ours: dependency["path"].is_string(),
            is_for_tests: dependency["kind"] == "dev",
        })
    }
}

/// `cargo metadata` of the tree at `root`.
pub(crate) fn metadata(root: &Path, arguments: &[&str]) -> Result<Value> {
    let mut command = cargo();
    command.args(["metadata", "--format-version", "1"]).args(arguments).current_dir(root);
    serde_json::from_str(&output_of(&mut command)?).context("cargo metadata printed no JSON")
}

fn cargo() -> Command {
    Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// A field of cargo's metadata that is a string.
pub(crate) fn text<'a>(value: &'a Value, field: &str) -> Result<&'a str> {
    value[field].as_str().with_context(|| format!("cargo metadata has no text {field:?}"))
}

/// A field of cargo's metadata that is a list.
pub(crate) fn list<'a>(value: &'a Value, field: &str) -> Result<&'a Vec<Value>> {
    value[field].as_array().with_context(|| format!("cargo metadata has no list {field:?}"))
}

/// Whether this run decides about a change (`CI=true`).
pub(crate) fn is_ci() -> bool {
    env::var("CI").is_ok_and(|value| value == "true" || value == "1")
}
