//! `cargo xtask layers`: who may import whom.
//!
//! The table is the architecture: read it from the top. It is compared with what cargo says, so that an import that
//! nobody decided on fails the tests.

use anyhow::{Result, ensure};

use crate::expect_no_arguments;
use crate::workspace::{Dependency, Package, Workspace};

/// What one crate may import of ours.
struct Layer {
    name: &'static str,
    /// In what it ships.
    imports: &'static [&'static str],
    /// In its tests, besides.
    test_imports: &'static [&'static str],
}

const fn layer(name: &'static str, imports: &'static [&'static str], test_imports: &'static [&'static str]) -> Layer {
    Layer { name, imports, test_imports }
}

/// Any test may use this crate; nothing that ships may.
const TEST_SUPPORT: &str = "test-support";

/// The project's own commands may use the test support's table of tools.
const XTASK: &str = "xtask";

#[rustfmt::skip]
const LAYERS: &[Layer] = &[
    layer("block-core", &[], &[]),
    layer("wire", &["block-core"], &[]),
    layer("storage-io", &["block-core", "wire"], &[]),
    layer("image-format", &["block-core", "storage-io"], &[]),
    layer("image-chain", &["block-core", "storage-io", "image-format"], &[]),
    layer("virtual-disk", &["block-core", "storage-io", "image-chain"], &["image-format"]),
    // storage-io besides the design's table: events are waited for on its executor.
    layer("xen", &["block-core", "wire", "storage-io"], &["xenbus"]),
    // storage-io besides the design's table: the server's sockets are served by its executor.
    layer("xenbus", &["block-core", "wire", "storage-io"], &[]),
    layer("guest", &["block-core", "wire", "storage-io", "xen", "xenbus"], &[]),
    // storage-io besides the design's table: sockets are served by its executor, and requests carry its buffers.
    layer("export", &["block-core", "wire", "storage-io", "xen", "virtual-disk"], &["image-format", "image-chain", "guest"]),
    layer("control-api", &["block-core", "wire"], &[]),
    layer("command-line", &[], &[]),
    layer("tapback", &["block-core", "wire", "storage-io", "xen", "xenbus", "control-api"],
          &["guest", "image-format", "image-chain", "virtual-disk"]),
    layer("tapdisk", &["block-core", "wire", "storage-io", "xen", "image-format", "image-chain", "virtual-disk",
                       "export", "control-api", "command-line"], &["guest"]),
    // virtual-disk and export besides the design's table: `oxtap serve` is a disk and an NBD server in one process. wire,
    // because `td-rated` is a server of a protocol that is not the control protocol.
    layer("tools", &["block-core", "wire", "storage-io", "image-format", "image-chain", "virtual-disk", "export",
                     "control-api", "command-line", "xen", "xenbus", "guest", "tapback"], &["tapdisk"]),
    layer("simulator", &["block-core", "wire", "storage-io", "image-format", "image-chain", "virtual-disk", "export",
                         "control-api"], &[]),
    layer("benchmarks", &["block-core", "wire", "storage-io", "xen", "guest", "image-chain", "virtual-disk", "export",
                          "control-api"], &[]),
    // Knows our programs by their names only.
    layer("xen-lab", &[], &[]),
    layer(TEST_SUPPORT, &[], &[]),
    layer(XTASK, &[TEST_SUPPORT], &[]),
];

/// Compares the table with cargo's view of the tree.
pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> Result<()> {
    expect_no_arguments(arguments)?;
    let mut complaints: Vec<String> = workspace.packages.iter().flat_map(|package| check(package, LAYERS)).collect();
    complaints.extend(stale_lines(LAYERS, &workspace.packages));
    ensure!(complaints.is_empty(), "{}\n(the table is in xtask/src/layers.rs)", complaints.join("\n"));
    Ok(())
}

fn check(package: &Package, layers: &[Layer]) -> Vec<String> {
    let Some(layer) = layers.iter().find(|layer| layer.name == package.name) else {
        return vec![format!("{}: not in the table of layers", package.name)];
    };
    let ours = package.dependencies.iter().filter(|dependency| dependency.is_ours);
    ours.filter(|dependency| !layer.allows(dependency)).map(|dependency| complaint(package, dependency)).collect()
}

impl Layer {
    fn allows(&self, dependency: &Dependency) -> bool {
        let name = dependency.name.as_str();
        let in_tests = dependency.is_for_tests && (self.test_imports.contains(&name) || name == TEST_SUPPORT);
        self.imports.contains(&name) || in_tests
    }
}

fn complaint(package: &Package, dependency: &Dependency) -> String {
    let place = if dependency.is_for_tests { " in its tests" } else { "" };
    format!("{}: may not import {}{place}", package.name, dependency.name)
}

fn stale_lines(layers: &[Layer], packages: &[Package]) -> Vec<String> {
    let exists = |name: &str| packages.iter().any(|package| package.name == name);
    let stale = layers.iter().filter(|layer| !exists(layer.name));
    stale.map(|layer| format!("{}: in the table of layers, but there is no such crate", layer.name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[Layer] = &[layer("words", &[], &[]), layer("disk", &["words"], &["tape"])];

    fn package(name: &str, dependencies: &[(&str, bool)]) -> Package {
        let dependencies = dependencies.iter().map(|&(name, is_for_tests)| Dependency {
            name: name.to_owned(),
            is_ours: name != "libc",
            is_for_tests,
        });
        Package { name: name.to_owned(), rust_version: None, dependencies: dependencies.collect(), has_program: false }
    }

    #[test]
    fn what_the_table_allows_is_accepted() {
        let disk = package("disk", &[("words", false), ("libc", false), ("tape", true), ("test-support", true)]);
        assert_eq!(check(&disk, TABLE), Vec::<String>::new());
    }

    #[test]
    fn an_import_upwards_is_refused() {
        let words = package("words", &[("disk", false)]);
        assert_eq!(check(&words, TABLE), ["words: may not import disk"]);
    }

    #[test]
    fn what_tests_may_use_is_refused_in_what_ships() {
        let disk = package("disk", &[("tape", false), ("test-support", false)]);
        assert_eq!(check(&disk, TABLE), ["disk: may not import tape", "disk: may not import test-support"]);
    }

    #[test]
    fn crates_and_lines_must_match() {
        assert_eq!(check(&package("new", &[]), TABLE), ["new: not in the table of layers"]);
        let stale = stale_lines(TABLE, &[package("disk", &[])]);
        assert_eq!(stale, ["words: in the table of layers, but there is no such crate"]);
    }

    #[test]
    fn nobody_imports_the_simulator() {
        let importers = LAYERS.iter().filter(|layer| layer.imports.contains(&"simulator"));
        assert_eq!(importers.count(), 0);
    }

    #[test]
    fn the_table_has_no_circle() {
        // Each crate imports only what stands above it, but for the test support at the end.
        for (index, layer) in LAYERS.iter().enumerate() {
            for import in layer.imports {
                assert!(LAYERS[..index].iter().any(|earlier| earlier.name == *import), "{}: {import}", layer.name);
            }
        }
    }
}
