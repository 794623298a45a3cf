//! What an open file or device can do: asked of the kernel where it tells, tried where it does not.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{FileExt, FileTypeExt, MetadataExt},
};

use block_core::Result;
use rustix::fs::{AtFlags, StatxFlags, ioctl_blkpbszget, ioctl_blksszget, major, minor, statx};

use super::remote;
use crate::{Buffer, Limits, PAGE, StorageKind};

/// Numbers of local file systems, as `statfs` tells them.
mod magic {
    pub(super) const BTRFS: u64 = 0x9123_683e;
    /// ext2 and ext3 too.
    pub(super) const EXT4: u64 = 0xef53;
    pub(super) const F2FS: u64 = 0xf2f5_2010;
    pub(super) const GFS2: u64 = 0x0116_1970;
    pub(super) const OCFS2: u64 = 0x7461_636f;
    pub(super) const TMPFS: u64 = 0x0102_1994;
    pub(super) const XFS: u64 = 0x5846_5342;
}

/// File systems that give room back when a hole is punched.
const PUNCHES: [u64; 7] = [magic::EXT4, magic::XFS, magic::BTRFS, magic::TMPFS, magic::F2FS, magic::OCFS2, magic::GFS2];

/// File systems that zero a range without writing it.
const ZEROES: [u64; 4] = [magic::EXT4, magic::XFS, magic::BTRFS, magic::F2FS];

/// What it can do; `alignment` is 1 if the page cache is used.
pub(super) fn of(file: &File, alignment: u32, read_only: bool) -> Result<Limits> {
    let metadata = file.metadata()?;
    if metadata.file_type().is_block_device() {
        let device = metadata.rdev();
        let can = |name| !read_only && queue_value(device, name).is_some_and(|value| value > 0);
        return Ok(Limits {
            alignment,
            kind: StorageKind::BlockDevice,
            read_only,
            discards: can("discard_max_bytes"),
            zeroes_fast: can("write_zeroes_max_bytes"),
            logical_block_size: ioctl_blksszget(file).map_err(io::Error::from)?,
            physical_block_size: ioctl_blkpbszget(file).map_err(io::Error::from)?,
            identity: (device, device),
        });
    }
    let magic = remote::magic(file)?;
    let kind = if remote::is_remote(file)? { StorageKind::NetworkFile } else { StorageKind::File };
    Ok(Limits {
        alignment,
        kind,
        read_only,
        discards: !read_only && (PUNCHES.contains(&magic) || remote::has_server(magic) && punches(file)),
        zeroes_fast: !read_only && ZEROES.contains(&magic),
        logical_block_size: 512,
        physical_block_size: u32::try_from(metadata.blksize().clamp(512, PAGE as u64)).expect("at most a page"),
        identity: (metadata.dev(), metadata.ino()),
    })
}

/// Whether a file system with a server can punch holes: tried far behind the end, where there is nothing.
fn punches(file: &File) -> bool {
    const FAR: u64 = 1 << 42;
    let mode = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
    let empty = file.metadata().is_ok_and(|metadata| metadata.len() < FAR);
    empty && rustix::fs::fallocate(file, mode, FAR, PAGE as u64).is_ok()
}

/// What offsets, lengths and memory must be multiples of past the page cache. None: it must be used.
pub(super) fn direct_alignment(file: &File) -> io::Result<Option<u32>> {
    let unit = if file.metadata()?.file_type().is_block_device() {
        Some(ioctl_blksszget(file)?)
    } else {
        match told_alignment(file) {
            Some(told) => told,
            None => tried_alignment(file)?,
        }
    };
    Ok(unit.filter(|unit| unit.is_power_of_two() && *unit as usize <= PAGE))
}

/// What the file system tells (Linux 6.1 and later): no direct I/O for this file, or its unit. None: it does not tell.
fn told_alignment(file: &File) -> Option<Option<u32>> {
    let told = statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN).ok()?;
    if told.stx_mask & StatxFlags::DIOALIGN.bits() == 0 {
        return None;
    }
    let unit = told.stx_dio_offset_align.max(told.stx_dio_mem_align);
    Some((unit > 0).then_some(unit))
}

/// Reads a little, in ever larger units. Some file systems accept O_DIRECT and then refuse every read.
fn tried_alignment(file: &File) -> io::Result<Option<u32>> {
    let metadata = file.metadata()?;
    let mut memory = Buffer::zeroed(2 * PAGE);
    for unit in [512, 4096] {
        // Aligned to the unit and to nothing more.
        let bytes = memory.segments_mut().next().expect("a buffer has memory");
        let bytes = &mut bytes[unit % PAGE..][..unit];
        match file.read_at(bytes, 0) {
            // The file is too short for its end to have been read past the cache.
            Ok(count) if count < unit => break,
            Ok(_) => return Ok(Some(u32::try_from(unit).expect("at most a page"))),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            // A bad sector, or a server that is away: what must be aligned stays unknown, the open goes on.
            Err(_) => break,
        }
        if unit == PAGE {
            return Ok(None);
        }
    }
    let device = queue_value(metadata.dev(), "logical_block_size").and_then(|unit| u32::try_from(unit).ok());
    let safe = if remote::has_server(remote::magic(file)?) { 512 } else { 4096 };
    Ok(Some(device.unwrap_or(safe)))
}

/// A number that the block layer tells of a device, or of the device that it is a partition of.
fn queue_value(device: u64, name: &str) -> Option<u64> {
    let directory = format!("/sys/dev/block/{}:{}", major(device), minor(device));
    let read = |path: String| fs::read_to_string(path).ok()?.trim().parse().ok();
    read(format!("{directory}/queue/{name}")).or_else(|| read(format!("{directory}/../queue/{name}")))
}
