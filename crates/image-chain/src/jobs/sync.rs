//! Flushes. The leaf's format lets one sync serve all flushes that wait, and never repeats one that failed; here it is
//! noted which table changes are durable.

use block_core::{Error, ErrorKind, Result};
use image_format::Format;

use crate::chain::Chain;

impl<F: Format + 'static> Chain<F> {
    /// Makes what was answered before this call durable.
    pub(crate) async fn flush(&self) -> Result<()> {
        let changes = self.shared.tables.now();
        self.leaf().flush(&self.executor).await?;
        // After the sync: a durable write that failed meanwhile may have been told what this sync was not.
        self.shared.tables.check()?;
        self.shared.tables.made_durable(changes);
        Ok(())
    }

    /// Refuses to change an image that only reads.
    pub(crate) fn check_writable(&self) -> Result<()> {
        if self.shared.read_only { Err(Error::new(ErrorKind::ReadOnly, "the disk is read-only")) } else { Ok(()) }
    }
}
