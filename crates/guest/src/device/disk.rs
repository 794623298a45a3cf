//! What a disk is, and what programs ask of it.

use block_core::{Error, ErrorKind, Result};
use storage_io::Executor;

use super::{Device, tree::nonsense};
use crate::Front;

/// A disk, as its backend shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskProperties {
    /// Its size, in sectors of 512 bytes whatever its blocks are.
    pub sectors: u64,
    /// Bytes that can be read or written at least.
    pub logical_block_size: u32,
    /// Bytes that storage handles as one.
    pub physical_block_size: u32,
    /// Nothing can be written.
    pub read_only: bool,
    /// It is in a drive.
    pub is_cdrom: bool,
    /// Flushes are offered.
    pub flush: bool,
    /// Barriers are offered.
    pub barrier: bool,
    /// Discards are offered.
    pub discard: bool,
    /// Discards after which nothing can be recovered are offered.
    pub secure_discard: bool,
    /// The backend keeps grants between requests if we do.
    pub persistent: bool,
}

impl DiskProperties {
    /// The same, if it makes sense.
    ///
    /// # Errors
    /// `Corrupt` for blocks that nobody could work with.
    pub(super) fn check(self) -> Result<DiskProperties> {
        let is_good = |bytes: u32| bytes.is_power_of_two() && (512..=1 << 20).contains(&bytes);
        if !is_good(self.logical_block_size) || self.logical_block_size > 4096 {
            return Err(nonsense(format_args!("blocks of {} bytes", self.logical_block_size)));
        }
        if !is_good(self.physical_block_size) || self.physical_block_size < self.logical_block_size {
            return Err(nonsense(format_args!("physical blocks of {} bytes", self.physical_block_size)));
        }
        let block_sectors = u64::from(self.logical_block_size / 512);
        if self.sectors == 0 || !self.sectors.is_multiple_of(block_sectors) || self.sectors > u64::MAX / 512 {
            return Err(nonsense(format_args!("{} sectors", self.sectors)));
        }
        Ok(self)
    }
}

/// Requests. Those that have no answer when the device gets another backend are asked again there; those that come
/// before there is a disk wait for it.
impl Device {
    /// Reads so many sectors.
    ///
    /// # Errors
    /// What the backend says, or `Closed` when the device is left.
    pub async fn read(&self, sector: u64, sectors: usize) -> Result<Vec<u8>> {
        self.ask(async |front| front.read(sector, sectors).await).await
    }

    /// Writes whole sectors.
    ///
    /// # Errors
    /// What the backend says, or `Closed` when the device is left.
    pub async fn write(&self, sector: u64, bytes: &[u8]) -> Result<()> {
        self.ask(async |front| front.write(sector, bytes).await).await
    }

    /// What was answered survives a loss of power.
    ///
    /// # Errors
    /// What the backend says, or `Closed` when the device is left.
    pub async fn flush(&self) -> Result<()> {
        self.ask(async |front| front.flush().await).await
    }

    /// Writes at most eleven pages as a barrier.
    ///
    /// # Errors
    /// What the backend says, or `Closed` when the device is left.
    pub async fn write_barrier(&self, sector: u64, bytes: &[u8]) -> Result<()> {
        self.ask(async |front| front.write_barrier(sector, bytes).await).await
    }

    /// The content of some sectors no longer matters.
    ///
    /// # Errors
    /// What the backend says, or `Closed` when the device is left.
    pub async fn discard(&self, sector: u64, sectors: u64) -> Result<()> {
        self.ask(async |front| front.discard(sector, sectors).await).await
    }

    async fn ask<T>(&self, ask: impl AsyncFn(&Front) -> Result<T>) -> Result<T> {
        let inner = self.inner();
        let _running = inner.begin_request();
        loop {
            let (front, generation) = inner.queue().await?;
            match ask(&front).await {
                Err(error) if error.kind() == ErrorKind::Closed && inner.generation() != generation => {}
                result => return result,
            }
        }
    }

    /// The executor that it lives on.
    pub fn executor(&self) -> &Executor {
        self.inner().executor()
    }
}

pub(super) fn gone() -> Error {
    Error::new(ErrorKind::Closed, "the device is left")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DISK: DiskProperties = DiskProperties {
        sectors: 2048,
        logical_block_size: 512,
        physical_block_size: 4096,
        read_only: false,
        is_cdrom: false,
        flush: true,
        barrier: false,
        discard: false,
        secure_discard: false,
        persistent: false,
    };

    #[test]
    fn disks_that_make_no_sense_are_refused() {
        assert_eq!(DISK.check().unwrap(), DISK);
        let bad = [
            DiskProperties { sectors: 0, ..DISK },
            DiskProperties { sectors: u64::MAX, ..DISK },
            DiskProperties { logical_block_size: 0, ..DISK },
            DiskProperties { logical_block_size: 1000, ..DISK },
            DiskProperties { logical_block_size: 8192, physical_block_size: 8192, ..DISK },
            DiskProperties { physical_block_size: 256, ..DISK },
            DiskProperties { logical_block_size: 4096, sectors: 2049, ..DISK },
        ];
        for disk in bad {
            assert_eq!(disk.check().unwrap_err().kind(), ErrorKind::Corrupt, "{disk:?}");
        }
    }
}
