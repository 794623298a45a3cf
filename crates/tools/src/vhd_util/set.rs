//! `set`: the two marks that storage managers leave on an image, changed in place.
//!
//! `hidden` is a byte of both footers. `marker` is a byte of the batmap's header, or an extended attribute of a file that
//! has no batmap; the map itself is never touched.

use block_core::{Error, ErrorKind, FileOffset, Result, ResultExt, SECTOR};
use command_line::{Flag, Options, Syntax, Value};
use image_format::vhd::{DiskType, FOOTER_BYTES, Footer};
use rustix::{
    fs::{XattrFlags, getxattr, setxattr},
    io::Errno,
};
use storage_io::{Access, StorageExt, StorageKind};

use super::{
    Failure, IMAGE, Session, name,
    opened::{Demands, OpenedVhd},
};

const MARKER_ATTRIBUTE: &str = "user.com.citrix.xenclient.backend.marker";

pub(super) const SYNTAX: Syntax = Syntax {
    name: "set",
    about: "Change a mark of an image in place",
    text: "Changes one byte of an image in place. It takes no lock, so that a tapdisk may have the image open.",
    flags: &[
        IMAGE.explained("The image to mark."),
        Flag::letter(b'f', "hidden | marker").with(Value::one_of("field", &["hidden", "marker"])).required().explained(
            "`hidden` marks an image that users should not see, in both of its footers.\n\n\
                 `marker` is a number for the storage manager, kept in the header of the batmap; for a file without a \
                 batmap in the extended attribute `user.com.citrix.xenclient.backend.marker`.",
        ),
        Flag::letter(b'v', "0..255").with(Value::text("number")).required().explained("The mark, from 0 to 255."),
    ],
    operands: &[],
};

pub(super) fn run(session: &Session, options: &Options) -> std::result::Result<(), Failure> {
    let name = name(options, b'n')?;
    let field = options.value(b'f').ok_or(Failure::Usage)?;
    let number = options.wide_number(b'v').ok_or(Failure::Usage)?;
    if field != "hidden" && field != "marker" {
        session.say([b"invalid field ", field.as_encoded_bytes()].concat());
        return Err(Failure::Usage);
    }
    let Ok(value) = u8::try_from(number) else {
        session.say(format!("invalid value {number}"));
        return Err(Failure::Usage);
    };
    let opened = session.executor.block_on(OpenedVhd::open(session, name, Access::Write, Demands::default()));
    let vhd = opened.inspect_err(|error| session.say_unopened(name.as_os_str(), error))?;
    Ok(session.executor.block_on(async {
        if field == "hidden" { set_hidden(session, &vhd, value).await } else { set_marker(session, &vhd, value).await }
    })?)
}

/// Writes both footers. Where there is no room for the one at the end, the copy at the start is enough to get rid of an
/// image, which is what hiding is for.
async fn set_hidden(session: &Session, vhd: &OpenedVhd, hidden: u8) -> Result<()> {
    let executor = &session.executor;
    let footer = vhd.footer.clone().with_hidden(hidden);
    let has_copy = footer.disk_type() != DiskType::Fixed;
    match write_end_footer(session, vhd, &footer).await {
        Err(error) if error.kind() == ErrorKind::NoSpace && has_copy && hidden != 0 => {}
        result => result?,
    }
    if has_copy {
        vhd.storage.write_bytes(executor, FileOffset::new(0), footer.as_bytes()).await?;
    }
    vhd.storage.sync(executor).await
}

/// Writes the footer where one lies. A file that has lost it gets a new one behind everything: what lies behind the last
/// block that the table knows may be a block that a tapdisk is just writing.
async fn write_end_footer(session: &Session, vhd: &OpenedVhd, footer: &Footer) -> Result<()> {
    let (executor, storage) = (&session.executor, &vhd.storage);
    let place = match vhd.end_footer {
        Some(place) => place,
        None if storage.limits().kind == StorageKind::BlockDevice => {
            let place = storage.length().checked_sub(FOOTER_BYTES as u64);
            place.map(FileOffset::new).ok_or_else(|| Error::new(ErrorKind::NoSpace, "the device is too small"))?
        }
        None => {
            let end = FileOffset::new(storage.length().next_multiple_of(SECTOR));
            vhd.end_of_data(executor).await.map_or(end, |end_of_data| end.max(end_of_data))
        }
    };
    storage.write_bytes(executor, place, footer.as_bytes()).await
}

/// The marker; 0 if none was ever set.
pub(super) async fn marker(session: &Session, vhd: &OpenedVhd) -> Result<u8> {
    if let Some(batmap) = vhd.batmap_header(&session.executor).await? {
        return Ok(batmap.marker());
    }
    let mut value = [0; 1];
    match getxattr(&vhd.path, MARKER_ATTRIBUTE, &mut value) {
        Ok(0) | Err(Errno::NODATA | Errno::NOTSUP) => Ok(0),
        Ok(_) => Ok(value[0]),
        Err(error) => Err(Error::from_os("its extended attribute", error.into()).context(vhd.path.display())),
    }
}

async fn set_marker(session: &Session, vhd: &OpenedVhd, marker: u8) -> Result<()> {
    let executor = &session.executor;
    if let Some(batmap) = vhd.batmap_header(executor).await? {
        let place = batmap.header_range().start();
        vhd.storage.write_bytes(executor, place, batmap.with_marker(marker).as_bytes()).await?;
    } else {
        let set = setxattr(&vhd.path, MARKER_ATTRIBUTE, &[marker], XattrFlags::empty());
        set.map_err(std::io::Error::from).context("its extended attribute").context(vhd.path.display())?;
    }
    vhd.storage.sync(executor).await
}
