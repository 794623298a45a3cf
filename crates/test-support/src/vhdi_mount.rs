//! A VHD chain as another implementation reads it.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::skip::skip;
use crate::tool::require_tool;

/// The contents of a VHD image, parents included, as libvhdi sees them. Unmounted when it goes out of scope.
#[derive(Debug)]
pub struct VhdiMount {
    directory: TempDir,
}

impl VhdiMount {
    /// Mounts `image` read-only, or records that `test` is skipped because FUSE is not available here.
    ///
    /// # Panics
    ///
    /// If libvhdi refuses the image; the message says what it printed.
    #[must_use]
    pub fn new(test: &str, image: &Path) -> Option<VhdiMount> {
        if let Err(error) = OpenOptions::new().read(true).write(true).open("/dev/fuse") {
            skip(test, &format!("needs /dev/fuse: {error}"));
            return None;
        }
        let directory = tempfile::Builder::new().prefix("oxtap-vhdi-").tempdir().expect("cannot make a mount point");
        let output = Command::new(require_tool("vhdimount")).arg(image).arg(directory.path()).output();
        let output = output.expect("vhdimount is executable");
        let mount = VhdiMount { directory };
        assert!(output.status.success() && mount.contents().exists(), "vhdimount: {}", said(&output));
        Some(mount)
    }

    /// A file that holds the virtual disk.
    ///
    /// libvhdi names the image at the end of a chain last: one file per image, base first.
    pub fn contents(&self) -> PathBuf {
        (1..)
            .map(|number| self.directory.path().join(format!("vhdi{number}")))
            .take_while(|path| path.exists())
            .last()
            .unwrap_or_else(|| self.directory.path().join("vhdi1"))
    }
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

impl Drop for VhdiMount {
    fn drop(&mut self) {
        // Root may lack fusermount's set-up, others may not call umount: whichever works.
        let unmount = |program: &Path, option: &[&str]| {
            let output = Command::new(program).args(option).arg(self.directory.path()).output();
            output.is_ok_and(|output| output.status.success())
        };
        let _ = unmount(Path::new("umount"), &[]) || unmount(&require_tool("fusermount3"), &["-u"]);
    }
}
