//! Debian packages that tests need and nobody should install: fetched once, unpacked below the target directory.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use test_support::{PackageSet, find_tool};

use crate::process::{output_of, run as run_command};
use crate::workspace::Workspace;

/// Makes sure that a set is unpacked. Where there is no apt-get, the tests that need it say that they are skipped.
pub(crate) fn ensure(workspace: &Workspace, set: &PackageSet) -> Result<()> {
    let directory = set.directory(&workspace.target);
    // Written at the very end: what is there has all packages, also those that were added to the set later.
    let (list, packages_wanted) = (directory.join("unpacked"), set.packages.join(" "));
    if fs::read_to_string(&list).is_ok_and(|unpacked| unpacked == packages_wanted) {
        return Ok(());
    }
    if find_tool("apt-get").is_none() || find_tool("dpkg-deb").is_none() {
        println!("note: the packages of {} cannot be fetched without apt-get and dpkg-deb", set.name);
        return Ok(());
    }
    let packages = packages(set)?;
    println!("fetching and unpacking {} (nothing of it is installed)", packages.join(" "));
    fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    run_command(Command::new("apt-get").arg("download").args(&packages).current_dir(&directory))
        .context("if apt knows no such package any more: apt-get update")?;
    for package in archives(&directory)? {
        run_command(Command::new("dpkg-deb").args(["--extract", &package, "root"]).current_dir(&directory))?;
    }
    ensure!(directory.join("root").join(set.sign).exists(), "{} has no {}", packages.join(" "), set.sign);
    fs::write(&list, packages_wanted).with_context(|| format!("cannot write {}", list.display()))?;
    Ok(())
}

/// The packages that apt knows by the beginnings of their names, with a version behind them or nothing.
fn packages(set: &PackageSet) -> Result<Vec<String>> {
    let mut packages = Vec::new();
    for beginning in set.packages {
        let known = output_of(Command::new("apt-cache").args(["pkgnames", beginning]))?;
        let mut fitting: Vec<&str> = known.lines().filter(|name| is_version_of(name, beginning)).collect();
        fitting.sort_unstable();
        let newest = fitting.last().with_context(|| format!("apt knows no package {beginning}: apt-get update"))?;
        packages.push((*newest).to_owned());
    }
    Ok(packages)
}

fn is_version_of(name: &str, beginning: &str) -> bool {
    let rest = name.strip_prefix(beginning);
    rest.is_some_and(|rest| rest.trim_end_matches("t64").chars().all(|c| c.is_ascii_digit() || c == '.'))
}

fn archives(directory: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    Ok(names.filter(|name| name.ends_with(".deb")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_is_found_by_the_beginning_of_its_name() {
        assert!(is_version_of("xen-utils-4.17", "xen-utils-4.") && is_version_of("libxenstore4t64", "libxenstore"));
        assert!(is_version_of("xenstore-utils", "xenstore-utils"));
        assert!(!is_version_of("xen-utils-4.17-dbg", "xen-utils-4.") && !is_version_of("xenstore", "xenstore-utils"));
    }
}
