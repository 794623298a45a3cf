//! New VHD images for our other programs.

use std::path::Path;

use block_core::Result;
use image_format::vhd::CreateOptions;

use super::{Session, create, creating::new_image, snapshot};

/// Makes a dynamic image with a disk of `disk_bytes`, rounded up to 2 MiB.
pub(crate) fn create_dynamic(path: &Path, disk_bytes: u64) -> Result<()> {
    let session = Session::new(super::VHD_UTIL)?;
    let image = CreateOptions { disk_bytes, ..new_image()? };
    session.executor.block_on(create::create(&session, path, &image))
}

/// Makes an image that continues `parent`; its disk is as large as the parent's unless told.
pub(crate) fn create_snapshot(path: &Path, parent: &Path, is_raw: bool, disk_bytes: Option<u64>) -> Result<()> {
    snapshot::make(&Session::new(super::VHD_UTIL)?, path, parent, is_raw, disk_bytes)
}
