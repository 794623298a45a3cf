//! `revert`: an image as it was before a resize that was not done, by the resize's journal.

use std::path::Path;

use block_core::{Error, ErrorKind, Result, ResultExt};
use command_line::{Flag, Options, Syntax, Value};
use control_api::errno;
use image_format::vhd::{FoundJournal, revert};
use storage_io::StorageKind;

use super::{
    Failure, IMAGE, Session, name,
    opened::{Demands, OpenedVhd},
    resize::{open_image, read_journal, remove_journal},
};

pub(super) const SYNTAX: Syntax = Syntax {
    name: "revert",
    about: "Undo a resize that was not done",
    text: "\
Undoes a resize that was not done, and removes its journal. If the resize was done, or had not begun, only the journal is \
removed. It can be stopped and begun again. A journal that is damaged, or another image's, is refused with status 22 and \
changes nothing.",
    flags: &[
        IMAGE.explained("The image."),
        Flag::letter(b'j', "journal")
            .with(Value::file("journal"))
            .required()
            .explained("The journal that `resize` was told."),
    ],
    operands: &[],
};

pub(super) fn run(session: &Session, options: &Options) -> std::result::Result<(), Failure> {
    let name = name(options, b'n')?;
    let journal = options.value(b'j').map(Path::new).ok_or(Failure::Usage)?;
    Ok(session.executor.block_on(undo(session, name, journal))?)
}

async fn undo(session: &Session, name: &Path, path: &Path) -> Result<()> {
    let executor = &session.executor;
    let image = open_image(session, name).await?;
    let say = |error: &Error| session.say(format!("opening journal failed: -{}", errno(error)));
    let (storage, found) = read_journal(executor, session, path).await.inspect_err(say)?;
    let is_device = storage.limits().kind == StorageKind::BlockDevice;
    let journal = match found {
        FoundJournal::Whole(journal) => journal,
        FoundJournal::Empty => {
            // Whoever was to write it was stopped before it touched the image.
            OpenedVhd::read(executor, image, name, Demands::default())
                .await
                .context(name.display())
                .inspect_err(say)?;
            return if is_device { Ok(()) } else { remove_journal(path) };
        }
    };
    let undone = revert(executor, &image, &journal).await.context(name.display());
    undone.inspect_err(|error| match error.kind() {
        ErrorKind::Mismatch | ErrorKind::Corrupt => say(error),
        _ => session.say(format!("revert failed: -{}", errno(error))),
    })?;
    journal.clear(executor, &storage).await?;
    if is_device { Ok(()) } else { remove_journal(path) }
}
