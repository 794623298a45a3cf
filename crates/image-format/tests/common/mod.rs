//! A disk made of one VHD, without a chain: enough of an executor of plans to move bytes in tests.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "helpers of tests, each uses a part")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use block_core::{FileOffset, FileRange, GuestOffset, GuestRange, Result, SECTOR};
use image_format::vhd::{self, CreateOptions, ParentLink, Timestamp, VhdImage};
use image_format::{Format, Lookup, Mapping};
use storage_io::{Access, Buffer, Executor, SimulatedClock, Storage, StorageExt, StorageOperation};
use uuid::Uuid;

pub const MIB: u64 = 1 << 20;
pub const BLOCK: u64 = 2 * MIB;
/// Sectors of a block.
pub const SPB: u64 = BLOCK / SECTOR;

pub fn simulated(seed: u64) -> Executor {
    Executor::simulated(seed, SimulatedClock::new())
}

pub fn options(disk_bytes: u64) -> CreateOptions {
    CreateOptions {
        disk_bytes,
        reserved_bytes: 0,
        fixed: false,
        uuid: Uuid::from_u128(0xabcd),
        timestamp: Timestamp::new(100),
        parent: None,
    }
}

pub fn child_options(disk_bytes: u64) -> CreateOptions {
    let parent = ParentLink {
        uuid: Some(Uuid::from_u128(0x1234)),
        timestamp: Timestamp::new(90),
        name: "a.vhd".into(),
        path: "./a.vhd".into(),
    };
    CreateOptions { parent: Some(parent), ..options(disk_bytes) }
}

pub fn create(storage: Arc<dyn Storage>, options: &CreateOptions) -> Arc<dyn Storage> {
    let executor = simulated(1);
    executor.block_on(vhd::create(&executor, &storage, options)).unwrap();
    storage
}

/// What a sector of the disk holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Seen {
    /// The image does not have it.
    Hole,
    /// It has it, and it is zero.
    Zero,
    /// What `Disk::write` wrote with this tag.
    Tag(u64),
    /// Anything else.
    Garbage,
}

pub struct Disk {
    pub image: VhdImage,
    pub executor: Executor,
}

impl Disk {
    pub fn open(executor: &Executor, storage: Arc<dyn Storage>) -> Result<Self> {
        Self::open_for(executor, storage, Access::Write)
    }

    pub fn open_for(executor: &Executor, storage: Arc<dyn Storage>, access: Access) -> Result<Self> {
        let image = executor.block_on(VhdImage::open(executor, storage, Path::new("/d/child.vhd"), access))?;
        if access == Access::Write {
            executor.block_on(image.begin_writing(executor))?;
        }
        Ok(Disk { image, executor: executor.clone() })
    }

    /// Fills sectors with a tag.
    pub async fn write(&self, first: u64, count: u64, tag: u64) -> Result<()> {
        for part in sectors(first, count).granules(self.image.granule()) {
            let plan = self.image.plan_write(&self.executor, part).await?;
            let bytes = tag.to_be_bytes().repeat(usize::try_from(part.length() / 8).unwrap());
            let buffer = Buffer::from_bytes(&bytes);
            let operation = StorageOperation::Write { offset: plan.offset, buffer, durable: false };
            self.image.storage().submit(&self.executor, operation, plan.hold.clone()).await.result?;
            self.image.commit(&self.executor, plan).await?;
        }
        Ok(())
    }

    /// Frees a block, when nobody reads it.
    pub async fn discard(&self, block: u64) -> Result<bool> {
        let disk = GuestRange::new(GuestOffset::new(0), self.image.size());
        let granule = sectors(block * SPB, SPB).intersection(disk).unwrap();
        let freed = self.image.free(&self.executor, granule).await?;
        let Some(freed) = freed else { return Ok(false) };
        self.image.release(&self.executor, freed).await?;
        Ok(true)
    }

    /// Where the first run from `sector` on is, and how many sectors it has.
    pub async fn map(&self, sector: u64, count: u64) -> Result<(Mapping, u64)> {
        loop {
            match self.image.map(sectors(sector, count)) {
                Lookup::Found(extent) => return Ok((extent.mapping, extent.range.length() / SECTOR)),
                Lookup::Miss(miss) => self.image.load(&self.executor, miss).await?,
            }
        }
    }

    pub async fn see(&self, sector: u64) -> Result<Seen> {
        let Mapping::Data { offset } = self.map(sector, 1).await?.0 else { return Ok(Seen::Hole) };
        let bytes = self.image.storage().read_bytes(&self.executor, offset, 512).await?;
        let words: Vec<u64> = bytes.as_chunks::<8>().0.iter().map(|&word| u64::from_be_bytes(word)).collect();
        Ok(match words[0] {
            _ if words.iter().any(|&word| word != words[0]) => Seen::Garbage,
            0 => Seen::Zero,
            tag => Seen::Tag(tag),
        })
    }

    /// What all sectors hold that it has; the others are holes.
    pub async fn contents(&self) -> Result<BTreeMap<u64, Seen>> {
        let mut contents = BTreeMap::new();
        let (mut sector, end) = (0, self.image.size() / SECTOR);
        while sector < end {
            let (mapping, count) = self.map(sector, end - sector).await?;
            if matches!(mapping, Mapping::Data { .. }) {
                for sector in sector..sector + count {
                    contents.insert(sector, self.see(sector).await?);
                }
            }
            sector += count;
        }
        Ok(contents)
    }

    pub async fn flush(&self) -> Result<()> {
        self.image.flush(&self.executor).await
    }

    pub async fn close(&self) -> Result<()> {
        self.image.close(&self.executor).await
    }
}

pub fn sectors(first: u64, count: u64) -> GuestRange {
    GuestRange::new(GuestOffset::new(first * SECTOR), count * SECTOR)
}

pub fn read(storage: &Arc<dyn Storage>, offset: u64, length: usize) -> Vec<u8> {
    let executor = simulated(1);
    let range = FileRange::new(FileOffset::new(offset), length as u64).align_out(SECTOR);
    let count = usize::try_from(range.length()).unwrap();
    let bytes = executor.block_on(storage.read_bytes(&executor, range.start(), count)).unwrap();
    let from = usize::try_from(offset - range.start().get()).unwrap();
    bytes[from..from + length].to_vec()
}

pub fn overwrite(storage: &Arc<dyn Storage>, offset: u64, bytes: &[u8]) {
    let executor = simulated(1);
    executor.block_on(storage.write_bytes(&executor, FileOffset::new(offset), bytes)).unwrap();
}

/// Random numbers (splitmix64) of a test.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}
