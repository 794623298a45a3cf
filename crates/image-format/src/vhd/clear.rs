//! An image without its data: an empty disk, or its parent's.
//!
//! The batmap is durably clear before the table loses a block, since every reader trusts a set bit; the table before the
//! room goes. A crash in between leaves some of the blocks; doing it again takes the rest.

use std::sync::Arc;

use block_core::{Error, ErrorKind, FileOffset, Result, ResultExt};
use storage_io::{Executor, Storage, StorageExt, StorageKind};

use super::DiskType;
use super::layout::{FOOTER_BYTES, UNUSED_ENTRY};
use super::open::{find_footers, read_header};
use super::parts::Parts;

/// Takes all blocks out of the tables, durably, and cuts a file behind them.
///
/// # Errors
/// `Invalid` for a fixed image, which is nothing but data.
pub async fn clear_data(executor: &Executor, image: &Arc<dyn Storage>) -> Result<()> {
    let footer = (*find_footers(executor, image).await?.footer).clone();
    if footer.disk_type() == DiskType::Fixed {
        return Err(Error::new(ErrorKind::Invalid, "a fixed image has no tables"));
    }
    let header = read_header(executor, image, &footer).await.context("header")?;
    let mut parts = Parts::read(executor, image, footer, header).await?;
    let disk_bytes = parts.footer.disk_bytes();
    if let Some((header, map)) = &mut parts.batmap {
        map.fill(0);
        *header = header.clone().with_map(map, disk_bytes);
    }
    parts.write_batmap(executor, image).await?;
    image.sync(executor).await?;
    parts.entries.fill(UNUSED_ENTRY);
    parts.write_table(executor, image).await?;
    image.sync(executor).await?;
    if image.limits().kind == StorageKind::BlockDevice {
        return Ok(());
    }
    let end = parts.end()?;
    write_durably(executor, image, end, parts.footer.as_bytes()).await?;
    image.set_length(executor, end.get() + FOOTER_BYTES as u64).await?;
    image.sync(executor).await
}

async fn write_durably(executor: &Executor, image: &Arc<dyn Storage>, place: FileOffset, bytes: &[u8]) -> Result<()> {
    image.write_bytes(executor, place, bytes).await?;
    image.sync(executor).await
}
