//! Where the bytes of the disk are, and the bitmaps that it takes to know.

use std::rc::Rc;

use block_core::{GuestOffset, GuestRange, Result, ResultExt, SECTOR};
use storage_io::{Executor, StorageExt};

use super::image::Sparse;
use super::tables::{LoadBegin, Whereabouts};
use crate::promise::Promise;
use crate::{Bitmap, Lookup, MappedExtent, Mapping, Miss};

impl Sparse {
    /// The first run of `range`.
    pub(super) fn map(&self, range: GuestRange) -> Lookup {
        assert!(range.end().get() <= self.metadata.disk_bytes(), "{range} lies on the disk");
        let shape = self.metadata.shape();
        let tables = self.tables.borrow();
        let (inside, _) = range.split_at(shape.data_bytes() - range.start().get() % shape.data_bytes());
        let block = self.block_of(inside);
        let base = block as u64 * shape.data_bytes();
        let found = |range, mapping| Lookup::Found(MappedExtent { range, mapping });
        match tables.whereabouts(block) {
            Whereabouts::Absent => {
                let blocks = usize::try_from(shape.blocks(range.end().get())).expect("at most the disk's blocks");
                let end = tables.absent_until(block, blocks) as u64 * shape.data_bytes();
                found(range.split_at(end - range.start().get()).0, self.hole)
            }
            Whereabouts::NotLoaded => Lookup::Miss(Miss { range: inside }),
            Whereabouts::Full(start) => {
                let offset = start + shape.bitmap_bytes() + (inside.start().get() - base);
                found(inside, Mapping::Data { offset })
            }
            Whereabouts::Partial(start, bitmap) => {
                let sectors = shape.sectors_of(inside);
                let (is_present, end) = bitmap.run_from(sectors.start, sectors.end);
                let end = GuestOffset::new(base + end as u64 * SECTOR).min(inside.end());
                let (run, _) = inside.split_at(end - inside.start());
                let offset = start + shape.bitmap_bytes() + (run.start().get() - base);
                found(run, if is_present { Mapping::Data { offset } } else { self.hole })
            }
        }
    }

    /// Loads the bitmaps of the blocks in `range`.
    pub(super) async fn load_range(self: &Rc<Self>, executor: &Executor, range: GuestRange) -> Result<()> {
        for part in range.granules(self.metadata.shape().data_bytes()) {
            self.load(executor, self.block_of(part)).await?;
        }
        Ok(())
    }

    /// Loads the bitmap of a block, unless it is known. Those who need the same one share one read: a second one could
    /// bring back what a commit has changed meanwhile.
    pub(super) async fn load(self: &Rc<Self>, executor: &Executor, block: usize) -> Result<()> {
        let begin = self.tables.borrow_mut().begin_load(block);
        match begin {
            LoadBegin::Nothing => Ok(()),
            LoadBegin::Wait(loaded) => loaded.await,
            LoadBegin::Read(start, loaded) => {
                let (sparse, reader, to) = (self.clone(), executor.clone(), loaded.clone());
                executor
                    .spawn(async move {
                        let range = sparse.metadata.shape().range_at(start);
                        let length = usize::try_from(sparse.metadata.shape().bitmap_bytes()).expect("a few sectors");
                        let read = sparse.storage.read_bytes(&reader, range.start(), length).await;
                        sparse.end_load(block, read.context("reading a bitmap"), &to);
                    })
                    .detach();
                loaded.await
            }
        }
    }

    fn end_load(&self, block: usize, read: Result<Vec<u8>>, loaded: &Promise<Result<()>>) {
        let sectors = self.metadata.shape().sectors();
        let (bitmap, result) = match read {
            Ok(bytes) => (Some(Bitmap::from_bytes(&bytes, sectors)), Ok(())),
            Err(error) => (None, Err(error)),
        };
        self.tables.borrow_mut().end_load(block, bitmap);
        loaded.resolve(result);
    }
}
