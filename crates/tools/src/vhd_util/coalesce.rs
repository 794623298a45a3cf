//! `coalesce`: what an image holds goes into its parent.
//!
//! ```text
//!   child   read, and nobody else may write it meanwhile     parent   written; whoever has it open may go on reading
//! ```
//!
//! Killed at any moment, it leaves two valid images that read as before, and can be run again.

use std::{
    cell::Cell,
    path::{Path, PathBuf},
    sync::Arc,
};

use block_core::{Error, ErrorKind, Result, ResultExt, SECTOR};
use command_line::{Flag, Options, Syntax};
use control_api::errno;
use image_chain::{Coalesce, ImageKind};
use image_format::{
    Format, Image, RawImage,
    vhd::{DiskType, KeyHash, VhdImage},
};
use rustix::io::Errno;
use storage_io::{Access, CreateMode, EngineChoice, Executor, LockPolicy, OpenOptions, Shortcut, Storage, StorageKind};

use super::{
    Failure, IMAGE, Session,
    creating::BUSY_MAX,
    name,
    opened::{Demands, OpenedVhd},
    parents::parent_of,
};
use crate::progress::{Measure, Progress};

pub(super) const SYNTAX: Syntax = Syntax {
    name: "coalesce",
    about: "Move what an image holds into its parent",
    text: "\
Writes what a differencing image holds to its parent, a VHD or a raw image, which then reads like both; at the end \
\"Coalesced *number* sectors\", without an end of the line. \
Nobody else may write to either meanwhile; whoever reads through the child may go on. \
Killed at any instant, or out of space, it leaves two images that read as before, and can be run again. \
Blocks are shared between files where the file system can do that. What the image has no room for, because it is zero, \
gets none in the parent.",
    flags: &[
        IMAGE.explained("The child. It stays as it is."),
        Flag::letter(b's', "new blocks of the parent are not zeroed").explained(
            "Says \"opening for sparse writes\"; new blocks of the parent are never written as zeroes, with and without it.",
        ),
        Flag::letter(b'p', "how far it is").explained("Tells how far it is, in percent."),
    ],
    operands: &[],
};

pub(super) fn run(session: &Session, options: &Options) -> std::result::Result<(), Failure> {
    let name = name(options, b'n')?;
    let opened = session.executor.block_on(open_child(session, name));
    let child = opened.inspect_err(|error| session.say_unopened(name.as_os_str(), error))?;
    if options.has(b's') {
        session.put(b"opening for sparse writes\n")?;
    }
    let coalesced = coalesce(session, &child, options.has(b'p'));
    let bytes = coalesced.inspect_err(|error| session.say(format!("error coalescing: -{}", errno(error))))?;
    session.say_unended(&format!("Coalesced {} sectors", bytes / SECTOR));
    Ok(())
}

/// Opens the child so that nobody begins to write to it. Where there is no such lock for who only reads, there is none.
async fn open_child(session: &Session, name: &Path) -> Result<OpenedVhd> {
    let lock = LockPolicy::Exclusive { deadline: BUSY_MAX };
    let options = OpenOptions { access: Access::Read, direct: true, lock, create: CreateMode::No };
    let storage = match session.files.open(&session.executor, name, options).await {
        Err(error) if [Errno::BADF, Errno::NOLCK, Errno::NOTSUP].iter().any(|no| is(&error, *no)) => {
            session.files.open(&session.executor, name, OpenOptions { lock: LockPolicy::None, ..options }).await?
        }
        opened => opened?,
    };
    OpenedVhd::read(&session.executor, storage, name, Demands::default()).await.context(name.display())
}

fn is(error: &Error, number: Errno) -> bool {
    error.os_error() == Some(number.raw_os_error())
}

fn coalesce(session: &Session, child: &OpenedVhd, tells_percent: bool) -> Result<u64> {
    if child.footer.disk_type() != DiskType::Differencing {
        session.say("coalescing of non-differencing disks is not supported");
        let words = format!("{}: it has no parent", child.path.display());
        return Err(Error::new(ErrorKind::Invalid, words));
    }
    let (path, target) = session.executor.block_on(find(session, child))?;
    // Unlike the other commands, this one moves much, and many parts of it at a time.
    let executor = Executor::new(EngineChoice::Probe)?;
    executor.block_on(async {
        let image = VhdImage::open_as_stored(&executor, child.storage.clone(), &path, Access::Read).await;
        let image = image.context(child.path.display())?;
        let parent = target.open(&executor, &image, child).await.context(target.path.display())?;
        let shortcut = shortcut(&image, &parent, &path, &target.path);
        let work = Coalesce { child: &Image::Vhd(image), parent: &parent, shortcut: shortcut.as_ref(), key: None };
        let watch = Watch::new(session, tells_percent);
        let bytes = work.run(&executor, &|done, total| watch.advance(done, total)).await?;
        watch.end();
        Ok(bytes)
    })
}

