//! `create`: a new image without a parent.

use std::{
    io::{self, Write},
    path::Path,
};

use block_core::{Error, ErrorKind, Result};
use command_line::{Flag, Options, Syntax, Value};
use control_api::errno;
use image_format::vhd::CreateOptions;

use super::{
    Failure, IMAGE, Session, TABLES,
    creating::{Target, check_disk_bytes, new_image},
    mebibytes, name,
};

pub(super) const SYNTAX: Syntax = Syntax {
    name: "create",
    about: "Make an image without a parent",
    text: "\
Makes an image without a parent. \
An existing file is replaced; on a block device the image is written in place. \
The image is durable when the command ends with status 0. A failure removes the file only if this command has made it.",
    flags: &[
        IMAGE.explained("Where to make it."),
        Flag::letter(b's', "size in MiB")
            .with(Value::text("MiB"))
            .required()
            .explained("The size of the disk, rounded up to 2 MiB, and at most 2097152. May be left out if `-S` is given; then it is 0."),
        Flag::letter(b'r', "fixed: all room at once").explained("A fixed image: all its room is set aside at once."),
        TABLES,
    ],
    operands: &[],
};

pub(super) fn run(session: &Session, options: &Options) -> std::result::Result<(), Failure> {
    let name = name(options, b'n')?;
    if !options.has(b's') && !options.has(b'S') {
        return Err(Failure::Usage);
    }
    let disk_bytes = mebibytes(options, b's')?.unwrap_or(0);
    let reserved_bytes = mebibytes(options, b'S')?.unwrap_or(0);
    if (1..disk_bytes).contains(&reserved_bytes) {
        let words = "Error: <-S size> must be greater than <-s size>";
        session.say(words);
        return Err(Error::new(ErrorKind::Invalid, "-S is less than -s").into());
    }
    let limited = check_disk_bytes(disk_bytes).and_then(|()| check_disk_bytes(reserved_bytes));
    limited.inspect_err(|error| say_failed(name, error))?;
    let image = CreateOptions { disk_bytes, reserved_bytes, fixed: options.has(b'r'), ..new_image()? };
    let created = session.executor.block_on(create(session, name, &image));
    Ok(created.inspect_err(|error| say_failed(name, error))?)
}

fn say_failed(name: &Path, error: &Error) {
    let _ = writeln!(io::stderr(), "{}: failed to create: -{}", name.display(), errno(error));
}

/// Makes the image.
pub(super) async fn create(session: &Session, name: &Path, image: &CreateOptions) -> Result<()> {
    Target::open(session, name).await?.write(session, image, None).await
}
