//! A file as a block device, for tests that run as root.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::skip::{require_root, skip};
use crate::tool::require_tool;

/// A loop device, detached when it goes out of scope.
#[derive(Debug)]
pub struct LoopDevice {
    device: PathBuf,
}

impl LoopDevice {
    /// Makes `file` a block device, or records that `test` is skipped because that is not possible here.
    #[must_use]
    pub fn attach(test: &str, file: &Path) -> Option<LoopDevice> {
        LoopDevice::attach_with(test, file, &[])
    }

    /// Like [`LoopDevice::attach`], with further options of `losetup`, such as `--sector-size=4096`.
    #[must_use]
    pub fn attach_with(test: &str, file: &Path, options: &[&str]) -> Option<LoopDevice> {
        if !require_root(test) {
            return None;
        }
        let output = Command::new(require_tool("losetup"))
            .args(["--find", "--show"])
            .args(options)
            .arg(file)
            .output()
            .expect("losetup is executable");
        if !output.status.success() {
            skip(test, &format!("no loop device: {}", String::from_utf8_lossy(&output.stderr).trim()));
            return None;
        }
        let device = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
        Some(LoopDevice { device })
    }

    /// Lets the device become as large as its file is now.
    ///
    /// # Panics
    ///
    /// If `losetup` refuses.
    pub fn take_size_of_file(&self) {
        let status = Command::new(require_tool("losetup")).arg("--set-capacity").arg(&self.device).status();
        assert!(status.expect("losetup is executable").success(), "losetup --set-capacity {}", self.device.display());
    }

    /// The device's path.
    pub fn path(&self) -> &Path {
        &self.device
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        // A device that is still open is detached by the kernel at its last close.
        let _ = Command::new(require_tool("losetup")).arg("--detach").arg(&self.device).status();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_becomes_a_block_device() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        let Some(device) = LoopDevice::attach("a_file_becomes_a_block_device", file.path()) else {
            return;
        };
        assert_eq!(std::fs::read(device.path()).unwrap().len(), 1 << 20);
    }
}
