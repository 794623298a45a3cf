//! `fill`: every block gets its room, and holds what the disk holds there.
//!
//! A guest sees no difference, at any instant: what a block holds is durable before the table and its bitmap say that it
//! is there, and room without data is durably zero.

use std::{ops::Range, path::Path, sync::Arc};

use block_core::{Error, ErrorKind, GuestOffset, GuestRange, Result, ResultExt, SECTOR};
use command_line::{Flag, Options, Syntax, Value};
use futures_util::future::join_all;
use image_chain::{ChainSpec, DiskKey, Home, ImageKind, ImageName, Queue};
use image_format::{
    Format, Lookup, Mapping, WritePlan,
    vhd::{DiskType, VhdImage},
};
use rustix::io::Errno;
use storage_io::{Access, Buffer, StorageExt};

use super::{
    Failure, IMAGE, Session,
    key::{KEY_FILE, given_key},
    name,
    opened::{Demands, OpenedVhd},
};
use crate::progress::{Measure, Progress};

/// Blocks that are made durable together: 32 MiB.
const BATCH: usize = 16;

pub(super) const SYNTAX: Syntax = Syntax {
    name: "fill",
    about: "Give every block of an image its room",
    text: "\
Gives blocks of a disk their room in the image, so that writing to them needs no more: all blocks, with the data of the \
parents in them, or some of them. What a guest sees does not change. Nobody else may be writing to the image. \
If the command is stopped, what was filled stays filled.",
    flags: &[
        IMAGE.explained("The image. One that is fixed has all its room."),
        Flag::letter(b'b', "room only").explained(
            "Only room is made where the disk reads as zeroes, without writing data; room that is not known to be empty is \
             emptied.",
        ),
        Flag::letter(b'f', "first sector")
            .with(Value::text("sector"))
            .explained("With `-b`: from the block of this sector on; 0 if not given."),
        Flag::letter(b't', "last sector")
            .with(Value::text("sector"))
            .explained("With `-b`: up to the block of this sector; the last of the disk if not given."),
        Flag::letter(b'B', "of any size").explained(
            "Accepted for the sake of storage managers: a block that the table could not name is refused with status 28 all \
             the same.",
        ),
        KEY_FILE.explained("The disk is encrypted with the key in this file; see `key`. Then data is written with `-b`, too."),
    ],
    operands: &[],
};

pub(super) fn run(session: &Session, options: &Options) -> std::result::Result<(), Failure> {
    let name = name(options, b'n')?;
    let opened = session.executor.block_on(OpenedVhd::open_alone(session, name, Demands::default()));
    let vhd = opened.inspect_err(|error| session.say_unopened(name.as_os_str(), error))?;
    if vhd.footer.disk_type() == DiskType::Fixed || vhd.footer.disk_bytes() == 0 {
        return Ok(());
    }
    let room_only = options.has(b'b');
    let sectors = if room_only {
        asked_sectors(options, vhd.footer.disk_bytes() / SECTOR)?
    } else {
        0..vhd.footer.disk_bytes() / SECTOR
    };
    let key = given_key(options)?;
    Ok(session.executor.block_on(fill(session, &vhd, sectors, room_only, key)).context(name.display())?)
}

fn asked_sectors(options: &Options, end: u64) -> Result<Range<u64>> {
    let asked = |letter: u8| options.wide_number(letter).map(|number| u64::try_from(number).unwrap_or(u64::MAX));
    let (first, last) = (asked(b'f').unwrap_or(0), asked(b't').unwrap_or(end - 1));
    if let Some(behind) = [first, last].into_iter().find(|sector| *sector >= end) {
        return Err(Error::from_os(format!("sector {behind} past end of file"), Errno::RANGE.into()));
    }
    if first > last {
        return Err(Error::new(ErrorKind::Invalid, "the first sector lies behind the last"));
    }
    Ok(first..last + 1)
}

async fn fill(
    session: &Session,
    vhd: &OpenedVhd,
    sectors: Range<u64>,
    room_only: bool,
    key: Option<Arc<DiskKey>>,
) -> Result<()> {
    let executor = &session.executor;
    let path = session.files.canonical(executor, &vhd.path).await?;
    let home = open_chain(session, &path, key.clone()).await?;
    let image = VhdImage::open_with_key(executor, vhd.storage.clone(), &path, Access::Write, key.clone()).await?;
    image.begin_writing(executor).await?;
    let chain = home.attach().start(executor);
    // Other readers decrypt what is there: room that is only zero would be noise to them.
    let room_only = room_only && key.is_none();
    let filling = Filling { session, image: &image, chain, room_only, key };
    let filled = filling.fill(sectors).await;
    // Whatever it was that failed, the image is left as its next reader expects it.
    let closed = image.close(executor).await;
    drop(filling);
    filled.and(closed).and(home.close().await)
}

