//! `resize`: a larger disk. Fast, where the tables have room for it; else what is in their way is moved, under a journal.

use std::{fs, path::Path, sync::Arc};

use block_core::{Error, ErrorKind, Result, ResultExt, SECTOR};
use command_line::{Flag, Options, Syntax, Value};
use control_api::errno;
use image_format::vhd::{DiskType, FoundJournal, Journal, Resize, ResizeStep, VhdImage, disk_bytes_rounded, revert};
use rustix::io::Errno;
use storage_io::{Access, CreateMode, Executor, LockPolicy, OpenOptions, Storage, StorageKind};

use super::{
    Failure, IMAGE, Session,
    creating::{BUSY_MAX, check_disk_bytes},
    mebibytes, name,
    opened::{Demands, OpenedVhd},
    test_failures::{Place, TestFailures},
};
use crate::{
    new_file::sync_directory_of,
    progress::{Measure, Progress},
};

pub(super) const SYNTAX: Syntax = Syntax {
    name: "resize",
    about: "Make the disk of an image larger",
    text: "\
Makes the disk of an image larger. Nobody else may be writing to the image. A disk of more than 2097152 MiB is refused with \
status 27.

For tests of storage managers a resize fails, with status 22 and \"Failing at *variable*\" on standard output, where one of \
these variables is set in the environment: `VHD_UTIL_TEST_FAIL_RESIZE_BEGIN`, `VHD_UTIL_TEST_FAIL_RESIZE_DATA_MOVED`, \
`VHD_UTIL_TEST_FAIL_RESIZE_METADATA_MOVED`, `VHD_UTIL_TEST_FAIL_RESIZE_END`.",
    flags: &[
        IMAGE.explained("The image: dynamic or differencing, made by Xen's tools."),
        Flag::letter(b's', "size in MiB").with(Value::text("MiB")).required().explained(
            "The new size, rounded up to 2 MiB. The size that the disk has already is no failure; a smaller one is status \
             38 with `-j` and 22 with `-f`.",
        ),
        Flag::letter(b'j', "journal").with(Value::file("journal")).required().explained(
            "Where the tables have no room, what lies behind them is moved to the end of the image. All that is written \
             over is kept in *journal* first: a file that must not exist yet, or a block device. While the resize is under \
             way the image cannot be used; if it is stopped at any point, `revert` brings back what was there before, and \
             so does the same `resize` before it begins anew. The file is gone after success.",
        ),
        Flag::letter(b'f', "fast: within the tables that there are").or_the_last().explained(
            "Fast: within the tables that there are, as `query -S` tells; beyond them the status is 22.",
        ),
    ],
    operands: &[],
};

pub(super) fn run(session: &Session, options: &Options) -> std::result::Result<(), Failure> {
    let name = name(options, b'n')?;
    let journal = options.value(b'j').map(Path::new);
    if !options.has(b's') || (journal.is_none() && !options.has(b'f')) {
        return Err(Failure::Usage);
    }
    let bytes = mebibytes(options, b's')?.unwrap_or(0);
    check_disk_bytes(bytes).context(name.display())?;
    let bytes = disk_bytes_rounded(bytes)?;
    let journal = journal.filter(|_| !options.has(b'f'));
    Ok(session.executor.block_on(async {
        match journal {
            Some(journal) => journalled(session, name, journal, bytes).await,
            None => fast(session, name, bytes).await,
        }
    })?)
}

/// The image in a storage, as its only writer.
pub(super) async fn open_image(session: &Session, name: &Path) -> Result<Arc<dyn Storage>> {
    let lock = LockPolicy::Exclusive { deadline: BUSY_MAX };
    let options = OpenOptions { access: Access::Write, direct: true, lock, create: CreateMode::No };
    let image = session.files.open(&session.executor, name, options).await;
    image.inspect_err(|error| session.say_unopened(name.as_os_str(), error))
}

async fn read_image(session: &Session, name: &Path, image: &Arc<dyn Storage>) -> Result<OpenedVhd> {
    let vhd = OpenedVhd::read(&session.executor, image.clone(), name, Demands::default()).await;
    vhd.context(name.display()).inspect_err(|error| session.say_unopened(name.as_os_str(), error))
}

/// Only the footers change.
async fn fast(session: &Session, name: &Path, bytes: u64) -> Result<()> {
    let image = open_image(session, name).await?;
    let vhd = read_image(session, name, &image).await?;
    let before = vhd.footer.disk_bytes();
    let invalid = |words: String| Err(Error::new(ErrorKind::Invalid, words));
    let grown = if bytes < before {
        session.say(format!("{}: size ({}) < curr size ({})", name.display(), bytes / SECTOR, before / SECTOR));
        invalid(format!("the disk is {} MiB long already", before >> 20))
    } else if vhd.footer.disk_type() == DiskType::Fixed && bytes != before {
        invalid("a fixed image has no tables".to_owned())
    } else {
        match VhdImage::grow(&session.executor, &image, bytes).await {
            Err(error) if error.kind() == ErrorKind::LimitReached => invalid(error.to_string()),
            grown => grown,
        }
    };
    grown.context(name.display()).inspect_err(|error| say_failed(session, error))
}

