//! Files that a command makes: what was made for it goes again when it fails, and a name is durable when it says so.

use std::{
    fs::{File, OpenOptions},
    io,
    path::Path,
};

use block_core::{Result, ResultExt};

/// Opens a file or a device for writing, and says whether it was made for that.
pub(crate) fn open_or_make(path: &Path) -> io::Result<(File, bool)> {
    match OpenOptions::new().write(true).create_new(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Ok((OpenOptions::new().write(true).open(path)?, false))
        }
        made => Ok((made?, true)),
    }
}

/// A new file's name is durable only with its directory.
pub(crate) fn sync_directory_of(path: &Path) -> Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory).and_then(|directory| directory.sync_all()).context(directory.display())
}