/// The canonical name of the child, and its parent, opened to be written by nobody else.
async fn find(session: &Session, child: &OpenedVhd) -> Result<(PathBuf, Target)> {
    let parent = parent_of(session, child).await?.expect("a differencing image has a parent, or there is an error");
    let path = session.files.canonical(&session.executor, &child.path).await?;
    let lock = LockPolicy::Exclusive { deadline: BUSY_MAX };
    let options = OpenOptions { lock, ..OpenOptions::write() };
    if session.files.canonical(&session.executor, &parent.path).await? == path {
        return Err(Error::from_os(format!("{}: is its own parent", path.display()), Errno::LOOP.into()));
    }
    let storage = session.files.open(&session.executor, &parent.path, options).await?;
    let canonical = session.files.canonical(&session.executor, &parent.path).await?;
    Ok((path, Target { storage, path: canonical, is_raw: parent.is_raw }))
}

/// The parent, before it is known what it says of itself.
struct Target {
    storage: Arc<dyn Storage>,
    path: PathBuf,
    is_raw: bool,
}

impl Target {
    async fn open(&self, executor: &Executor, child: &VhdImage, opened: &OpenedVhd) -> Result<Image> {
        let storage = self.storage.clone();
        if self.is_raw {
            check_key(child.key_hash(), None)?;
            // A raw file ends where its last guest's disk ended; a device is as long as it is.
            if storage.length() < child.size() && storage.limits().kind != StorageKind::BlockDevice {
                Image::grow(executor, &storage, ImageKind::Raw, child.size()).await?;
            }
            return Ok(Image::Raw(RawImage::new(storage)));
        }
        let image = VhdImage::open_as_stored(executor, storage, &self.path, Access::Write).await?;
        let expected = opened.header.as_ref().and_then(|header| header.parent_uuid());
        if image.identity() != expected {
            return Err(Error::new(ErrorKind::Mismatch, "is not the image that the child was made from"));
        }
        check_key(child.key_hash(), image.key_hash())?;
        Ok(Image::Vhd(image))
    }
}

/// A way around reading, between files of one file system.
pub(super) fn shortcut(child: &VhdImage, parent: &Image, from: &Path, to: &Path) -> Option<Shortcut> {
    let is_device = |storage: &Arc<dyn Storage>| storage.limits().kind == StorageKind::BlockDevice;
    if is_device(child.storage()) || is_device(parent.storage()) {
        return None;
    }
    // Whatever hinders it, there is always the long way.
    Shortcut::between(from, to).ok().flatten()
}

/// Bytes that are moved as they are stored must mean the same in both images.
fn check_key(child: Option<KeyHash>, parent: Option<KeyHash>) -> Result<()> {
    if child == parent {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Mismatch, "is not encrypted with the key of the child"))
}

/// Tells how far it is: a storage manager in percent, people by a line of their own.
struct Watch<'a> {
    session: &'a Session,
    percent: Option<Cell<u64>>,
    progress: Option<Progress>,
    granules: Cell<u64>,
}

/// What a granule counts for in the line for people.
const GRANULE: u64 = 2 << 20;

impl Watch<'_> {
    fn new(session: &Session, tells_percent: bool) -> Watch<'_> {
        let progress = (!tells_percent).then(|| Progress::begin("coalesce", Measure::Bytes, 0));
        Watch { session, percent: tells_percent.then(Cell::default), progress, granules: Cell::new(0) }
    }

    fn advance(&self, granules: u64, total: u64) {
        self.granules.set(self.granules.get() + granules);
        if let Some(progress) = &self.progress {
            progress.set_total(total * GRANULE);
            progress.advance(granules * GRANULE);
        }
        let Some(percent) = &self.percent else { return };
        // In hundredths; the last of them is told when all is durable.
        let now = self.granules.get() * 10_000 / total.max(1);
        if now > percent.replace(now) && now < 10_000 {
            tell(self.session, &format!("\r{:>6}%", format!("{}.{:02}", now / 100, now % 100)));
        }
    }

    fn end(&self) {
        if self.percent.is_some() {
            tell(self.session, "\r100.00%\n");
        }
    }
}

/// Whoever does not listen any more loses nothing but the line.
fn tell(session: &Session, words: &str) {
    let _ = session.put(words.as_bytes());
}
