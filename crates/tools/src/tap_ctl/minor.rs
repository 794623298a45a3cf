//! `allocate` and `free`: minors without a tapdisk.

use std::os::unix::ffi::OsStrExt;

use block_core::Result;
use control_api::{Minor, Owner, RunDir};

use super::{Failure, Options, Session, minor, write};

pub(super) fn allocate(session: &Session, _options: &Options) -> std::result::Result<(), Failure> {
    let minor = allocate_owned(&session.run)?;
    Ok(write([session.run.marker(minor).as_os_str().as_bytes(), b"\n"].concat())?)
}

pub(super) fn free(session: &Session, options: &Options) -> std::result::Result<(), Failure> {
    Ok(session.run.free_minor(minor(options)?)?)
}

/// Allocates a minor that belongs to the device whose script this runs in, if it is one.
pub(super) fn allocate_owned(run: &RunDir) -> Result<Minor> {
    run.allocate_minor_for(&Owner::from_environment().to_string())
}
