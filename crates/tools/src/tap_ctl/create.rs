//! Commands of several steps: `spawn`, `create` and `destroy`.

use std::{
    io::{self, IsTerminal},
    os::unix::ffi::OsStrExt,
    time::Duration,
};

use block_core::{Error, ErrorKind, Result, ResultExt};
use control_api::{Client, Minor, OpenRequest, errno, protocol::ListEntry};

use super::{
    Failure, Options, Session,
    disk::{ANSWER_MAX, open_request},
    minor, pid, timeout, write,
};

const ETIMEDOUT: i32 = 110;

pub(super) fn spawn(session: &Session, _options: &Options) -> std::result::Result<(), Failure> {
    let pid = control_api::spawn(&session.run)?.pid;
    let words = if io::stdout().is_terminal() { "tapdisk spawned with pid " } else { "" };
    Ok(write(format!("{words}{pid}\n"))?)
}

pub(super) fn create(session: &Session, options: &Options) -> std::result::Result<(), Failure> {
    let request = open_request(options)?;
    let minor = session.run.allocate_minor()?;
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

pub(super) fn destroy(session: &Session, options: &Options) -> std::result::Result<(), Failure> {
    let (pid, minor, timeout) = (pid(options)?, minor(options)?, timeout(options));
    let client = session.client(pid, timeout);
    let closed = if options.has(b'f') { client.force_close(minor) } else { client.close(minor) };
    step("close", closed, session, pid, minor, timeout)?;
    step("detach", client.detach(minor), session, pid, minor, timeout)?;
    Ok(session.run.free_minor(minor).context("free")?)
}

/// Names the step that failed; of one that hangs, also what the disk is doing.
fn step(
    name: &'static str,
    result: Result<()>,
    session: &Session,
    pid: u32,
    minor: Minor,
    timeout: Option<Duration>,
) -> Result<()> {
    let Err(error) = result else { return Ok(()) };
    if errno(&error) != ETIMEDOUT {
        return Err(error.context(name));
    }
    let limit = timeout.unwrap_or_default().as_secs();
    let doing = doing(&session.client(pid, Some(ANSWER_MAX)), minor).unwrap_or_else(|| "it does not answer".into());
    Err(Error::new(ErrorKind::TimedOut, format!("{name} has not ended after {limit} s, {doing}")))
}

/// What a disk is doing, as far as its tapdisk tells.
fn doing(client: &Client, minor: Minor) -> Option<String> {
    let is_ours = |entry: &ListEntry| entry.minor == i32::from(minor.number());
    let state = client.list().ok()?.into_iter().find(is_ours)?.state;
    Some(format!("its state is {state}"))
}
