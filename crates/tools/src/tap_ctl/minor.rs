//! `allocate` and `free`: minors without a tapdisk.

use std::os::unix::ffi::OsStrExt;

use super::{Failure, Options, Session, minor, write};

pub(super) fn allocate(session: &Session, _options: &Options) -> Result<(), Failure> {
    let minor = session.run.allocate_minor()?;
    Ok(write([session.run.marker(minor).as_os_str().as_bytes(), b"\n"].concat())?)
}

pub(super) fn free(session: &Session, options: &Options) -> Result<(), Failure> {
    Ok(session.run.free_minor(minor(options)?)?)
}
