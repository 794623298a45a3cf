//! The tools of the system that tests and the demo use, and the Debian packages that bring them.

use std::env;
use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The interpreter that Debian's Python modules are made for; another one in the search path does not have them.
const PYTHON: &str = "/usr/bin/python3";

/// What is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// A program of this name, in the search path.
    Program(&'static str),
    /// A module of this name, of the system's own Python.
    PythonModule(&'static str),
}

impl Wanted {
    /// Whether it is on this machine.
    pub fn is_there(self) -> bool {
        match self {
            Wanted::Program(name) => find_tool(name).is_some(),
            Wanted::PythonModule(name) => {
                let mut import = python();
                import.args(["-c", &format!("import {name}")]).stdin(Stdio::null()).stderr(Stdio::null());
                import.status().is_ok_and(|status| status.success())
            }
        }
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // With the width that a list asks for.
            Wanted::Program(name) => f.pad(name),
            Wanted::PythonModule(name) => f.pad(&format!("{name}, a Python module")),
        }
    }
}

/// One program or module of the system, and where it comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tool {
    /// What is looked for.
    pub wanted: Wanted,
    /// The Debian package (bookworm and trixie) that holds it.
    pub package: &'static str,
    /// Who needs it, in a few words.
    pub needed_for: &'static str,
    /// Whether the demo needs it too, not only the tests.
    pub demo: bool,
}

const fn tool(program: &'static str, package: &'static str, needed_for: &'static str) -> Tool {
    Tool { wanted: Wanted::Program(program), package, needed_for, demo: false }
}

const fn python_module(name: &'static str, package: &'static str, needed_for: &'static str) -> Tool {
    Tool { wanted: Wanted::PythonModule(name), package, needed_for, demo: false }
}

const fn demo_tool(program: &'static str, package: &'static str, needed_for: &'static str) -> Tool {
    Tool { demo: true, ..tool(program, package, needed_for) }
}

/// Every tool that a test or the demo uses. `cargo xtask setup` installs the packages of this table.
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
    tool("unshare", "util-linux", "mounts that nobody else sees"),
    tool("nsenter", "util-linux", "programs among them"),
    tool("ps", "procps", "the process list, as a person sees it"),
    tool("zstd", "zstd", "the kernel of the real Xen"),
    tool("xz", "xz-utils", "its modules"),
    tool("git", "git", "the list of the project's files; applying mutants"),
    tool("valgrind", "valgrind", "instructions that a request costs"),
    tool("groff", "groff-base", "complaints about manual pages"),
    tool("bash", "bash", "completions, as shells take them"),
    tool("zsh", "zsh", "the same"),
    tool("fish", "fish", "the same"),
    python_module("prometheus_client", "python3-prometheus-client", "a second reader of metrics"),
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
    let tool = in_table(|wanted| matches!(wanted, Wanted::Program(name) if name == program), program);
    find_tool(program).unwrap_or_else(|| panic!("{}", tool.is_missing()))
}

/// The system's Python, which has this module: a command that wants a script and its arguments. Nothing of the
/// environment or of the user's own modules changes what it does.
///
/// # Panics
///
/// If the module is not installed, or not in [`TOOLS`].
pub fn require_python_module(module: &str) -> Command {
    let tool = in_table(|wanted| matches!(wanted, Wanted::PythonModule(name) if name == module), module);
    assert!(tool.wanted.is_there(), "{}", tool.is_missing());
    python()
}

fn python() -> Command {
    let mut python = Command::new(PYTHON);
    python.arg("-I");
    python
}

fn in_table(is_meant: impl Fn(Wanted) -> bool, name: &str) -> &'static Tool {
    TOOLS.iter().find(|tool| is_meant(tool.wanted)).unwrap_or_else(|| {
        panic!("{name} is not in the table of tools (crates/test-support/src/tool.rs): add it with its package")
    })
}

impl Tool {
    fn is_missing(&self) -> String {
        format!("{} is not installed: apt-get install {}, or run cargo xtask setup", self.wanted, self.package)
    }
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
    fn a_python_module_is_found_by_its_name() {
        assert!(Wanted::PythonModule("sys").is_there());
        assert!(!Wanted::PythonModule("no_such_module_anywhere").is_there());
    }

    #[test]
    fn no_tool_is_listed_twice() {
        for (index, tool) in TOOLS.iter().enumerate() {
            assert!(TOOLS[..index].iter().all(|earlier| earlier.wanted != tool.wanted), "{}", tool.wanted);
        }
    }
}
