//! Commands about one slot of one tapdisk.

use std::{io, time::Duration};

use block_core::{Error, ErrorKind, ResultExt};
use control_api::{
    OpenRequest,
    protocol::{Body, EncryptionKey, Message, OpenFlags, Request, Text},
};

use super::{Failure, Options, Session, minor, patience::Patience, pid, timeout, write};

/// What is answered from memory is answered soon, or not at all.
pub(super) const ANSWER_MAX: Duration = Duration::from_secs(10);

/// A key is read with one call for this many bytes, and must then have one of two lengths.
const KEY_READ_BYTES: usize = 1024;

pub(super) fn attach(session: &Session, options: &Options) -> Result<(), Failure> {
    let (pid, minor) = (pid(options)?, minor(options)?);
    let answer = session.client(pid, None).exchange(&plain(minor.number(), Body::Attach))?;
    match answer.body {
        Body::AttachResponse(_) => Ok(()),
        body => Err(refused(body)),
    }
}

pub(super) fn detach(session: &Session, options: &Options) -> Result<(), Failure> {
    let (pid, minor) = (pid(options)?, minor(options)?);
    let answer = session.client(pid, None).exchange(&plain(minor.number(), Body::Detach))?;
    match answer.body {
        Body::DetachResponse(_) => Ok(()),
        body => {
            write(format!("got unexpected result '{}' from {pid}\n", body.kind().name()))?;
            Err(refused(body))
        }
    }
}

fn plain(cookie: u16, body: Body) -> Request {
    Request::new(Message::new(cookie, body))
}

/// Storage managers know every refusal of these two as EINVAL; the words say what it really was.
fn refused(body: Body) -> Failure {
    let words = match body {
        Body::Error(_, words) => words.to_string(),
        body => format!("unexpected answer '{}'", body.kind().name()),
    };
    Error::new(ErrorKind::Invalid, words).into()
}

pub(super) fn open(session: &Session, options: &Options) -> Result<(), Failure> {
    let (pid, minor) = (pid(options)?, minor(options)?);
    let mut request = open_request(options)?;
    if options.count(b'E') > 1 {
        return Err(Failure::Status(1, "-E may be given only once"));
    }
    if options.has(b'E') {
        request.key = Some(read_key()?);
    }
    session.client(pid, None).open(minor, &request)?;
    Ok(())
}

/// What `open` and `create` are told about images.
pub(super) fn open_request(options: &Options) -> Result<OpenRequest, Failure> {
    let mut request = OpenRequest::new(options.bytes(b'a').ok_or(Failure::Usage)?)?;
    let parent = options.number(b'e').and_then(|minor| u32::try_from(minor).ok());
    request.log_path = text(options, b'C')?;
    let parameters = &mut request.parameters;
    parameters.parent = parent;
    parameters.secondary = text(options, b'2')?.unwrap_or_default();
    // Sixteen bits of seconds, and more than the field holds is as long as it can say.
    let seconds = options.number(b't').unwrap_or(0).clamp(0, u16::MAX.into());
    parameters.request_timeout = u16::try_from(seconds).expect("clamped to sixteen bits");
    parameters.flags = OpenFlags::EMPTY
        .with_if(OpenFlags::READ_ONLY, options.has(b'R'))
        .with_if(OpenFlags::NO_O_DIRECT, options.has(b'D'))
        .with_if(OpenFlags::ADD_LOCAL_CACHE, options.has(b'r'))
        .with_if(OpenFlags::REUSE_PARENT, parent.is_some())
        .with_if(OpenFlags::SECONDARY, options.has(b'2'))
        .with_if(OpenFlags::STANDBY, options.has(b's'));
    Ok(request)
}

fn text(options: &Options, letter: u8) -> Result<Option<Text>, Failure> {
    Ok(options.bytes(letter).map(Text::new).transpose()?)
}

fn read_key() -> Result<EncryptionKey, Failure> {
    let mut bytes = vec![0; KEY_READ_BYTES];
    let length = io::Read::read(&mut io::stdin(), &mut bytes).context("stdin").map_err(Failure::from)?;
    bytes.truncate(length);
    let key = matches!(length, 32 | 64).then(|| EncryptionKey::new(bytes)).flatten();
    key.ok_or(Failure::Status(1, "a key has 32 or 64 bytes"))
}

pub(super) fn close(session: &Session, options: &Options) -> Result<(), Failure> {
    let (pid, minor) = (pid(options)?, minor(options)?);
    let client = session.client(pid, timeout(options));
    let closed = if options.has(b'f') { client.force_close(minor) } else { client.close(minor) };
    Ok(Patience { session, pid, minor, timeout: timeout(options) }.explain("close", closed)?)
}

pub(super) fn pause(session: &Session, options: &Options) -> Result<(), Failure> {
    let (pid, minor) = (pid(options)?, minor(options)?);
    let paused = session.client(pid, timeout(options)).pause(minor);
    Ok(Patience { session, pid, minor, timeout: timeout(options) }.explain("pause", paused)?)
}

pub(super) fn unpause(session: &Session, options: &Options) -> Result<(), Failure> {
    let (pid, minor) = (pid(options)?, minor(options)?);
    let mut request = OpenRequest::new(options.bytes(b'a').unwrap_or_default())?;
    request.log_path = text(options, b'c')?;
    request.parameters.secondary = text(options, b'2')?.unwrap_or_default();
    request.parameters.flags = OpenFlags::EMPTY.with_if(OpenFlags::SECONDARY, options.has(b'2'));
    Ok(session.client(pid, None).resume(minor, &request)?)
}

pub(super) fn stats(session: &Session, options: &Options) -> Result<(), Failure> {
    let (pid, minor) = (pid(options)?, minor(options)?);
    let mut text = session.client(pid, Some(ANSWER_MAX)).stats(Some(minor))?;
    text.extend_from_slice(b"\n\n");
    Ok(write(text)?)
}
