//! `create`: a new image without a parent.

use std::{
    io::{self, Write},
    path::Path,
};

use block_core::{Error, ErrorKind, Result};
use control_api::errno;
use image_format::vhd::CreateOptions;

use super::{
    Failure, Session,
    creating::{Target, new_image},
    mebibytes, name,
};
use crate::getopt::Options;

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
    let image = CreateOptions { disk_bytes, reserved_bytes, fixed: options.has(b'r'), ..new_image()? };
    let created = session.executor.block_on(create(session, name, &image));
    Ok(created.inspect_err(|error| {
        let _ = writeln!(io::stderr(), "{}: failed to create: -{}", name.display(), errno(error));
    })?)
}

/// Makes the image.
pub(super) async fn create(session: &Session, name: &Path, image: &CreateOptions) -> Result<()> {
    Target::open(session, name).await?.write(session, image, None).await
}
