//! `modify`: another parent, another place for the footer at the end, or an image without its data.

use std::path::Path;

use block_core::{Error, ErrorKind, FileOffset, Result, ResultExt, SECTOR};
use command_line::{Flag, Options, Syntax, Value};
use control_api::errno;
use image_format::vhd::{FOOTER_BYTES, Relink, clear_data};
use rustix::io::Errno;
use storage_io::{Access, StorageExt, StorageKind};

use super::{
    Failure, IMAGE, Session, name,
    opened::{Demands, OpenedVhd},
    parents::{Parent, chain_of},
    snapshot::Backing,
    test_failures::{Place, TestFailures},
};

pub(super) const SYNTAX: Syntax = Syntax {
    name: "modify",
    about: "Give an image another parent or another end, or take its data away",
    text: "\
Changes an image in place. Without `-p`, `-s` and `-z` it does nothing.

With one of these variables in the environment, `-p` fails as `resize` does: `VHD_UTIL_TEST_FAIL_REPARENT_BEGIN`, \
`VHD_UTIL_TEST_FAIL_REPARENT_LOCATOR`, `VHD_UTIL_TEST_FAIL_REPARENT_END`.",
    flags: &[
        IMAGE.explained("The image to change."),
        Flag::letter(b'p', "another parent").with(Value::file("parent")).explained(
            "A differencing image gets another parent, one that makes the same disk of it; that is not checked. A tapdisk \
             may have the image open. Only the places of the old paths are used: a path that is too long for them is refused \
             with status 36. A parent that is read through *image* is refused with status 40. If the command is stopped \
             half-way, or the power fails, the image still has one parent, the old or the new.",
        ),
        Flag::letter(b'm', "that parent is raw").explained("That parent is raw."),
        Flag::letter(b's', "physical size in bytes").with(Value::text("bytes")).explained(
            "Puts the footer at the end so that the image ends after this many bytes: not fewer than `query -s` tells, nor \
             more than a device has. A file ends there, too.",
        ),
        Flag::letter(b'z', "without its data")
            .explained("Takes all data out of the image: what is left is an empty disk, or the parent's."),
    ],
    operands: &[],
};

pub(super) fn run(session: &Session, options: &Options) -> std::result::Result<(), Failure> {
    let name = name(options, b'n')?;
    let parent = options.value(b'p').map(Path::new);
    let size = options.wide_number(b's');
    if parent.is_none() && size.is_none() && !options.has(b'z') {
        return Ok(());
    }
    Ok(session.executor.block_on(async {
        if let Some(parent) = parent {
            set_parent(session, name, parent, options.has(b'm')).await?;
        }
        if let Some(size) = size {
            set_physical_size(session, name, size).await?;
        }
        if options.has(b'z') {
            clear(session, name).await?;
        }
        Ok::<(), Error>(())
    })?)
}

fn unopened<'a>(session: &'a Session, name: &'a Path) -> impl FnOnce(&Error) + 'a {
    move |error| session.say_unopened(name.as_os_str(), error)
}

/// Only what names the parent is written, so a tapdisk may have the image open.
async fn set_parent(session: &Session, name: &Path, parent: &Path, is_raw: bool) -> Result<()> {
    let vhd = OpenedVhd::open(session, name, Access::Write, Demands::default()).await;
    let vhd = vhd.inspect_err(unopened(session, name))?;
    let failures = TestFailures::new(session);
    failures.at(Place::ReparentBegin)?;
    let set = write_parent(session, &vhd, parent, is_raw, &failures).await;
    set.inspect_err(|error| {
        if !failures.has_failed() {
            session.say(format!("failed to set parent to '{}': -{}", parent.display(), errno(error)));
        }
    })?;
    failures.at(Place::ReparentEnd)
}

async fn write_parent(
    session: &Session,
    vhd: &OpenedVhd,
    parent: &Path,
    is_raw: bool,
    failures: &TestFailures<'_>,
) -> Result<()> {
    let executor = &session.executor;
    let child = session.files.canonical(executor, &vhd.path).await?;
    let parent = Parent { path: session.files.canonical(executor, parent).await?, is_raw };
    let backing = Backing::open(session, parent, &child).await?;
    let own = vhd.storage.limits().identity;
    let below = match &backing.vhd {
        // Further down, what cannot be opened is not this image.
        Some(vhd) => chain_of(session, vhd).await.unwrap_or_default(),
        None => Vec::new(),
    };
    if backing.identity == own || below.contains(&own) {
        let words = format!("{}: is read through it", backing.parent.path.display());
        return Err(Error::from_os(words, Errno::LOOP.into()));
    }
    let no_parent = || Error::new(ErrorKind::Invalid, "a fixed image has no parent");
    let header = vhd.header.as_ref().ok_or_else(no_parent).context(vhd.path.display())?;
    let relink = Relink::plan(&vhd.storage, &vhd.footer, header, &backing.link).map_err(|error| match error.kind() {
        ErrorKind::LimitReached => Error::from_os(error.to_string(), Errno::NAMETOOLONG.into()),
        _ => error,
    });
    let relink = relink.context(vhd.path.display())?;
    relink.carry_out(executor, &mut || failures.at(Place::ReparentLocator)).await.context(vhd.path.display())
}

/// The footer at the end is put so that the image ends after this many bytes. Storage managers make a volume smaller, or
/// larger, around an image by it.
async fn set_physical_size(session: &Session, name: &Path, size: i64) -> Result<()> {
    let vhd = OpenedVhd::open_alone(session, name, Demands::default()).await.inspect_err(unopened(session, name))?;
    let set = move_end_footer(session, &vhd, size).await.context(name.display());
    set.inspect_err(|error| session.say(format!("failed to set physical size to {size}: -{}", errno(error))))
}

async fn move_end_footer(session: &Session, vhd: &OpenedVhd, size: i64) -> Result<()> {
    let (executor, storage) = (&session.executor, &vhd.storage);
    let invalid = |words: String| Err(Error::new(ErrorKind::Invalid, words));
    let footer_bytes = FOOTER_BYTES as u64;
    let least = vhd.end_of_data(executor).await?.get() + footer_bytes;
    let size = u64::try_from(size).unwrap_or(0);
    if size < least || !size.is_multiple_of(SECTOR) {
        return invalid(format!("{size} bytes: the image needs {least}, in whole sectors"));
    }
    let is_device = storage.limits().kind == StorageKind::BlockDevice;
    if is_device && size > storage.length() {
        return invalid(format!("{size} bytes: the device has {}", storage.length()));
    }
    let place = FileOffset::new(size - footer_bytes);
    storage.write_bytes(executor, place, vhd.footer.as_bytes()).await?;
    storage.sync(executor).await?;
    if !is_device && storage.length() > size {
        storage.set_length(executor, size).await?;
        storage.sync(executor).await?;
    }
    Ok(())
}

/// Nothing is left but tables without a block.
async fn clear(session: &Session, name: &Path) -> Result<()> {
    let vhd = OpenedVhd::open_alone(session, name, Demands::default()).await.inspect_err(unopened(session, name))?;
    let cleared = clear_data(&session.executor, &vhd.storage).await.context(name.display());
    cleared.inspect_err(|error| session.say(format!("failed to clear the data: -{}", errno(error))))
}
