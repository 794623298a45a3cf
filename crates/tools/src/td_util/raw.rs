//! Raw images: their bytes, and nothing that says anything about them.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{self, Seek, SeekFrom, Write},
    os::unix::fs::FileExt,
    path::Path,
};

use block_core::{Error, Result};
use command_line::{Options, leading_number};
use control_api::{describe, errno};
use rustix::{
    fs::{FallocateFlags, fallocate},
    io::Errno,
};

use super::{EINVAL, SPEAKER};
use crate::new_file::{open_or_make, sync_directory_of};

const MEBIBYTE: u64 = 1 << 20;
const ZEROES_BYTES: usize = 1 << 20;

/// Makes an image of zeroes with all its room; the answer is the exit status, or none for what is no size.
pub(super) fn create(path: &Path, size: &OsStr) -> Option<u8> {
    let mebibytes = u64::try_from(leading_number(size.as_encoded_bytes())).ok().filter(|number| *number > 0)?;
    let Some(bytes) = mebibytes.checked_mul(MEBIBYTE).filter(|bytes| i64::try_from(*bytes).is_ok()) else {
        let _ = writeln!(io::stderr(), "{} create: {mebibytes} MiB is no size of a disk", SPEAKER.name);
        return Some(EINVAL);
    };
    Some(match make(path, bytes) {
        Ok(()) => 0,
        Err(error) => {
            let number = errno(&error);
            let _ = writeln!(io::stderr(), "{} create: {}: {}", SPEAKER.name, path.display(), describe(number));
            status(&error)
        }
    })
}

fn make(path: &Path, bytes: u64) -> Result<()> {
    let (file, is_new) = open_or_make(path)?;
    let filled = fill(&file, bytes).and_then(|()| Ok(file.sync_all()?));
    if filled.is_err() && is_new {
        // The failure that led here is the one to report.
        let _ = fs::remove_file(path);
    }
    filled?;
    if is_new { sync_directory_of(path) } else { Ok(()) }
}

fn fill(mut file: &File, bytes: u64) -> Result<()> {
    if file.metadata()?.is_file() {
        file.set_len(0)?;
        match fallocate(file, FallocateFlags::empty(), 0, bytes) {
            // Some file systems give no room that was not written.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => write_zeroes(file, bytes),
            given => Ok(given.map_err(io::Error::from)?),
        }
    } else if file.seek(SeekFrom::End(0))? < bytes {
        Err(io::Error::from(Errno::NOSPC).into())
    } else {
        write_zeroes(file, bytes)
    }
}

fn write_zeroes(file: &File, bytes: u64) -> Result<()> {
    let zeroes = vec![0; ZEROES_BYTES];
    let mut offset = 0;
    while offset < bytes {
        let length = usize::try_from(bytes - offset).map_or(ZEROES_BYTES, |left| left.min(ZEROES_BYTES));
        file.write_all_at(&zeroes[..length], offset)?;
        offset += length as u64;
    }
    Ok(())
}

/// Says what was asked; the answer is the exit status.
pub(super) fn query(path: &Path, options: &Options) -> u8 {
    let name = path.as_os_str().as_encoded_bytes();
    let size = match size(path) {
        Ok(size) => size,
        Err(error) => {
            say(&[SPEAKER.cannot_open.as_bytes(), b" ", name, format!(": {}", errno(&error)).as_bytes()]);
            return status(&error);
        }
    };
    if options.has(b'v') {
        say(&[(size / MEBIBYTE).to_string().as_bytes()]);
    }
    if options.has(b'p') {
        say(&[name, b" has no parent"]);
    }
    if options.has(b'f') {
        say(&[b"hidden: 0"]);
    }
    if options.has(b'd') {
        say(&[b"chain depth: 1"]);
    }
    0
}

fn size(path: &Path) -> Result<u64> {
    Ok(File::open(path)?.seek(SeekFrom::End(0))?)
}

/// A line on stdout; who reads it may have gone.
fn say(parts: &[&[u8]]) {
    let _ = io::stdout().write_all(&[parts.concat(), b"\n".to_vec()].concat());
}

fn status(error: &Error) -> u8 {
    u8::try_from(errno(error)).unwrap_or(u8::MAX)
}
