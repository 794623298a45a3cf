//! A directory that is ours, below one that anybody may write to, such as `/dev/shm`: others may have made a link, a
//! file or a directory of its name before. Nothing is followed, nothing that is not ours is written to, and what is done
//! in the directory is done by its descriptor, so that it stays the one that was looked at.

use std::{
    fs::{self, File},
    io,
    os::fd::OwnedFd,
    path::Path,
};

use block_core::{Error, Result, ResultExt};
use rustix::{
    fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, fstat, mkdirat, openat, unlinkat},
    io::Errno,
    process::geteuid,
};

/// Its bits let its owner in, also one that may not ignore them.
const OWNER_ALL: Mode = Mode::RWXU;
const OTHERS_WRITE: Mode = Mode::WGRP.union(Mode::WOTH);

/// A directory that belongs to the user that we are, and that nobody else may write to.
#[derive(Debug)]
pub struct OwnDirectory(OwnedFd);

impl OwnDirectory {
    /// Opens it, or makes it where there is none. A link, or an empty directory, of somebody else makes room.
    ///
    /// # Errors
    /// What is there does not belong to us, and cannot be removed.
    pub fn make(path: &Path) -> Result<OwnDirectory> {
        if let Err(refused) = make_new(path) {
            if refused != Errno::EXIST {
                return Err(os(refused)).context(path.display());
            }
            match OwnDirectory::open(path) {
                Ok(ours) => return Ok(ours),
                // One attempt: whoever makes it again and again gets the error.
                Err(_) if remove_one(path).and_then(|()| make_new(path)).is_ok() => {}
                Err(error) => return Err(error),
            }
        }
        OwnDirectory::open(path)
    }

    /// Opens one that is there.
    ///
    /// # Errors
    /// It is not there, it is a link, it belongs to somebody else, or others may write to it.
    pub fn open(path: &Path) -> Result<OwnDirectory> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = openat(CWD, path, flags, Mode::empty()).map_err(os).context(path.display())?;
        let stat = fstat(&opened).map_err(os).context(path.display())?;
        if stat.st_uid != geteuid().as_raw() || Mode::from_raw_mode(stat.st_mode).intersects(OTHERS_WRITE) {
            let words = format!("{}: belongs to somebody else, or others may write to it", path.display());
            return Err(Error::from_os(words, os(Errno::PERM)));
        }
        Ok(OwnDirectory(opened))
    }

    /// Makes a file; one that was left under this name is removed.
    ///
    /// # Errors
    /// What the system says.
    pub fn create(&self, name: &str) -> io::Result<File> {
        self.remove(name)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(openat(&self.0, name, flags, Mode::RUSR | Mode::WUSR)?.into())
    }

    /// Opens a file to read and to write, and makes it if it is not there.
    ///
    /// # Errors
    /// What the system says.
    pub fn open_or_create(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(openat(&self.0, name, flags, Mode::RUSR | Mode::WUSR)?.into())
    }

    /// Removes a file, or a link, if it is there.
    ///
    /// # Errors
    /// What the system says.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        match unlinkat(&self.0, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes the files and links whose names begin so.
    ///
    /// # Errors
    /// What the system says.
    pub fn remove_all(&self, prefix: &str) -> io::Result<()> {
        for entry in Dir::read_from(&self.0)? {
            let entry = entry?;
            let is_meant = entry.file_name().to_bytes().starts_with(prefix.as_bytes());
            if is_meant && entry.file_type() != FileType::Directory {
                unlinkat(&self.0, entry.file_name(), AtFlags::empty())?;
            }
        }
        Ok(())
    }
}

fn make_new(path: &Path) -> rustix::io::Result<()> {
    mkdirat(CWD, path, OWNER_ALL)
}

/// Removes what has this name, if it is no directory with something in it. Neither call follows a link.
fn remove_one(path: &Path) -> rustix::io::Result<()> {
    let removed = fs::remove_dir(path).or_else(|_| fs::remove_file(path));
    removed.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

fn os(error: Errno) -> io::Error {
    error.into()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown, symlink};

    use super::*;

    /// A place, and in it a directory of somebody else with a file that must stay.
    fn place() -> (tempfile::TempDir, std::path::PathBuf) {
        let place = tempfile::tempdir().unwrap();
        let precious = place.path().join("precious");
        fs::create_dir(&precious).unwrap();
        fs::write(precious.join("vdi-0"), "keep").unwrap();
        (place, precious)
    }

    #[test]
    fn a_link_to_a_directory_is_replaced_and_not_followed() {
        let (place, precious) = place();
        let path = place.path().join("td3-7");
        symlink(&precious, &path).unwrap();
        assert!(OwnDirectory::open(&path).is_err());
        let made = OwnDirectory::make(&path).unwrap();
        made.remove_all("").unwrap();
        made.create("vdi-0").unwrap();
        assert!(fs::symlink_metadata(&path).unwrap().is_dir());
        assert_eq!(fs::read(precious.join("vdi-0")).unwrap(), b"keep");
    }

    #[test]
    fn a_link_to_a_file_is_removed_and_not_followed() {
        let (place, precious) = place();
        let path = place.path().join("td3-7");
        let made = OwnDirectory::make(&path).unwrap();
        for empty_first in [false, true] {
            symlink(precious.join("vdi-0"), path.join("vdi-0")).unwrap();
            if empty_first {
                made.remove_all("").unwrap();
                assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
            }
            made.create("vdi-0").unwrap();
            assert!(fs::symlink_metadata(path.join("vdi-0")).unwrap().is_file());
            made.remove("vdi-0").unwrap();
        }
        assert_eq!(fs::read(precious.join("vdi-0")).unwrap(), b"keep");
    }

    #[test]
    fn one_that_others_may_write_to_is_not_ours() {
        let (place, _) = place();
        for (name, mode, is_ours) in [("a", 0o755, true), ("b", 0o775, false), ("c", 0o1777, false)] {
            let path = place.path().join(name);
            fs::DirBuilder::new().mode(0o700).create(&path).unwrap();
            fs::write(path.join("file"), "").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let made = OwnDirectory::make(&path);
            assert_eq!(made.is_ok(), is_ours, "{mode:o}: {made:?}");
            assert!(path.join("file").exists());
        }
    }

    #[test]
    fn one_of_somebody_else_is_remade_if_it_is_empty() {
        let (_place, precious) = place();
        if !test_support::require_root("one_of_somebody_else_is_remade_if_it_is_empty") {
            return;
        }
        chown(&precious, Some(4711), Some(4711)).unwrap();
        let told = OwnDirectory::make(&precious).unwrap_err().to_string();
        assert!(told.contains("precious: belongs to somebody else"), "{told}");
        assert!(precious.join("vdi-0").exists());
        fs::remove_file(precious.join("vdi-0")).unwrap();
        OwnDirectory::make(&precious).unwrap();
    }
}