fn say_failed(session: &Session, error: &Error) {
    session.say(format!("resize failed: -{}", errno(error)));
}

async fn journalled(session: &Session, name: &Path, path: &Path, bytes: u64) -> Result<()> {
    let executor = &session.executor;
    let image = open_image(session, name).await?;
    // What an earlier resize of this image has left is undone first.
    let journal = JournalFile::open(session, path, &image).await;
    let journal = journal.inspect_err(|error| say_no_journal(session, error))?;
    let planned = plan(session, name, &image, bytes).await;
    let resize = match planned {
        Ok(Some(resize)) => resize,
        Ok(None) => return journal.remove(),
        Err(error) => {
            journal.give_up();
            return Err(error);
        }
    };
    if let Err(error) = resize.write_journal(executor, &journal.storage).await {
        journal.give_up();
        say_no_journal(session, &error);
        return Err(error);
    }
    let failures = TestFailures::new(session);
    let mut reached = |step| {
        failures.at(match step {
            ResizeStep::Begun => Place::ResizeBegin,
            ResizeStep::DataMoved => Place::ResizeDataMoved,
            ResizeStep::MetadataMoved => Place::ResizeMetadataMoved,
            ResizeStep::Ended => Place::ResizeEnd,
        })
    };
    let progress = Progress::begin("resize", Measure::Bytes, resize.bytes_to_move());
    let done = resize.carry_out(executor, &journal.storage, &mut reached, &|bytes| progress.advance(bytes)).await;
    drop(progress);
    done.map_err(|error| {
        if !failures.has_failed() {
            say_failed(session, &error);
        }
        error.context(format_args!("{}: `revert -j {}` undoes what was done", name.display(), path.display()))
    })?;
    journal.remove()
}

async fn plan(session: &Session, name: &Path, image: &Arc<dyn Storage>, bytes: u64) -> Result<Option<Resize>> {
    read_image(session, name, image).await?;
    let plan = Resize::plan(&session.executor, image, bytes).await.context(name.display());
    plan.inspect_err(|error| match error.kind() {
        // Without tables there is nothing to journal.
        ErrorKind::Invalid => say_no_journal(session, error),
        ErrorKind::Unsupported => {
            session.say("dynamic shrink not fully implemented");
            say_failed(session, error);
        }
        _ => say_failed(session, error),
    })
}

fn say_no_journal(session: &Session, error: &Error) {
    session.say(format!("creating journal failed: -{}", errno(error)));
}

/// Where the journal goes: a new file, what an earlier resize of the image has left, or a device.
struct JournalFile<'a> {
    storage: Arc<dyn Storage>,
    path: &'a Path,
    is_new: bool,
}

impl<'a> JournalFile<'a> {
    async fn open(session: &Session, path: &'a Path, image: &Arc<dyn Storage>) -> Result<JournalFile<'a>> {
        let executor = &session.executor;
        let options = OpenOptions { lock: LockPolicy::None, ..OpenOptions::write() };
        let new = OpenOptions { create: CreateMode::New, ..options };
        match session.files.open(executor, path, new).await {
            Ok(storage) => {
                sync_directory_of(path)?;
                return Ok(JournalFile { storage, path, is_new: true });
            }
            Err(error) if error.os_error() == Some(Errno::EXIST.raw_os_error()) => {}
            Err(error) => return Err(error),
        }
        let storage = session.files.open(executor, path, options).await?;
        let is_device = storage.limits().kind == StorageKind::BlockDevice;
        match Journal::read(executor, &storage).await {
            Ok(FoundJournal::Empty) => {}
            Ok(FoundJournal::Whole(journal)) => match revert(executor, image, &journal).await {
                Err(error) if is_device && error.kind() == ErrorKind::Mismatch => {}
                undone => undone.context(path.display())?,
            },
            Err(_) if is_device => {}
            Err(_) => return Err(Error::from_os(path.display().to_string(), Errno::EXIST.into())),
        }
        Ok(JournalFile { storage, path, is_new: false })
    }

    /// The resize is done, and there is no journal any more. A device stays, with one that has no entries.
    fn remove(self) -> Result<()> {
        if self.storage.limits().kind == StorageKind::BlockDevice {
            return Ok(());
        }
        remove_journal(self.path)
    }

    /// Removes what was made for a resize that will not be.
    fn give_up(self) {
        if self.is_new {
            // The failure that led here is the one to report.
            let _ = fs::remove_file(self.path);
        }
    }
}

/// Removes the file of a journal that nobody needs any more, durably.
pub(super) fn remove_journal(path: &Path) -> Result<()> {
    fs::remove_file(path).context(path.display())?;
    sync_directory_of(path)
}

/// The journal at a path, which is there; none in a file that nothing was written to.
pub(super) async fn read_journal(
    executor: &Executor,
    session: &Session,
    path: &Path,
) -> Result<(Arc<dyn Storage>, FoundJournal)> {
    let options = OpenOptions { lock: LockPolicy::None, ..OpenOptions::write() };
    let storage = session.files.open(executor, path, options).await?;
    let journal = Journal::read(executor, &storage).await.context(path.display())?;
    Ok((storage, journal))
}
