//! What the demo's disk holds at first: an ext4 file system with files in it, made by mke2fs without root.

use std::fs;

use block_core::{Result, ResultExt};

use super::{super::size, place::Place};

/// The bytes of the disk before anybody works on it.
pub(super) struct Content {
    bytes: Vec<u8>,
    files: usize,
    file_bytes: u64,
}

impl Content {
    /// A disk of `disk_bytes` with a file system of `file_system_bytes` at its start.
    pub(super) fn make(place: &Place, file_system_bytes: u64, disk_bytes: u64) -> Result<Content> {
        let tree = place.file("tree");
        let (files, file_bytes) = plant(&tree)?;
        let image = place.file("base.raw");
        fs::File::create(&image).and_then(|file| file.set_len(file_system_bytes)).context(image.display())?;
        let tree = tree.display().to_string();
        let image_name = image.display().to_string();
        place.command("mke2fs", &["-q", "-F", "-t", "ext4", "-L", "oxtap-demo", "-d", &tree, &image_name])?;
        let mut bytes = fs::read(&image).context(&image_name)?;
        bytes.resize(usize::try_from(disk_bytes).expect("the demo's disk fits into memory"), 0);
        Ok(Content { bytes, files, file_bytes })
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn describe(&self) -> String {
        format!(
            "ext4 with {} files, {}, on a disk of {}",
            self.files,
            size::describe(self.file_bytes),
            size::describe(self.bytes.len() as u64)
        )
    }
}

/// Files of many sizes, their content drawn from their number. How many, and their bytes.
fn plant(tree: &std::path::Path) -> Result<(usize, u64)> {
    let (mut files, mut total) = (0, 0);
    for directory in 0..8_u64 {
        let path = tree.join(format!("directory-{directory}"));
        fs::create_dir_all(&path).context(path.display())?;
        for file in 0..25_u64 {
            let number = directory * 25 + file;
            let length = (number * number * 29) % 400_000;
            let bytes: Vec<u8> =
                (0..length).map(|index| scramble((number << 32) | (index / 8)).to_le_bytes()[0]).collect();
            let name = path.join(format!("file-{file}"));
            fs::write(&name, bytes).context(name.display())?;
            files += 1;
            total += length;
        }
    }
    Ok((files, total))
}

/// Numbers that look random and are not (splitmix64).
pub(super) fn scramble(number: u64) -> u64 {
    let state = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
