//! A log in its file.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Seek, SeekFrom, Write},
    ops::ControlFlow,
    os::unix::fs::FileExt,
    path::Path,
};

use block_core::Result;
use image_format::change_log::{HEADER_BYTES, Header};
use rustix::io::Errno;

use crate::new_file::{open_or_make, sync_directory_of};

/// Bytes of a bitmap that are looked at in one go.
const CHUNK_BYTES: usize = 1 << 20;

/// A log that was opened.
#[derive(Debug)]
pub(super) struct Log {
    pub(super) header: Header,
    file: File,
}

impl Log {
    /// Makes a log, in a new file or over what there was. It is durable when this ends.
    pub(super) fn create(path: &Path, header: &Header) -> Result<()> {
        let (file, is_new) = open_or_make(path)?;
        let made = Log { header: *header, file }.make();
        if made.is_err() && is_new {
            // The failure that led here is the one to report.
            let _ = fs::remove_file(path);
        }
        made?;
        if is_new { sync_directory_of(path) } else { Ok(()) }
    }

    /// The map first: a header says only what is there.
    fn make(&self) -> Result<()> {
        let end = end_of(&self.header);
        if self.file.metadata()?.is_file() {
            self.file.set_len(0)?;
            self.file.set_len(end)?;
        } else {
            self.check_room(end)?;
            self.clear(HEADER_BYTES as u64, end)?;
        }
        self.file.sync_data()?;
        self.file.write_all_at(&self.header.encode(), 0)?;
        Ok(self.file.sync_all()?)
    }

    pub(super) fn open_file(path: &Path, to_write: bool) -> Result<File> {
        Ok(OpenOptions::new().read(true).write(to_write).open(path)?)
    }

    /// Reads the header.
    ///
    /// # Errors
    /// EIO for a file that has none.
    pub(super) fn read(file: File) -> Result<Log> {
        let mut bytes = [0; HEADER_BYTES];
        read_at(&file, &mut bytes, 0)?;
        Ok(Log { header: Header::decode(&bytes), file })
    }

    /// Writes another header; the disk has not become smaller. Blocks that are new have not been written.
    pub(super) fn change(&mut self, header: &Header) -> Result<()> {
        if header.disk_bytes > self.header.disk_bytes {
            self.grow(header)?;
        }
        self.file.write_all_at(&header.encode(), 0)?;
        self.file.sync_all()?;
        self.header = *header;
        Ok(())
    }

    fn grow(&self, header: &Header) -> Result<()> {
        let (old_end, end) = (end_of(&self.header), end_of(header));
        if self.file.metadata()?.is_file() {
            // What lies behind the map is nobody's.
            self.file.set_len(old_end)?;
            self.file.set_len(end)?;
        } else {
            self.check_room(end)?;
            self.clear(old_end, end)?;
        }
        if self.header.bitmap_bytes() > 0 {
            let mut last = [0];
            read_at(&self.file, &mut last, old_end - 1)?;
            self.file.write_all_at(&[last[0] & self.header.last_byte_mask()], old_end - 1)?;
        }
        Ok(self.file.sync_data()?)
    }

    /// Writes the bitmap, and nothing else. A reader who has gone wanted to know no more.
    pub(super) fn copy_bitmap(&self, to: &mut impl Write) -> Result<()> {
        self.each_chunk(|_, bytes| match to.write_all(bytes) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ControlFlow::Break(())),
            written => Ok(ControlFlow::Continue(written?)),
        })
    }

    /// Blocks that are marked in `parent` are marked here as well. The parent's bitmap is not the longer one.
    pub(super) fn take_over(&self, parent: &Log) -> Result<()> {
        let mut own = vec![0; CHUNK_BYTES];
        parent.each_chunk(|offset, bytes| {
            if bytes.iter().all(|byte| *byte == 0) {
                return Ok(ControlFlow::Continue(()));
            }
            let own = &mut own[..bytes.len()];
            read_at(&self.file, own, offset)?;
            own.iter_mut().zip(bytes).for_each(|(own, byte)| *own |= byte);
            Ok(ControlFlow::Continue(self.file.write_all_at(own, offset)?))
        })?;
        Ok(self.file.sync_data()?)
    }

    /// The bitmap piece by piece, each with its place in the file, until the action has enough.
    fn each_chunk(&self, mut action: impl FnMut(u64, &[u8]) -> Result<ControlFlow<()>>) -> Result<()> {
        let (mut offset, end) = (HEADER_BYTES as u64, end_of(&self.header));
        let mut chunk = vec![0; CHUNK_BYTES];
        while offset < end {
            let length = usize::try_from(end - offset).map_or(CHUNK_BYTES, |left| left.min(CHUNK_BYTES));
            read_at(&self.file, &mut chunk[..length], offset)?;
            if action(offset, &chunk[..length])?.is_break() {
                break;
            }
            offset += length as u64;
        }
        Ok(())
    }

    fn check_room(&self, end: u64) -> Result<()> {
        let room = (&self.file).seek(SeekFrom::End(0))?;
        if room >= end { Ok(()) } else { Err(io::Error::from(Errno::NOSPC).into()) }
    }

    fn clear(&self, from: u64, to: u64) -> Result<()> {
        let zeroes = vec![0; CHUNK_BYTES];
        let mut offset = from;
        while offset < to {
            let length = usize::try_from(to - offset).map_or(CHUNK_BYTES, |left| left.min(CHUNK_BYTES));
            self.file.write_all_at(&zeroes[..length], offset)?;
            offset += length as u64;
        }
        Ok(())
    }
}

/// Where the bitmap of such a log ends.
fn end_of(header: &Header) -> u64 {
    HEADER_BYTES as u64 + header.bitmap_bytes()
}

/// Reads exactly so much; a file that ends before is broken.
fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> Result<()> {
    file.read_exact_at(bytes, offset).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => io::Error::from(Errno::IO).into(),
        _ => error.into(),
    })
}