/// The disk as it is: what is filled was read before.
async fn open_chain(session: &Session, path: &Path, key: Option<Arc<DiskKey>>) -> Result<Home> {
    let spec = ChainSpec { key, ..ChainSpec::new(ImageName::new(ImageKind::Vhd, path), Access::Read) };
    Home::open(&session.executor, session.files.clone(), &spec).await
}

struct Filling<'a> {
    session: &'a Session,
    image: &'a VhdImage,
    chain: Queue,
    room_only: bool,
    /// What the image is encrypted with.
    key: Option<Arc<DiskKey>>,
}

/// What has to be done for a block.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    Nothing,
    /// It has no room, and nothing to hold.
    Room,
    /// What it holds has to be read.
    Data,
}

impl Filling<'_> {
    async fn fill(&self, sectors: Range<u64>) -> Result<()> {
        let granule = self.image.granule();
        let disk = GuestRange::new(GuestOffset::new(0), self.image.size());
        let asked = GuestRange::new(GuestOffset::new(sectors.start * SECTOR), (sectors.end - sectors.start) * SECTOR);
        let asked = asked.align_out(granule).intersection(disk).expect("sectors of the disk were asked for");
        let progress = Progress::begin("fill", Measure::Bytes, asked.length());
        let mut batch = Vec::new();
        for block in asked.granules(granule) {
            match self.need(block).await? {
                Need::Nothing => {}
                need => batch.push((block, need)),
            }
            if batch.len() == BATCH {
                self.fill_batch(&batch).await?;
                batch.clear();
            }
            progress.advance(block.length());
        }
        self.fill_batch(&batch).await
    }

    async fn need(&self, block: GuestRange) -> Result<Need> {
        let mut rest = block;
        let (mut is_there, mut is_zero) = (true, true);
        while !rest.is_empty() {
            match self.image.map(rest) {
                Lookup::Miss(miss) => self.image.load(&self.session.executor, miss).await?,
                Lookup::Found(extent) => {
                    is_there &= matches!(extent.mapping, Mapping::Data { .. });
                    is_zero &= extent.mapping == Mapping::Zero;
                    rest = rest.split_at(extent.range.length()).1;
                }
            }
        }
        Ok(match (is_there, is_zero && self.room_only) {
            (true, _) => Need::Nothing,
            (false, true) => Need::Room,
            (false, false) => Need::Data,
        })
    }

    /// Data first, durably; then all that makes it visible. Room that gets no data is empty: planning a write to sectors that
    /// are not there empties them.
    async fn fill_batch(&self, blocks: &[(GuestRange, Need)]) -> Result<()> {
        let executor = &self.session.executor;
        let mut plans: Vec<WritePlan> = Vec::with_capacity(blocks.len());
        let mut has_data = false;
        for (block, need) in blocks {
            let data = if *need == Need::Data { Some(self.read(*block).await?) } else { None };
            let data = data.filter(|data| !self.room_only || !is_zero(data));
            let plan = self.image.plan_write(executor, *block).await?;
            if let Some(data) = data {
                let data = self.sealed(*block, data);
                self.image.storage().write(executor, plan.offset, data).await.1?;
                has_data = true;
            }
            plans.push(plan);
        }
        if has_data {
            self.image.storage().sync(executor).await?;
        }
        let commits = plans.into_iter().map(|plan| self.image.commit(executor, plan));
        join_all(commits).await.into_iter().collect()
    }

    async fn read(&self, block: GuestRange) -> Result<Buffer> {
        let buffer = Buffer::zeroed(usize::try_from(block.length()).expect("a block has 2 MiB"));
        let (buffer, read) = self.chain.read(block, buffer).await;
        read.map(|()| buffer)
    }

    /// The data of a block as the image has it.
    fn sealed(&self, block: GuestRange, data: Buffer) -> Buffer {
        let Some(key) = &self.key else { return data };
        let mut bytes = data.to_vec();
        key.encrypt(block.start().get() / SECTOR, &mut bytes);
        Buffer::from_bytes(&bytes)
    }
}

fn is_zero(buffer: &Buffer) -> bool {
    buffer.to_vec().iter().all(|byte| *byte == 0)
}
