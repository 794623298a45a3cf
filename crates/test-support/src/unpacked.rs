//! Programs of Debian packages that are unpacked in the target directory and never installed: they would take over
//! parts of a host that tests have no business with.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{program_directory, skip};

/// A set of packages that is unpacked into one root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackageSet {
    /// Its name, and that of its directory.
    pub name: &'static str,
    /// The beginnings of the packages' names; what may follow are version numbers.
    pub packages: &'static [&'static str],
    /// A program that is there when all is well, below the root.
    pub sign: &'static str,
}

/// Xen's own XenStore tools, and its test of servers.
pub const XEN_TOOLS: PackageSet = PackageSet {
    name: "xen-tools",
    packages: &["xenstore-utils", "libxenstore", "libxentoolcore", "xen-utils-4."],
    sign: "usr/bin/xenstore-ls",
};

/// Xen's public headers, as guests and tools are compiled with them.
pub const XEN_HEADERS: PackageSet =
    PackageSet { name: "xen-headers", packages: &["libxen-dev"], sign: "usr/include/xen/io/blkif.h" };

/// Every set. `cargo xtask setup` fetches and unpacks them.
pub const PACKAGE_SETS: &[PackageSet] = &[XEN_TOOLS, XEN_HEADERS];

impl PackageSet {
    /// Where it is unpacked, below the target directory.
    pub fn directory(&self, target: &Path) -> PathBuf {
        target.join("packages").join(self.name)
    }

    /// Its root, if it has been unpacked. If not, `test` is recorded as skipped and should return.
    pub fn root(&self, test: &str) -> Option<PathBuf> {
        let target = program_directory();
        let root = self.directory(target.parent()?).join("root");
        if root.join(self.sign).exists() {
            return Some(root);
        }
        skip(test, &format!("the packages of {} are not unpacked: run cargo xtask setup", self.name));
        None
    }
}

/// A program below an unpacked root, with the libraries that came with it.
///
/// # Panics
/// When there is none of this name.
pub fn unpacked_program(root: &Path, name: &str) -> Command {
    let mut found = Vec::new();
    let mut directories = vec![root.join("usr")];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => directories.push(entry.path()),
                Ok(kind) if entry.file_name() == name && kind.is_file() => found.push(entry.path()),
                _ => {}
            }
        }
    }
    let is_program = |path: &&PathBuf| path.parent().is_some_and(|directory| directory.ends_with("bin"));
    let program =
        found.iter().find(is_program).unwrap_or_else(|| panic!("there is no {name} below {}", root.display()));
    let mut command = Command::new(program);
    let libraries = std::fs::read_dir(root.join("usr/lib")).into_iter().flatten().flatten();
    let libraries: Vec<String> = libraries
        .map(|entry| entry.path())
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().contains("-linux-gnu")))
        .map(|path| path.display().to_string())
        .collect();
    command.env("LD_LIBRARY_PATH", libraries.join(":"));
    command
}
