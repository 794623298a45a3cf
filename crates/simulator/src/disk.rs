//! A disk in use: the chain, opened, with its queues.

use std::sync::Arc;

use block_core::{GuestRange, Operation, Outcome, Result};
use image_chain::{Home, HomeOptions, Layer, Queue};
use image_format::Image;
use storage_io::{Access, Buffer, CrashStorage, Executor, Storage};

use crate::images::Images;

/// An open chain.
pub struct Disk {
    home: Home<Image>,
    queues: Vec<Queue>,
}

impl Disk {
    /// Opens the images, the leaf for writing, through what `wrap` makes of their storages, with so many queues.
    ///
    /// # Errors
    /// An image cannot be opened.
    pub async fn open(
        executor: &Executor,
        images: &Images,
        wrap: impl Fn(CrashStorage) -> Arc<dyn Storage>,
        options: HomeOptions,
        queues: usize,
    ) -> Result<Disk> {
        let mut layers = Vec::new();
        for (depth, file) in images.files().iter().rev().enumerate() {
            let access = if depth == 0 { Access::Write } else { Access::Read };
            let storage = file.storage.clone().with_limits(|limits| limits.read_only = access == Access::Read);
            let storage = wrap(storage);
            let key = file.key.clone();
            let format = Image::open_with_key(executor, storage, file.kind, &file.path, access, key).await?;
            if access == Access::Write {
                format.begin_writing(executor).await?;
            }
            layers.push(Layer { name: file.path.display().to_string(), kind: file.kind, format });
        }
        let home = Home::new(executor, layers, options);
        let queues = (0..queues).map(|_| home.attach().start(executor)).collect();
        Ok(Disk { home, queues })
    }

    /// Bytes of the disk.
    pub fn size(&self) -> u64 {
        self.home.size()
    }

    /// One of the queues.
    pub fn queue(&self, index: u64) -> Queue {
        let count = self.queues.len() as u64;
        self.queues[usize::try_from(index % count).expect("a few queues")].clone()
    }

    /// Ends it; nothing may be running.
    ///
    /// # Errors
    /// What the chain says.
    pub async fn close(self) -> Result<()> {
        drop(self.queues);
        self.home.close().await
    }

    /// The bytes of a range.
    ///
    /// # Errors
    /// What the chain says.
    pub async fn read(&self, range: GuestRange) -> Result<Vec<u8>> {
        let (buffer, result) = self.queue(0).read(range, zeroed(range)).await;
        result.map(|()| buffer.to_vec())
    }
}

/// A buffer for a range.
pub(crate) fn zeroed(range: GuestRange) -> Buffer {
    Buffer::zeroed(usize::try_from(range.length()).expect("ranges of tests fit memory"))
}

/// Does one operation.
pub(crate) async fn carry_out(queue: &Queue, operation: Operation<Buffer>) -> Outcome<Buffer> {
    let done = match operation {
        Operation::Read { range, buffer } => {
            let (buffer, result) = queue.read(range, buffer).await;
            return result.map_or_else(Outcome::Failed, |()| Outcome::Read(buffer));
        }
        Operation::Extents { range, first_only } => {
            return queue.extents(range, first_only).await.map_or_else(Outcome::Failed, Outcome::Extents);
        }
        Operation::Write { range, buffer, durable } => queue.write(range, buffer, durable).await.1,
        Operation::WriteZeroes { range, may_free, fast_only, durable } => {
            queue.write_zeroes(range, may_free, fast_only, durable).await
        }
        Operation::Discard { range, .. } => queue.discard(range).await,
        Operation::Cache { range } => queue.cache(range).await,
        Operation::Flush => queue.flush().await,
    };
    done.map_or_else(Outcome::Failed, |()| Outcome::Done)
}
