//! Bytes that go from one file to another without being read: shared by the file system where it can share, copied by the
//! server where there is one. And holes, which are known without reading them.

use std::{
    cell::Cell,
    fs::File,
    io,
    os::{fd::AsRawFd, unix::fs::FileTypeExt},
    path::Path,
};

use block_core::{Error, FileOffset, FileRange, Result};
use rustix::fs::{SeekFrom, copy_file_range, seek};

use crate::stores::remote;

/// `FICLONERANGE`: direction "write", 32 bytes, of the group 0x94, number 13.
const CLONE_RANGE: u32 = 1 << 30 | 32 << 16 | 0x94 << 8 | 13;

/// What the kernel is told of a range to share.
#[repr(C)]
struct CloneRange {
    from: i64,
    from_offset: u64,
    length: u64,
    to_offset: u64,
}

/// The way that has worked so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// The file system lets both files have the same room until one of them is written.
    Share,
    /// The server copies.
    Server,
    None,
}

/// Two files. It has its own descriptors, and calls the kernel on the caller's thread.
#[derive(Debug)]
pub struct Shortcut {
    from: File,
    to: File,
    way: Cell<Way>,
}

impl Shortcut {
    /// From one path to another; none if either is no file.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn between(from: &Path, to: &Path) -> io::Result<Option<Shortcut>> {
        let (from, to) = (File::open(from)?, File::options().write(true).open(to)?);
        let is_device = |file: &File| file.metadata().map(|metadata| metadata.file_type().is_block_device());
        if is_device(&from)? || is_device(&to)? {
            return Ok(None);
        }
        Ok(Some(Shortcut { from, to, way: Cell::new(Way::Share) }))
    }

    /// The runs of a range of the first file: whether each has data, in ascending order. A file system that does not know
    /// has data everywhere.
    pub fn runs(&self, range: FileRange) -> Vec<(bool, FileRange)> {
        let mut runs = Vec::new();
        let mut rest = range;
        while !rest.is_empty() {
            let here = rest.start().get();
            let (is_data, end) = match seek(&self.from, SeekFrom::Data(here)) {
                Ok(data) if data == here => (true, seek(&self.from, SeekFrom::Hole(here)).ok()),
                Ok(data) => (false, Some(data)),
                // Nothing but a hole up to the end of the file.
                Err(rustix::io::Errno::NXIO) => (false, None),
                Err(_) => (true, None),
            };
            let length = end.map_or(rest.length(), |end| end.saturating_sub(here)).max(1);
            let (run, behind) = rest.split_at(length);
            runs.push((is_data, run));
            rest = behind;
        }
        runs
    }

    /// Moves a range to a place in the second file. False: there is no shortcut, read it.
    ///
    /// # Errors
    /// What the operating system says, such as that there is no room.
    pub fn copy(&self, range: FileRange, to: FileOffset) -> Result<bool> {
        if self.way.get() == Way::Share {
            match self.share(range, to) {
                Ok(()) => return Ok(true),
                Err(error) if is_no_way(&error) => {
                    let has_server = remote::magic(&self.to).is_ok_and(remote::has_server);
                    self.way.set(if has_server { Way::Server } else { Way::None });
                }
                Err(error) => return Err(Error::from_os("sharing room of a file", error)),
            }
        }
        if self.way.get() != Way::Server {
            return Ok(false);
        }
        match self.copy_on_server(range, to) {
            Ok(()) => Ok(true),
            Err(error) if is_no_way(&error) => {
                self.way.set(Way::None);
                Ok(false)
            }
            Err(error) => Err(Error::from_os("copying a part of a file", error)),
        }
    }

    fn share(&self, range: FileRange, to: FileOffset) -> io::Result<()> {
        let request = CloneRange {
            from: self.from.as_raw_fd().into(),
            from_offset: range.start().get(),
            length: range.length(),
            to_offset: to.get(),
        };
        // SAFETY: the kernel reads the request, which lives until the call ends, and keeps nothing of it.
        let result = unsafe { libc::ioctl(self.to.as_raw_fd(), CLONE_RANGE as libc::Ioctl, &raw const request) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    fn copy_on_server(&self, range: FileRange, to: FileOffset) -> io::Result<()> {
        let (mut from, mut to, end) = (range.start().get(), to.get(), range.end().get());
        while from < end {
            let length = usize::try_from(end - from).unwrap_or(usize::MAX);
            if copy_file_range(&self.from, Some(&mut from), &self.to, Some(&mut to), length)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }
}

/// Another way must be taken; what was asked for is not wrong in itself.
fn is_no_way(error: &io::Error) -> bool {
    let numbers = [libc::EOPNOTSUPP, libc::ENOTTY, libc::EXDEV, libc::EINVAL, libc::ENOSYS, libc::EPERM, libc::ETXTBSY];
    error.raw_os_error().is_none_or(|number| numbers.contains(&number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn holes_are_told_apart_from_data() {
        let directory = tempfile::tempdir().unwrap();
        let [from, to] = ["from", "to"].map(|name| directory.path().join(name));
        let file = File::create(&from).unwrap();
        file.set_len(4 << 20).unwrap();
        file.write_all_at(&[7; 1 << 20], 1 << 20).unwrap();
        File::create(&to).unwrap();
        let shortcut = Shortcut::between(&from, &to).unwrap().unwrap();
        let whole = FileRange::new(FileOffset::new(512), (4 << 20) - 512);
        let runs = shortcut.runs(whole);
        let data: u64 = runs.iter().filter(|(is_data, _)| *is_data).map(|(_, run)| run.length()).sum();
        assert_eq!(runs.iter().map(|(_, run)| run.length()).sum::<u64>(), whole.length());
        assert_eq!(data, 1 << 20, "{runs:?}");
        // Whatever this file system can: it is done, or said not to be.
        let range = FileRange::new(FileOffset::new(1 << 20), 1 << 20);
        if shortcut.copy(range, FileOffset::new(4096)).unwrap() {
            assert_eq!(std::fs::read(&to).unwrap()[4096..], [7; 1 << 20]);
        }
    }
}
