//! `read`: what an image holds, from its headers down to the bytes of the disk.
//!
//! Text goes to stdout a line at a time, tables and data as the bytes that they are.

mod values;

use std::{
    io::{self, Write},
    path::Path,
    sync::Arc,
};

use block_core::{Error, ErrorKind, FileOffset, FileRange, GuestOffset, GuestRange, Result, ResultExt, SECTOR};
use command_line::{Flag, Options, Syntax, Value};
use control_api::errno;
use image_chain::{ChainSpec, DiskKey, Home, ImageKind, ImageName};
use image_format::{
    Bitmap,
    vhd::{BatmapHeader, Metadata, UNUSED_ENTRY},
};
use rustix::io::Errno;
use storage_io::{Access, Buffer, CreateMode, LockPolicy, OpenOptions};

use super::{
    Failure, IMAGE, Session,
    headers::{Headers, number},
    json::{self, JSON},
    key::{KEY_FILE, given_key},
    name,
    opened::{Demands, OpenedVhd},
};

/// Bytes of the disk that are read at once.
const PART_BYTES: u64 = 4 << 20;

pub(super) const SYNTAX: Syntax = Syntax {
    name: "read",
    about: "Print what an image holds",
    text: "\
Prints what a dynamic or differencing image holds. \
Lines of text, but for `-B`, `-m`, `-a`, `-d`, `-r` and `-R`, which write bytes. Except for the last two no parent is opened. \
An image that an unfinished resize has disabled can be read; of what is no image whatever looks like headers is printed. \
What lies behind the end of the disk ends the command with status 34.",
    flags: &[
        IMAGE.explained("The image to read."),
        Flag::letter(b'p', "headers")
            .explained("Footer, header, parent locators and the header of the batmap. Moments are in UTC."),
        Flag::letter(b't', "sector: where it is")
            .with(Value::text("sector"))
            .explained("Where in the file a sector of the disk is."),
        Flag::letter(b'b', "block: where it is")
            .with(Value::text("block"))
            .explained("Where in the file a block begins."),
        Flag::letter(b'B', "which blocks there are").explained(
            "A bit for each block of the disk, the first in the highest bit of the first byte: whether it is there.",
        ),
        Flag::letter(b'm', "block: its bitmap").with(Value::text("block")).explained("The bitmap of a block."),
        Flag::letter(b'i', "sector: is it there")
            .with(Value::text("sector"))
            .explained("Whether the image has a sector, or its parent does."),
        Flag::letter(b'e', "sector: runs that are there")
            .with(Value::text("sector"))
            .explained("The runs of sectors that the image has, one line each: the first, and how many."),
        Flag::letter(b'a', "batmap").explained("The batmap."),
        Flag::letter(b'j', "block: is it in the batmap")
            .with(Value::text("block"))
            .explained("Whether the batmap says that a block is whole; on standard error."),
        Flag::letter(b'd', "block: its data")
            .with(Value::text("block"))
            .explained("The data of a block as the image has it."),
        Flag::letter(b'r', "sector: data of the disk")
            .with(Value::text("sector"))
            .explained("Sectors of the disk, read through the parents."),
        Flag::letter(b'R', "byte: data of the disk")
            .with(Value::text("byte"))
            .explained("Bytes of the disk, read through the parents; a multiple of 512, as is their count."),
        Flag::letter(b'c', "how many")
            .with(Value::text("count"))
            .explained("How many sectors, blocks or bytes; 1 if not given."),
        KEY_FILE.explained("With `-r` and `-R`: the disk is encrypted with the key in this file; see `key`."),
        Flag::letter(b'x', "hexadecimal").explained("Numbers in hexadecimal."),
        Flag::letter(b'C', "by the footer at the start")
            .explained("Go by the copy of the footer at the start of the image alone."),
        JSON.explained(
            "One JSON object with `image`, and with what the letters ask for: `headers` (-p), `sectors` (-t), `blocks` (-b), \
             `allocated` (-B), `bitmaps` (-m), `present` (-i), `extents` (-e), `batmap` (-a) and `in_batmap` (-j), where bits are \
             told as the runs that are set; and `error` if something failed. Not with `-d`, `-r` and `-R`, which write bytes.",
        ),
    ],
    operands: &[],
};

