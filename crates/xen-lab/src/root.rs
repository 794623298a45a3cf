//! The root of a machine: files from packages and of our own, to be written as an archive.

use std::{collections::BTreeMap, fs, io::Write, os::unix::fs::PermissionsExt, path::Path};

use anyhow::{Context, Result};

use crate::{archive::Archive, packages::Packages};

/// Where programs find their libraries, and their loader.
const LIBRARIES: &str = "lib/x86_64-linux-gnu";
const LOADER: &str = "lib64/ld-linux-x86-64.so.2";

#[derive(Clone, Debug)]
enum Node {
    Directory,
    File { permissions: u32, contents: Vec<u8> },
    Link(String),
}

/// Names without a slash in front, and what they stand for. What is put later takes the place of what was there.
#[derive(Clone, Debug, Default)]
pub(crate) struct Root(BTreeMap<String, Node>);

impl Root {
    pub(crate) fn directory(&mut self, path: &str) {
        let mut end = Some(0);
        while let Some(start) = end {
            end = path[start..].find('/').map(|at| start + at + 1);
            let part = end.map_or(path, |end| &path[..end - 1]);
            if !part.is_empty() {
                self.0.entry(part.to_owned()).or_insert(Node::Directory);
            }
        }
    }

    fn put(&mut self, path: &str, node: Node) {
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.directory(parent);
        }
        self.0.insert(path.to_owned(), node);
    }

    pub(crate) fn file(&mut self, path: &str, permissions: u32, contents: impl Into<Vec<u8>>) {
        self.put(path, Node::File { permissions, contents: contents.into() });
    }

    pub(crate) fn link(&mut self, path: &str, target: &str) {
        self.put(path, Node::Link(target.to_owned()));
    }

    /// A file of this machine, or of a package, with its permissions.
    pub(crate) fn copy(&mut self, path: &str, from: &Path) -> Result<()> {
        let contents = fs::read(from).with_context(|| from.display().to_string())?;
        let permissions = fs::metadata(from)?.permissions().mode() & 0o777;
        self.file(path, permissions, contents);
        Ok(())
    }

    /// Everything below a directory.
    pub(crate) fn copy_all(&mut self, path: &str, from: &Path) -> Result<()> {
        for entry in fs::read_dir(from).with_context(|| from.display().to_string())? {
            let entry = entry?;
            let path = format!("{path}/{}", entry.file_name().to_string_lossy());
            let kind = entry.file_type()?;
            if kind.is_dir() {
                self.directory(&path);
                self.copy_all(&path, &entry.path())?;
            } else if kind.is_symlink() {
                self.link(&path, &fs::read_link(entry.path())?.to_string_lossy());
            } else {
                self.copy(&path, &entry.path())?;
            }
        }
        Ok(())
    }

    /// A program of a package, with the libraries that it needs.
    pub(crate) fn program(&mut self, packages: &Packages, path: &str) -> Result<()> {
        let from = packages.find(path)?;
        self.copy(path, &from)?;
        for library in packages.libraries(&from)? {
            let name = library.file_name().expect("a library has a name").to_string_lossy().into_owned();
            self.copy(&format!("{LIBRARIES}/{name}"), &library)?;
        }
        Ok(())
    }

    /// Directories and the shell's programs, as every machine has them; libraries that programs ask for late.
    pub(crate) fn skeleton(packages: &Packages) -> Result<Root> {
        let mut root = Root::default();
        for path in ["bin", "sbin", "dev", "proc", "sys", "run", "tmp", "root", "etc", "mnt", "out", "lab", "boot"] {
            root.directory(path);
        }
        for path in ["usr/bin", "usr/sbin", "usr/lib", "var/lib", "var/log", LIBRARIES] {
            root.directory(path);
        }
        root.link("var/run", "/run");
        root.link("var/lock", "/run/lock");
        let busybox = packages.find("bin/busybox")?;
        root.copy("bin/busybox", &busybox)?;
        let applets = crate::packages::output(std::process::Command::new(&busybox).arg("--list"))?;
        for applet in applets.lines().filter(|applet| *applet != "busybox") {
            root.link(&format!("bin/{applet}"), "busybox");
        }
        // The kernel calls this path itself.
        root.link("sbin/modprobe", "../bin/busybox");
        root.copy(LOADER, &packages.find(LOADER)?)?;
        for library in ["libgcc_s.so.1", "libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1"] {
            let path = format!("{LIBRARIES}/{library}");
            root.copy(&path, &packages.find(&path)?)?;
        }
        root.file("etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\n");
        root.file("etc/group", 0o644, "root:x:0:\n");
        Ok(root)
    }

    pub(crate) fn remove(&mut self, path: &str) {
        self.0.remove(path);
    }

    /// Writes it as an archive.
    pub(crate) fn write(&self, out: impl Write) -> Result<()> {
        let mut archive = Archive::new(out);
        for (path, node) in &self.0 {
            match node {
                Node::Directory => archive.directory(path)?,
                Node::File { permissions, contents } => archive.file(path, *permissions, contents)?,
                Node::Link(target) => archive.link(path, target)?,
            }
        }
        archive.finish()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_come_before_what_is_in_them() {
        let mut root = Root::default();
        root.file("a/b/c", 0o644, "x");
        root.directory("a/b");
        let names: Vec<&String> = root.0.keys().collect();
        assert_eq!(names, ["a", "a/b", "a/b/c"]);
        assert!(matches!(root.0["a/b"], Node::Directory));
    }
}
