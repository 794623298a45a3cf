//! A directory of images, and the program run in it.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use test_support::target_program;

/// How a command ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Ended {
        let text = |bytes| String::from_utf8(bytes).expect("what programs say is UTF-8");
        Ended {
            status: output.status.code().expect("ended by itself"),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }
}

/// A private directory; commands run in it, so images have short names.
pub(crate) struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Place {
        Place { directory: tempfile::Builder::new().prefix("oxtap-vhd-").tempdir().unwrap() }
    }

    /// The directory's one absolute name.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().canonicalize().unwrap().join(name)
    }

    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.directory.path());
        command
    }

    /// Runs `vhd-util` with the words of `line`.
    pub(crate) fn run(&self, line: &str) -> Ended {
        self.command(target_program("vhd-util")).args(line.split_whitespace()).output().unwrap().into()
    }

    /// Runs what must work and say nothing.
    pub(crate) fn make(&self, line: &str) {
        let ended = self.run(line);
        assert_eq!(ended, Ended { status: 0, stdout: String::new(), stderr: String::new() }, "{line}");
    }

    /// Runs what must work; what it says on stdout.
    pub(crate) fn ask(&self, line: &str) -> String {
        let ended = self.run(line);
        assert_eq!((ended.status, ended.stderr.as_str()), (0, ""), "{line}");
        ended.stdout
    }

    /// Runs what must fail with one line on stderr; the status, what it says on stdout, and that line.
    pub(crate) fn fail(&self, line: &str) -> (i32, String, String) {
        let ended = self.run(line);
        assert_ne!(ended.status, 0, "{line}");
        assert_eq!(ended.stderr.lines().count(), 1, "{line}: {}", ended.stderr);
        (ended.status, ended.stdout, ended.stderr.trim_end().to_owned())
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    pub(crate) fn size(&self, name: &str) -> u64 {
        fs::metadata(self.path(name)).unwrap().len()
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).unwrap();
    }

    /// Writes over a part of an image.
    pub(crate) fn patch(&self, name: &str, offset: u64, bytes: &[u8]) {
        let file = fs::OpenOptions::new().write(true).open(self.path(name)).unwrap();
        file.write_all_at(bytes, offset).unwrap();
    }

    pub(crate) fn truncate(&self, name: &str, length: u64) {
        fs::OpenOptions::new().write(true).open(self.path(name)).unwrap().set_len(length).unwrap();
    }

    /// All files and their contents.
    pub(crate) fn everything(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let entries = fs::read_dir(self.directory.path()).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.is_file()).map(|path| (path.clone(), fs::read(path).unwrap())).collect()
    }
}

/// A footer or a header with the sum that belongs to it.
pub(crate) fn summed(mut bytes: Vec<u8>, place_of_sum: usize) -> Vec<u8> {
    bytes[place_of_sum..place_of_sum + 4].fill(0);
    let sum = !bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>();
    bytes[place_of_sum..place_of_sum + 4].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// Where the sum is in a footer, and in a header.
pub(crate) const FOOTER_SUM: usize = 64;
pub(crate) const HEADER_SUM: usize = 36;

/// Changes both footers of an image, with the right sums.
pub(crate) fn change_footers(place: &Place, name: &str, change: impl Fn(&mut Vec<u8>)) {
    let bytes = place.read(name);
    for offset in [0, bytes.len() - 512] {
        let mut footer = bytes[offset..offset + 512].to_vec();
        change(&mut footer);
        place.patch(name, offset as u64, &summed(footer, FOOTER_SUM));
    }
}

/// Changes the header of an image, with the right sum.
pub(crate) fn change_header(place: &Place, name: &str, change: impl Fn(&mut Vec<u8>)) {
    let mut header = place.read(name)[512..1536].to_vec();
    change(&mut header);
    place.patch(name, 512, &summed(header, HEADER_SUM));
}

/// Gives the first `blocks` blocks of a disk of at most 256 MiB room at the end, with full bitmaps and `byte` in all
/// their sectors.
pub(crate) fn fill_blocks(place: &Place, name: &str, blocks: usize, byte: u8) {
    let mut image = place.read(name);
    let footer = image.split_off(image.len() - 512);
    for block in 0..blocks {
        let start = (image.len() + 512).next_multiple_of(4096) - 512;
        image.resize(start, 0);
        image.extend([0xff; 512]);
        image.resize(start + 512 + (2 << 20), byte);
        let entry = u32::try_from(start / 512).unwrap();
        image[1536 + block * 4..][..4].copy_from_slice(&entry.to_be_bytes());
    }
    image.extend(footer);
    place.write(name, &image);
}

/// Whether a path is in a directory that `everything` looks at.
pub(crate) fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}
