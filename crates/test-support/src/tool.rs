//! The tools of the system that tests and the demo use, and the Debian packages that bring them.

use std::env;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// One program of the system, and where it comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tool {
    /// The name that is looked for in the search path.
    pub program: &'static str,
    /// The Debian package (bookworm and trixie) that holds it.
    pub package: &'static str,
    /// Who needs it, in a few words.
    pub needed_for: &'static str,
    /// Whether the demo needs it too, not only the tests.
    pub demo: bool,
}

const fn tool(program: &'static str, package: &'static str, needed_for: &'static str) -> Tool {
    Tool { program, package, needed_for, demo: false }
}

const fn demo_tool(program: &'static str, package: &'static str, needed_for: &'static str) -> Tool {
    Tool { program, package, needed_for, demo: true }
}

/// Every tool that a test or the demo runs. `cargo xtask setup` installs the packages of this table.
pub const TOOLS: &[Tool] = &[
    tool("fio", "fio", "verified load through NBD"),
    tool("script", "bsdutils", "a terminal for programs that look for one"),
    tool("nbdkit", "nbdkit", "a second NBD implementation, as server"),
    tool("nbdinfo", "libnbd-bin", "NBD client: handshake, extents"),
    tool("nbdfuse", "libnbd-bin", "storage that can be made to hang"),
    tool("nbdcopy", "libnbd-bin", "NBD client: whole-disk copies"),
    tool("nbd-client", "nbd-client", "NBD client: export lists"),
    demo_tool("qemu-img", "qemu-utils", "independent VHD reader and writer"),
    tool("qemu-io", "qemu-utils", "NBD client: single operations of any alignment"),
    tool("qemu-nbd", "qemu-utils", "a second NBD implementation, over VHD"),
    demo_tool("mke2fs", "e2fsprogs", "real file systems inside test images"),
    demo_tool("e2fsck", "e2fsprogs", "their verdict"),
    tool("debugfs", "e2fsprogs", "their files, without a mount"),
    tool("vhdiinfo", "libvhdi-utils", "independent reader of differencing VHDs: headers"),
    tool("vhdimount", "libvhdi-utils", "independent reader of differencing VHDs: contents"),
    demo_tool("fusermount3", "fuse3", "unmounting vhdimount without root"),
    tool("losetup", "mount", "images as block devices"),
    tool("mount", "mount", "file systems that are too small"),
    tool("umount", "mount", "and gone again"),
    tool("setpriv", "util-linux", "tests of refused system calls and lost privileges"),
    tool("ps", "procps", "the process list, as a person sees it"),
    tool("git", "git", "the list of the project's files; applying mutants"),
];

/// Where `program` is, if anywhere: in the search path, or where administrators' tools are kept.
pub fn find_tool(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(program))
        .find(|candidate| is_executable(candidate))
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// Where `program` is; a missing tool is an error with its package's name, never a silent skip.
///
/// # Panics
///
/// If the tool is not installed, or not in [`TOOLS`].
pub fn require_tool(program: &str) -> PathBuf {
    let Some(tool) = TOOLS.iter().find(|tool| tool.program == program) else {
        panic!("{program} is not in the table of tools (crates/test-support/src/tool.rs): add it with its package");
    };
    find_tool(program).unwrap_or_else(|| {
        panic!("{program} is not installed: apt-get install {}, or run cargo xtask setup", tool.package)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_is_found_by_its_name() {
        assert!(find_tool("sh").is_some());
        assert_eq!(find_tool("no-such-program-anywhere"), None);
    }

    #[test]
    #[should_panic(expected = "not in the table of tools")]
    fn a_tool_without_a_package_is_refused() {
        require_tool("no-such-program-anywhere");
    }

    #[test]
    fn no_tool_is_listed_twice() {
        for (index, tool) in TOOLS.iter().enumerate() {
            assert!(TOOLS[..index].iter().all(|earlier| earlier.program != tool.program), "{}", tool.program);
        }
    }
}
