//! `repair`: an image is left as its next reader expects it, after a writer that could not.
//!
//! ```text
//!   one good footer --> both, and nothing behind the one at the end of a file
//!   paths to several parents --> paths to the one that the header means
//!   a block where the batmap belongs --> the same block behind all others
//!   a batmap that nobody believes --> one that says of each block what its bitmap says
//! ```
//!
//! Nothing is written that is right already: the good footer stays where it is, whenever this is killed.

use block_core::{Error, ErrorKind, FileOffset, GuestOffset, GuestRange, Result, ResultExt};
use command_line::{Flag, Options, Syntax};
use image_format::{
    Format, Lookup,
    vhd::{DiskType, FOOTER_BYTES, Footer, Relink, VhdImage, give_batmap_its_place},
};
use storage_io::{Access, StorageExt, StorageKind};
use uuid::Uuid;

use super::{
    Failure, IMAGE, Session, name,
    opened::{Demands, OpenedVhd},
    parents::{parent_of, paths_agree},
    snapshot::Backing,
};

pub(super) const SYNTAX: Syntax = Syntax {
    name: "repair",
    about: "Leave an image as its next reader expects it",
    text: "\
Leaves an image as its next reader expects it, after a writer that could not: a footer at its end and a copy at its start, \
nothing behind the footer of a file, an identity, and a batmap that readers believe, made from the bitmaps of the blocks. \
After a `modify -p` that was stopped, all paths lead to the parent that counts. \
On a block device the footer is in the last sector, also after the device has grown. \
What is right already is not written. An image that somebody writes is refused.",
    flags: &[
        IMAGE.explained("The image to repair."),
        Flag::letter(b'b', "the footer at the start counts").explained(
            "The copy of the footer at the start counts, whatever the end looks like. Needed where both are valid and \
             contradict each other: a guest can write the last sector of an image that was not closed.",
        ),
    ],
    operands: &[],
};

pub(super) fn run(session: &Session, options: &Options) -> std::result::Result<(), Failure> {
    let name = name(options, b'n')?;
    let demands = Demands { copy_only: options.has(b'b'), ..Demands::default() };
    let opened = session.executor.block_on(OpenedVhd::open_alone(session, name, demands));
    let vhd = opened.inspect_err(|error| session.say_unopened(name.as_os_str(), error))?;
    Ok(session.executor.block_on(repair(session, &vhd))?)
}

/// Repairs an opened image.
pub(super) async fn repair(session: &Session, vhd: &OpenedVhd) -> Result<()> {
    let footer = match vhd.footer.uuid() {
        // Children name their parent by it; one without it would be taken for a raw image.
        uuid if uuid.is_nil() => vhd.footer.clone().with_uuid(Uuid::new_v4()),
        _ => vhd.footer.clone(),
    };
    write_known_footers(session, vhd, &footer).await?;
    write_paths(session, vhd).await?;
    give_batmap_its_place(&session.executor, &vhd.storage).await.context(vhd.path.display())?;
    let is_encrypted = match vhd.batmap_header(&session.executor).await {
        Ok(batmap) => batmap.is_some_and(|batmap| batmap.key_hash().is_some()),
        Err(_) => false,
    };
    if footer.disk_type() == DiskType::Fixed || is_encrypted {
        return Ok(());
    }
    leave_in_order(session, vhd).await
}

/// All paths lead to the parent that the header means, also if somebody was stopped while he gave the image another one.
/// Where that parent is not to be found, nobody knows which path would be right, and they stay.
async fn write_paths(session: &Session, vhd: &OpenedVhd) -> Result<()> {
    let Some(header) = vhd.header.as_ref().filter(|_| vhd.footer.disk_type() == DiskType::Differencing) else {
        return Ok(());
    };
    if paths_agree(session, vhd).await {
        return Ok(());
    }
    let Ok(Some(parent)) = parent_of(session, vhd).await else { return Ok(()) };
    let child = session.files.canonical(&session.executor, &vhd.path).await?;
    let Ok(backing) = Backing::open(session, parent, &child).await else { return Ok(()) };
    if backing.link.uuid != header.parent_uuid() {
        return Ok(());
    }
    let relink = Relink::plan(&vhd.storage, &vhd.footer, header, &backing.link).context(vhd.path.display())?;
    relink.carry_out(&session.executor, &mut || Ok(())).await.context(vhd.path.display())
}

/// Writes the footer to the places that have one; the one at the start first, since that one counts.
async fn write_known_footers(session: &Session, vhd: &OpenedVhd, footer: &Footer) -> Result<()> {
    let (executor, storage) = (&session.executor, &vhd.storage);
    let mut places = Vec::new();
    if footer.disk_type() == DiskType::Fixed {
        places.extend(vhd.end_footer);
    } else {
        places.push(FileOffset::new(0));
        places.extend(end_place(session, vhd).await?);
    }
    for place in places {
        let there = storage.read_bytes(executor, place, FOOTER_BYTES).await;
        if there.is_ok_and(|there| there == footer.as_bytes()) {
            continue;
        }
        storage.write_bytes(executor, place, footer.as_bytes()).await?;
        storage.sync(executor).await?;
    }
    Ok(())
}

/// Where the footer at the end goes: the last sector of a device, and in a file where one is. What looks like one within a
/// block is a guest's: it stays, and the footer goes behind the block. A file without any gets its own on closing.
async fn end_place(session: &Session, vhd: &OpenedVhd) -> Result<Option<FileOffset>> {
    let end_of_data = vhd.end_of_data(&session.executor).await?;
    if vhd.storage.limits().kind == StorageKind::BlockDevice {
        let place = vhd.storage.length().checked_sub(FOOTER_BYTES as u64).map(FileOffset::new);
        let place = place.filter(|place| *place >= end_of_data);
        let words = || format!("{}: the device has no room for a footer behind the last block", vhd.path.display());
        return place.map(Some).ok_or_else(|| Error::new(ErrorKind::NoSpace, words()));
    }
    Ok(vhd.end_footer.map(|place| place.max(end_of_data)))
}

/// Opens and closes it as a tapdisk would. What it cannot know without looking, it is told: which blocks are whole.
async fn leave_in_order(session: &Session, vhd: &OpenedVhd) -> Result<()> {
    let executor = &session.executor;
    let path = session.files.canonical(executor, &vhd.path).await?;
    let image = VhdImage::open(executor, vhd.storage.clone(), &path, Access::Write).await.context(path.display())?;
    image.begin_writing(executor).await?;
    if image.has_lost_batmap() {
        load_all(session, &image).await.context(path.display())?;
    }
    image.close(executor).await.context(path.display())
}

/// Has the image look at every bitmap.
async fn load_all(session: &Session, image: &VhdImage) -> Result<()> {
    let mut rest = GuestRange::new(GuestOffset::new(0), image.size());
    while !rest.is_empty() {
        match image.map(rest) {
            Lookup::Miss(miss) => image.load(&session.executor, miss).await?,
            Lookup::Found(extent) => rest = rest.split_at(extent.range.length()).1,
        }
    }
    Ok(())
}
