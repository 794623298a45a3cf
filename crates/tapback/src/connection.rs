//! A connection to a tapdisk that holds up nobody: one command, its events, its result.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use block_core::{Error, Result};
use control_api::native::{Answer, AnswerBody, Command, Failure, Hello, LineReader, Request, ResultOf, RingEvent};
use rustix::{
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with},
};
use serde::de::DeserializeOwned;
use storage_io::Executor;

/// What is told of rings is short; whoever says more is no tapdisk.
const LINE_BYTES_MAX: usize = 1 << 20;
/// A tapdisk that takes no connection at the moment has many others to take; and so may we have.
const CROWDED_PAUSE: Duration = Duration::from_millis(20);

pub(crate) struct Connection {
    executor: Executor,
    stream: UnixStream,
    path: PathBuf,
    reader: LineReader,
    /// What was read behind the last line.
    unread: Vec<u8>,
    /// Of the protocol, the newest that the tapdisk speaks.
    version: u32,
}

impl Connection {
    /// Connects; none if nobody listens there, as when the process has gone.
    pub(crate) async fn open(executor: &Executor, path: PathBuf) -> Result<Option<Connection>> {
        let stream = loop {
            match open(&path) {
                Ok(stream) => break stream,
                Err(Errno::AGAIN | Errno::MFILE) => executor.sleep(CROWDED_PAUSE).await,
                Err(Errno::NOENT | Errno::CONNREFUSED) => return Ok(None),
                Err(error) => return Err(failed(&path, error.into())),
            }
        };
        let reader = LineReader::new(LINE_BYTES_MAX);
        let mut connection =
            Connection { executor: executor.clone(), stream, path, reader, unread: Vec::new(), version: 0 };
        let Hello { oxtap } = connection.line().await?;
        connection.version = oxtap.version;
        Ok(Some(connection))
    }

    /// Has a command carried out, and tells of events meanwhile.
    pub(crate) async fn ask(&mut self, command: Command, event: impl FnMut(RingEvent)) -> Result<ResultOf> {
        self.ask_job(command, |_| {}, event).await
    }

    /// As [`ask`](Self::ask), and tells the number of the job as soon as it has one.
    pub(crate) async fn ask_job(
        &mut self,
        command: Command,
        mut job: impl FnMut(u64),
        mut event: impl FnMut(RingEvent),
    ) -> Result<ResultOf> {
        // It may have been started long before us.
        let command = command.for_version(self.version);
        self.send(&Request { id: 1, command }).await?;
        loop {
            let Answer { body, .. } = self.line().await?;
            match body {
                AnswerBody::Progress(progress) => job(progress.job),
                AnswerBody::Event(happened) => event(happened),
                AnswerBody::Result(result) => return Ok(*result),
                AnswerBody::Error(Failure { errno, reason }) => {
                    return Err(Error::from_os(reason, io::Error::from_raw_os_error(errno)));
                }
            }
        }
    }

    async fn send(&mut self, request: &Request) -> Result<()> {
        let mut line = serde_json::to_vec(request).expect("commands have text for keys and nothing that may fail");
        line.push(b'\n');
        let mut rest = line.as_slice();
        while !rest.is_empty() {
            match self.stream.write(rest) {
                Ok(count) => rest = &rest[count..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.executor.writable(&self.stream).await?,
                Err(error) => return Err(failed(&self.path, error)),
            }
        }
        Ok(())
    }

    async fn line<T: DeserializeOwned>(&mut self) -> Result<T> {
        loop {
            let fed = self.reader.feed(&self.unread);
            let (taken, line) = fed.map_err(|error| self.not_understood(error))?;
            self.unread.drain(..taken);
            if let Some(line) = line {
                return serde_json::from_slice(&line).map_err(|error| self.not_understood(error));
            }
            self.fill().await?;
        }
    }

    async fn fill(&mut self) -> Result<()> {
        let mut bytes = [0; 4096];
        loop {
            match self.stream.read(&mut bytes) {
                Ok(0) => return Err(failed(&self.path, Errno::CONNRESET.into())),
                Ok(length) => {
                    self.unread.extend_from_slice(&bytes[..length]);
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.executor.readable(&self.stream).await?,
                Err(error) => return Err(failed(&self.path, error)),
            }
        }
    }

    pub(crate) fn not_understood(&self, words: impl std::fmt::Display) -> Error {
        Error::from_os(format!("{}: {words}", self.path.display()), Errno::PROTO.into())
    }
}

fn open(path: &Path) -> rustix::io::Result<UnixStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket.into())
}

fn failed(path: &Path, error: io::Error) -> Error {
    Error::from_os(path.display().to_string(), error)
}
