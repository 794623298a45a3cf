//! Tapdisks that are started: `spawn` and `create`.

use std::{
    io::{self, IsTerminal},
    os::unix::ffi::OsStrExt,
};

use block_core::Result;
use control_api::{Minor, OpenRequest};

use super::{Failure, Options, Session, disk::open_request, minor::allocate_owned, write};

pub(super) fn spawn(session: &Session, _options: &Options) -> std::result::Result<(), Failure> {
    let pid = control_api::spawn(&session.run)?.pid;
    let words = if io::stdout().is_terminal() { "tapdisk spawned with pid " } else { "" };
    Ok(write(format!("{words}{pid}\n"))?)
}

pub(super) fn create(session: &Session, options: &Options) -> std::result::Result<(), Failure> {
    let request = open_request(options)?;
    let minor = allocate_owned(&session.run)?;
    if let Err(error) = start(session, minor, &request) {
        // What was started has been ended; the first error is the one that matters.
        let _ = session.run.free_minor(minor);
        return Err(error.into());
    }
    Ok(write([session.run.marker(minor).as_os_str().as_bytes(), b"\n"].concat())?)
}

/// A tapdisk of its own for a minor, with the images open; on failure it ends again.
fn start(session: &Session, minor: Minor, request: &OpenRequest) -> Result<()> {
    let spawned = control_api::spawn(&session.run)?;
    let client = session.client(spawned.pid, None);
    if let Err(error) = client.attach(minor) {
        spawned.terminate();
        return Err(error);
    }
    client.open(minor, request).inspect_err(|_| {
        // With its only slot the process goes.
        if client.detach(minor).is_err() {
            spawned.terminate();
        }
    })?;
    Ok(())
}