pub(super) fn run(session: &Session, options: &Options) -> std::result::Result<(), Failure> {
    let name = name(options, b'n')?;
    let is_json = options.has("json");
    if is_json && values::is_bytes(options) {
        return Err(Failure::Usage);
    }
    let demands = Demands { disabled: true, copy_only: options.has(b'C'), ..Demands::default() };
    let opened = session.executor.block_on(OpenedVhd::open(session, name, Access::Read, demands));
    let vhd = match opened {
        Ok(vhd) => vhd,
        Err(error) => {
            session.executor.block_on(dump_broken(session, name, &error, options));
            return Err(error.into());
        }
    };
    let key = given_key(options)?;
    Ok(session.executor.block_on(async {
        let table = vhd.table(&session.executor).await;
        let table = table.inspect_err(|error| {
            session.say(format!("Failed to get bat for {}: -{}", name.display(), errno(error)));
            if is_json {
                session.say_json(&json::unopened(name.as_os_str(), error));
            }
        })?;
        let metadata = vhd.metadata()?;
        let reading = Reading::new(session, &vhd, (&metadata, &table), key, options);
        let read = if is_json { values::answer(&reading, options).await } else { reading.answer(options).await };
        read.context(name.display())
    })?)
}

/// What there is to see in what is no VHD, or no longer one.
async fn dump_broken(session: &Session, name: &Path, error: &Error, options: &Options) {
    session.say(format!("Failed to open {}: -{}\n", name.display(), errno(error)));
    session.say(format!("{} appears invalid; dumping headers\n", name.display()));
    let open = OpenOptions { access: Access::Read, direct: true, lock: LockPolicy::None, create: CreateMode::No };
    let headers = match session.files.open(&session.executor, name, open).await {
        Ok(storage) => Some(Headers::of_broken(&session.executor, &storage).await),
        Err(_) => None,
    };
    if options.has("json") {
        session.say_json(&values::broken(name, error, headers.as_ref()));
    } else if let Some(headers) = headers {
        session.say(headers.render(options.has(b'x')).trim_end_matches('\n'));
    }
}

struct Reading<'a> {
    session: &'a Session,
    vhd: &'a OpenedVhd,
    metadata: &'a Metadata,
    table: &'a [u32],
    key: Option<Arc<DiskKey>>,
    count: u64,
    hex: bool,
}

/// Where the complaint about a range behind the end goes; stderr always has a line about it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Complaint {
    Stdout,
    Nowhere,
}

