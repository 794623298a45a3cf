//! The disk as others read it: qemu-img for a standalone image, libvhdi for a chain, e2fsck for what is on it.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use block_core::{Result, ResultExt};

use super::place::{Place, failed};

/// qemu's reading of a standalone VHD equals `expected`.
pub(super) fn compare_standalone(place: &Place, image: &str, expected: &[u8]) -> Result<()> {
    place.command("qemu-img", &["convert", "-f", "vpc", "-O", "raw", image, "by-qemu.raw"])?;
    compare(&place.file("by-qemu.raw"), expected)
}

/// Whether libvhdi reads the chain of this image exactly like this.
pub(super) fn compare_chain(place: &Place, image: &str, expected: &[u8]) -> Result<()> {
    let mount = Mount::new(place, image)?;
    compare(&mount.disk()?, expected)
}

/// libvhdi's reading of a VHD chain equals `expected`, and e2fsck likes the file system on it. What e2fsck said.
pub(super) fn compare_and_check_chain(place: &Place, image: &str, expected: &[u8]) -> Result<String> {
    let mount = Mount::new(place, image)?;
    let disk = mount.disk()?;
    compare(&disk, expected)?;
    let said = place.command("e2fsck", &["-f", "-n", &disk.display().to_string()])?;
    let summary = said.lines().last().unwrap_or_default();
    let figures = summary.split_once(": ").map_or(summary, |(_, figures)| figures);
    Ok(format!("clean, {figures}"))
}

/// Whether a file begins with exactly these bytes; it may end in zeroes (images are rounded up).
fn compare(path: &Path, expected: &[u8]) -> Result<()> {
    let mut file = File::open(path).context(path.display())?;
    let mut read = vec![0; 1 << 20];
    let mut position = 0;
    loop {
        let length = file.read(&mut read).context(path.display())?;
        if length == 0 {
            break;
        }
        let end = (position + length).min(expected.len());
        let wanted = &expected[position.min(end)..end];
        let different = read[..length].iter().zip(wanted.iter().chain(std::iter::repeat(&0))).position(|(a, b)| a != b);
        if let Some(index) = different {
            return Err(failed(format!("{} differs at byte {}", path.display(), position + index)));
        }
        position += length;
    }
    if position >= expected.len() {
        return Ok(());
    }
    Err(failed(format!("{} ends at byte {position} of {}", path.display(), expected.len())))
}

/// A VHD chain mounted by libvhdi through FUSE.
struct Mount<'place> {
    place: &'place Place,
    point: PathBuf,
}

impl<'place> Mount<'place> {
    fn new(place: &'place Place, image: &str) -> Result<Mount<'place>> {
        let point = place.file("mnt");
        std::fs::create_dir_all(&point).context(point.display())?;
        place.command("vhdimount", &[image, "mnt"]).context("vhdimount (it needs /dev/fuse)")?;
        Ok(Mount { place, point })
    }

    /// The newest disk of the chain: libvhdi shows one file for each image.
    fn disk(&self) -> Result<PathBuf> {
        let entries = std::fs::read_dir(&self.point).context(self.point.display())?;
        let mut disks: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        disks.sort();
        disks.pop().ok_or_else(|| failed("vhdimount shows no disk"))
    }
}

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        let point = self.point.display().to_string();
        let by = [("fusermount3", vec!["-u", &point]), ("fusermount", vec!["-u", &point]), ("umount", vec![&point])];
        // Whichever is installed; the first that works is enough.
        let _ = by.iter().any(|(program, arguments)| self.place.command(program, arguments).is_ok());
    }
}
