//! Makes an image in a storage.

use std::sync::Arc;

use block_core::{Error, ErrorKind, FileOffset, FileRange, Result};
use storage_io::{Executor, Storage, StorageExt, StorageKind};

use super::layout::FOOTER_BYTES;
use super::{Blueprint, CreateOptions, DiskType, Footer, disk_bytes_rounded};

/// Writes a new image over whatever `storage` holds, durably. A file is cut to nothing first; a device keeps its
/// length, with the footer in its last 512 bytes. An image that makes no sense changes nothing.
pub async fn create(executor: &Executor, storage: &Arc<dyn Storage>, options: &CreateOptions) -> Result<()> {
    if options.fixed {
        create_fixed(executor, storage, options).await
    } else {
        create_sparse(executor, storage, options).await
    }?;
    storage.sync(executor).await
}

async fn create_sparse(executor: &Executor, storage: &Arc<dyn Storage>, options: &CreateOptions) -> Result<()> {
    let blueprint = Blueprint::new(options)?;
    let end = footer_place(storage, blueprint.head.len() as u64)?;
    clear(executor, storage).await?;
    storage.write_bytes(executor, FileOffset::new(0), &blueprint.head).await?;
    storage.write_bytes(executor, end, blueprint.footer.as_bytes()).await
}

async fn create_fixed(executor: &Executor, storage: &Arc<dyn Storage>, options: &CreateOptions) -> Result<()> {
    if options.parent.is_some() {
        return Err(Error::new(ErrorKind::Invalid, "a fixed image cannot have a parent"));
    }
    let disk_bytes = disk_bytes_rounded(options.disk_bytes)?;
    let footer = Footer::new(DiskType::Fixed, disk_bytes, options.uuid, options.timestamp);
    let end = footer_place(storage, disk_bytes)?;
    clear(executor, storage).await?;
    let disk = FileRange::new(FileOffset::new(0), disk_bytes);
    if storage.limits().kind == StorageKind::BlockDevice {
        storage.write_zeroes(executor, disk, false).await?;
    } else {
        allocate_or_extend(executor, storage, disk).await?;
    }
    storage.write_bytes(executor, end, footer.as_bytes()).await
}

/// Cuts a file to nothing.
async fn clear(executor: &Executor, storage: &Arc<dyn Storage>) -> Result<()> {
    if storage.limits().kind == StorageKind::BlockDevice { Ok(()) } else { storage.set_length(executor, 0).await }
}

/// Room that reads as zeroes at the end of a file; where room cannot be set aside, the file just becomes longer.
pub(super) async fn allocate_or_extend(
    executor: &Executor,
    storage: &Arc<dyn Storage>,
    range: FileRange,
) -> Result<()> {
    match storage.allocate(executor, range).await {
        Err(error) if error.kind() == ErrorKind::Unsupported => {
            let length = storage.length().max(range.end().get());
            storage.set_length(executor, length).await
        }
        result => result,
    }
}

/// Where the footer of an image goes whose other bytes end at `used`.
fn footer_place(storage: &Arc<dyn Storage>, used: u64) -> Result<FileOffset> {
    if storage.limits().kind != StorageKind::BlockDevice {
        return Ok(FileOffset::new(used));
    }
    match storage.length().checked_sub(FOOTER_BYTES as u64) {
        Some(place) if place >= used => Ok(FileOffset::new(place)),
        _ => Err(Error::new(ErrorKind::NoSpace, "the device is too small for the image")),
    }
}
