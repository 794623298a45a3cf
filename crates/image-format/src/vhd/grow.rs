//! A larger disk in the same image, while nobody has it open as one: only its footers say how large it is. The table
//! must have room for the blocks to come; moving things to make it longer is not for a disk that is in use.

use std::sync::Arc;

use block_core::{Error, ErrorKind, FileOffset, Result, ResultExt};
use storage_io::{Executor, Storage, StorageExt};

use super::image::VhdImage;
use super::layout::{FOOTER_BYTES, UNUSED_ENTRY};
use super::open::{find_footers, read_header, read_table};
use super::{DiskType, Metadata};

impl VhdImage {
    /// Makes the disk in `storage` `bytes` long, durably.
    ///
    /// # Errors
    /// `Invalid` if it is longer, `LimitReached` if its table ends before, `Unsupported` for a fixed image.
    pub async fn grow(executor: &Executor, storage: &Arc<dyn Storage>, bytes: u64) -> Result<()> {
        let found = find_footers(executor, storage).await?;
        let before = found.footer.disk_bytes();
        if bytes == before {
            return Ok(());
        }
        if bytes < before {
            return Err(Error::new(ErrorKind::Invalid, format!("is {before} bytes long already")));
        }
        if found.footer.disk_type() == DiskType::Fixed {
            return Err(Error::new(ErrorKind::Unsupported, "a fixed VHD image cannot grow while it is in use"));
        }
        let header = read_header(executor, storage, &found.footer).await.context("header")?;
        let bytes_max = u64::from(header.table_entries()) * header.block_shape().data_bytes();
        if bytes > bytes_max {
            let words = format!("its table has room for a disk of {bytes_max} bytes, not of {bytes}");
            return Err(Error::new(ErrorKind::LimitReached, words));
        }
        let footer = found.footer.with_disk_bytes(bytes);
        let metadata = Metadata::new(&footer, &header, storage.length())?;
        let entries = read_table(executor, storage, &metadata).await?;
        let blocks_before = usize::try_from(header.block_shape().blocks(before)).expect("fewer than there are now");
        if entries[blocks_before..].iter().any(|&entry| entry != UNUSED_ENTRY) {
            return Err(Error::new(ErrorKind::Corrupt, "its table has blocks behind the end of the disk"));
        }
        // The copy at 0 is the one that counts: one sector, written at once.
        storage.write_bytes(executor, FileOffset::new(0), footer.as_bytes()).await?;
        storage.sync(executor).await?;
        if found.has_end {
            let end = FileOffset::new(storage.length() - FOOTER_BYTES as u64);
            storage.write_bytes(executor, end, footer.as_bytes()).await?;
            storage.sync(executor).await?;
        }
        Ok(())
    }
}