impl<'a> Reading<'a> {
    fn new(
        session: &'a Session,
        vhd: &'a OpenedVhd,
        (metadata, table): (&'a Metadata, &'a [u32]),
        key: Option<Arc<DiskKey>>,
        options: &Options,
    ) -> Reading<'a> {
        let count = options.wide_number(b'c').map_or(1, as_unsigned);
        Reading { session, vhd, metadata, table, key, count, hex: options.has(b'x') }
    }

    /// Everything that was asked, in an order of its own, up to the first failure.
    async fn answer(&self, options: &Options) -> Result<()> {
        let asked = |letter| options.wide_number(letter).map(as_unsigned);
        if options.has(b'p') {
            let headers = Headers::of(&self.session.executor, self.vhd).await?;
            self.session.put(headers.render(self.hex).as_bytes())?;
        }
        if let Some(sector) = asked(b't') {
            self.places_of_sectors(sector)?;
        }
        if let Some(block) = asked(b'b') {
            self.places_of_blocks(block)?;
        }
        if options.has(b'B') {
            self.session.put(&self.blocks_as_bits())?;
        }
        if let Some(block) = asked(b'm') {
            self.bitmaps(block).await?;
        }
        if let Some(sector) = asked(b'i') {
            self.sectors_there(sector).await?;
        }
        if let Some(sector) = asked(b'e') {
            self.extents(sector).await?;
        }
        if options.has(b'a') {
            self.session.put(&self.batmap().await?.1)?;
        }
        if let Some(block) = asked(b'j') {
            self.blocks_in_batmap(block).await?;
        }
        if let Some(block) = asked(b'd') {
            self.block_data(block).await?;
        }
        if let Some(sector) = asked(b'r') {
            self.check(sector, self.sectors(), "sector", Complaint::Nowhere)?;
            self.disk_data(sector * SECTOR, self.count * SECTOR).await?;
        }
        if let Some(byte) = asked(b'R') {
            self.disk_bytes(byte).await?;
        }
        Ok(())
    }

    fn sectors(&self) -> u64 {
        self.vhd.footer.disk_bytes() / SECTOR
    }

    fn number(&self, value: u64) -> String {
        number(value, self.hex)
    }

    /// Whether all that is asked for, from `start` on, lies on the disk.
    fn check(&self, start: u64, end: u64, what: &str, complaint: Complaint) -> Result<()> {
        let behind = start.saturating_add(self.count);
        if behind <= end {
            return Ok(());
        }
        let told = if complaint == Complaint::Stdout { start } else { behind };
        let words = format!("{what} {told} past end of file");
        if complaint == Complaint::Stdout {
            self.session.say(&words);
        }
        Err(Error::from_os(words, Errno::RANGE.into()))
    }

    fn asked_blocks(&self, block: u64) -> Result<std::ops::Range<usize>> {
        self.check(block, self.table.len() as u64, "block", Complaint::Nowhere)?;
        let index = |block: u64| usize::try_from(block).expect("at most the blocks of the table");
        Ok(index(block)..index(block + self.count))
    }

    /// A sector of the disk as the block that it lies in, and the sector of that block.
    fn place_in_block(&self, sector: u64) -> (usize, usize) {
        let sectors = self.metadata.shape().sectors() as u64;
        let index = |value: u64| usize::try_from(value).expect("it lies on the disk");
        (index(sector / sectors), index(sector % sectors))
    }

    /// Where a block begins in the file.
    fn start_of(&self, block: usize) -> Option<FileOffset> {
        let entry = self.table[block];
        (entry != UNUSED_ENTRY).then(|| FileOffset::new(u64::from(entry) * SECTOR))
    }

    /// Where a sector of a block that begins at `start` is in the file.
    fn data_at(&self, start: FileOffset, within: usize) -> FileOffset {
        start + self.metadata.shape().bitmap_bytes() + within as u64 * SECTOR
    }

    fn places_of_sectors(&self, sector: u64) -> Result<()> {
        self.check(sector, self.sectors(), "sector", Complaint::Nowhere)?;
        for sector in sector..sector + self.count {
            let (block, within) = self.place_in_block(sector);
            let data = |start| self.data_at(start, within);
            self.session.say(format!(
                "logical sector {}: block number: {}, sector offset: {}, file offset: {}",
                self.number(sector),
                self.number(block as u64),
                self.number(within as u64),
                self.place(self.start_of(block).map(data))
            ));
        }
        Ok(())
    }

    fn places_of_blocks(&self, block: u64) -> Result<()> {
        for block in self.asked_blocks(block)? {
            let place = self.place(self.start_of(block));
            self.session.say(format!("block: {}: offset: {place}", self.number(block as u64)));
        }
        Ok(())
    }

    fn place(&self, offset: Option<FileOffset>) -> String {
        offset.map_or_else(|| "not allocated".to_owned(), |offset| self.number(offset.get()))
    }

    fn blocks_as_bits(&self) -> Vec<u8> {
        let mut bits = Bitmap::new(self.table.len());
        let used = self.table.iter().enumerate().filter(|(_, entry)| **entry != UNUSED_ENTRY);
        used.for_each(|(block, _)| bits.set(block));
        bits.to_bytes(self.table.len().div_ceil(8))
    }

    async fn bitmaps(&self, block: u64) -> Result<()> {
        for block in self.asked_blocks(block)? {
            match self.bitmap_bytes(block).await? {
                Some(bytes) => self.session.put(&bytes)?,
                None => self.say_unallocated(block),
            }
        }
        Ok(())
    }

    fn say_unallocated(&self, block: usize) {
        self.session.say(format!("block {} not allocated", self.number(block as u64)));
    }

    async fn bitmap_bytes(&self, block: usize) -> Result<Option<Vec<u8>>> {
        let Some(start) = self.start_of(block) else { return Ok(None) };
        let range = FileRange::new(start, self.metadata.shape().bitmap_bytes());
        let bytes = self.vhd.bytes(&self.session.executor, range).await;
        bytes.map(Some).context(format_args!("the bitmap of block {block}"))
    }

    /// The bitmap of a block; one that is not there has no sectors.
    async fn bitmap(&self, block: usize) -> Result<Bitmap> {
        let sectors = self.metadata.shape().sectors();
        let bytes = self.bitmap_bytes(block).await?;
        Ok(bytes.map_or_else(|| Bitmap::new(sectors), |bytes| Bitmap::from_bytes(&bytes, sectors)))
    }

    async fn sectors_there(&self, sector: u64) -> Result<()> {
        self.check(sector, self.sectors(), "sector", Complaint::Stdout)?;
        let mut known: Option<(usize, Bitmap)> = None;
        for sector in sector..sector + self.count {
            let (block, within) = self.place_in_block(sector);
            let bitmap = match known.take() {
                Some((known, bitmap)) if known == block => bitmap,
                _ => self.bitmap(block).await?,
            };
            let (block_text, bit) = (self.number(block as u64), u8::from(bitmap.get(within)));
            self.session.say(format!("block {block_text}: sec: {}: {bit}", self.number(within as u64)));
            known = Some((block, bitmap));
        }
        Ok(())
    }

    async fn extents(&self, sector: u64) -> Result<()> {
        self.check(sector, self.sectors(), "sector", Complaint::Stdout)?;
        let say = |first, count| self.session.say(format!("{} {}", self.number(first), self.number(count)));
        self.each_extent(sector, say).await
    }

    /// The runs of sectors that are there: the first, and how many.
    async fn each_extent(&self, sector: u64, mut found: impl FnMut(u64, u64)) -> Result<()> {
        let end = sector + self.count;
        let (mut at, mut run) = (sector, None);
        while at < end {
            let (block, within) = self.place_in_block(at);
            let base = at - within as u64;
            let until = end.min(base + self.metadata.shape().sectors() as u64);
            let bitmap = self.bitmap(block).await?;
            let stop = usize::try_from(until - base).expect("within a block");
            for (is_there, part) in bitmap.runs(within..stop) {
                match (is_there, run) {
                    (true, None) => run = Some(base + part.start as u64),
                    (false, Some(first)) => {
                        found(first, base + part.start as u64 - first);
                        run = None;
                    }
                    _ => {}
                }
            }
            at = until;
        }
        if let Some(first) = run {
            found(first, end - first);
        }
        Ok(())
    }

    /// The batmap's header and map.
    async fn batmap(&self) -> Result<(BatmapHeader, Vec<u8>)> {
        let batmap = self.vhd.batmap_header(&self.session.executor).await?;
        let batmap = batmap.ok_or_else(|| Error::new(ErrorKind::Invalid, "the image has no batmap"))?;
        let map = self.vhd.bytes(&self.session.executor, batmap.map_range()).await.context("batmap")?;
        Ok((batmap, map))
    }

    async fn blocks_in_batmap(&self, block: u64) -> Result<()> {
        let blocks = self.asked_blocks(block)?;
        let map = Bitmap::from_bytes(&self.batmap().await?.1, self.table.len());
        for block in blocks {
            let (text, bit) = (self.number(block as u64), u8::from(map.get(block)));
            let _ = writeln!(io::stderr(), "batmap for block {text}: {bit}");
        }
        Ok(())
    }

    async fn block_data(&self, block: u64) -> Result<()> {
        let shape = self.metadata.shape();
        for block in self.asked_blocks(block)? {
            let Some(start) = self.start_of(block) else {
                self.say_unallocated(block);
                continue;
            };
            let range = FileRange::new(start + shape.bitmap_bytes(), shape.data_bytes());
            let bytes = self.vhd.bytes(&self.session.executor, range).await;
            self.session.put(&bytes.context(format_args!("the data of block {block}"))?)?;
        }
        Ok(())
    }

    /// Bytes through the chain, in whole sectors.
    async fn disk_bytes(&self, start: u64) -> Result<()> {
        if !start.is_multiple_of(SECTOR) || !self.count.is_multiple_of(SECTOR) {
            return Err(Error::new(ErrorKind::Invalid, "only whole sectors of 512 bytes can be read"));
        }
        self.check(start, self.vhd.footer.disk_bytes(), "byte", Complaint::Nowhere)?;
        self.disk_data(start, self.count).await
    }

    /// Bytes through the chain; each of its images is opened once.
    async fn disk_data(&self, start: u64, length: u64) -> Result<()> {
        let executor = &self.session.executor;
        let leaf = ImageName::new(ImageKind::Vhd, &self.vhd.path);
        let spec = ChainSpec { key: self.key.clone(), ..ChainSpec::new(leaf, Access::Read) };
        let home = Home::open(executor, self.session.files.clone(), &spec).await?;
        let queue = home.attach().start(executor);
        let mut rest = GuestRange::new(GuestOffset::new(start), length);
        while !rest.is_empty() {
            let (part, behind) = rest.split_at(PART_BYTES.min(rest.length()));
            let buffer = Buffer::zeroed(usize::try_from(part.length()).expect("a part is small"));
            let (buffer, read) = queue.read(part, buffer).await;
            read?;
            self.session.put(&buffer.to_vec())?;
            rest = behind;
        }
        drop(queue);
        home.close().await
    }
}

/// Numbers below zero are what C makes of them: behind every end.
fn as_unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}
