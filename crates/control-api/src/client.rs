//! Asking a tapdisk: one connection, one request, its answer. Blocking, for programs that have nothing else to do.

use std::{borrow::Cow, io, path::PathBuf, time::Duration};

use block_core::{Error, Result};
use rustix::io::Errno;
use wire::control::{
    ALL_MINORS, Body, EncryptionKey, ImageInformation, Kind, ListEntry, Message, MessageReader, OpenParameters,
    Request, Text,
};

use crate::{Minor, RunDir, connection::Connection};

/// Statistics are a few hundred bytes for each image; this is for a stranger that says otherwise.
const STATS_BYTES_MAX: u64 = 64 << 20;

/// Everything that OPEN or RESUME can be told.
#[derive(Clone, Debug, Default)]
pub struct OpenRequest {
    /// What the message says.
    pub parameters: OpenParameters,
    /// Where changed blocks are recorded.
    pub log_path: Option<Text>,
    /// What the images are encrypted with; OPEN only.
    pub key: Option<EncryptionKey>,
}

impl OpenRequest {
    /// Opens the images behind `type:path`.
    ///
    /// # Errors
    /// The name does not fit a message.
    pub fn new(image: impl Into<Vec<u8>>) -> Result<OpenRequest> {
        let parameters = OpenParameters { path: Text::new(image)?, ..OpenParameters::default() };
        Ok(OpenRequest { parameters, ..OpenRequest::default() })
    }
}

/// A way to one tapdisk. Every question takes a connection of its own.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    timeout: Option<Duration>,
    trace: Option<fn(&str)>,
}

impl Client {
    /// A way to the tapdisk with this process id. Whether there is one shows at the first question.
    pub fn new(run: &RunDir, pid: u32) -> Client {
        Client { socket: run.control_socket(pid), timeout: None, trace: None }
    }

    /// Gives up when nothing has moved on the connection for so long; the tapdisk goes on with what it was told.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Client {
        Client { timeout: Some(timeout), ..self }
    }

    /// Tells `trace` of every message that is sent and received.
    #[must_use]
    pub fn traced(self, trace: fn(&str)) -> Client {
        Client { trace: Some(trace), ..self }
    }

    /// Its process id, from itself.
    pub fn pid(&self) -> Result<u32> {
        match self.ask(0, Body::Pid)? {
            Body::PidResponse(pid) => u32::try_from(pid).map_err(|_| unexpected(Kind::PidResponse)),
            other => Err(unexpected(other.kind())),
        }
    }

    /// Makes a slot for a minor.
    pub fn attach(&self, minor: Minor) -> Result<()> {
        self.command(minor, Body::Attach, Kind::AttachResponse)
    }

    /// Removes a slot. With the last one the process ends.
    pub fn detach(&self, minor: Minor) -> Result<()> {
        self.command(minor, Body::Detach, Kind::DetachResponse)
    }

    /// Opens an image chain in a slot.
    pub fn open(&self, minor: Minor, open: &OpenRequest) -> Result<ImageInformation> {
        let message = Message::new(minor.number(), Body::Open(open.parameters.clone()));
        let request = Request { message, log_path: open.log_path.clone(), key: open.key.clone() };
        match refused(self.exchange(&request)?)? {
            Body::OpenResponse(image) => Ok(image),
            other => Err(unexpected(other.kind())),
        }
    }

    /// Flushes and closes the images of a slot.
    pub fn close(&self, minor: Minor) -> Result<()> {
        self.command(minor, Body::Close, Kind::CloseResponse)
    }

    /// Closes without waiting for what cannot end.
    pub fn force_close(&self, minor: Minor) -> Result<()> {
        self.command(minor, Body::ForceShutdown, Kind::CloseResponse)
    }

    /// Drains, flushes and closes the images; requests are held until they are opened again.
    pub fn pause(&self, minor: Minor) -> Result<()> {
        self.command(minor, Body::Pause, Kind::PauseResponse)
    }

    /// Opens the images of a paused slot again: the same for an empty name.
    pub fn resume(&self, minor: Minor, open: &OpenRequest) -> Result<()> {
        let message = Message::new(minor.number(), Body::Resume(open.parameters.clone()));
        let request = Request { message, log_path: open.log_path.clone(), key: None };
        done(refused(self.exchange(&request)?)?, Kind::ResumeResponse)
    }

    /// How large the disk is, or was when it was open.
    pub fn disk_info(&self, minor: Minor) -> Result<ImageInformation> {
        match self.ask(minor.number(), Body::DiskInfo)? {
            Body::DiskInfoResponse(image) => Ok(image),
            other => Err(unexpected(other.kind())),
        }
    }

    /// All slots, in the order of the answer.
    pub fn list(&self) -> Result<Vec<ListEntry>> {
        let mut answers = self.send(&Request::new(Message::new(ALL_MINORS, Body::List)))?;
        let mut entries = Vec::new();
        loop {
            match refused(answers.receive()?)? {
                Body::ListResponse(entry) if entry.is_end() => return Ok(entries),
                Body::ListResponse(entry) => entries.push(entry),
                other => return Err(unexpected(other.kind())),
            }
        }
    }

    /// The statistics of one slot, or of all, as JSON.
    pub fn stats(&self, minor: Option<Minor>) -> Result<Vec<u8>> {
        let cookie = minor.map_or(ALL_MINORS, Minor::number);
        let mut answer = self.send(&Request::new(Message::new(cookie, Body::Stats)))?;
        match refused(answer.receive()?)? {
            Body::StatsResponse { length } if length <= STATS_BYTES_MAX => answer.receive_bytes(length),
            other => Err(unexpected(other.kind())),
        }
    }

    /// Sends a request and gives the answer, whatever it is: also a refusal.
    pub fn exchange(&self, request: &Request) -> Result<Message> {
        self.send(request)?.receive()
    }

    fn command(&self, minor: Minor, body: Body, expected: Kind) -> Result<()> {
        done(self.ask(minor.number(), body)?, expected)
    }

    fn ask(&self, cookie: u16, body: Body) -> Result<Body> {
        refused(self.exchange(&Request::new(Message::new(cookie, body)))?)
    }

    fn send(&self, request: &Request) -> Result<Conversation> {
        let connection = Connection::open(&self.socket, self.timeout)?;
        let mut conversation = Conversation { connection, reader: MessageReader::new(), trace: self.trace };
        conversation.trace("sending", &request.message);
        // In one piece: there are tapdisks that take nothing else.
        conversation.connection.send(&request.encode())?;
        Ok(conversation)
    }
}

/// One request and its answers.
struct Conversation {
    connection: Connection,
    reader: MessageReader,
    trace: Option<fn(&str)>,
}

impl Conversation {
    fn receive(&mut self) -> Result<Message> {
        loop {
            let (length, message) = self.reader.feed(self.connection.unread());
            self.connection.take(length);
            if let Some(message) = message {
                let message = message.map_err(|error| self.connection.not_understood(error))?;
                self.trace("received", &message);
                return Ok(message);
            }
            self.connection.fill()?;
        }
    }

    fn receive_bytes(&mut self, length: u64) -> Result<Vec<u8>> {
        let length = usize::try_from(length).map_err(|_| os("statistics", Errno::NOMEM))?;
        while self.connection.unread().len() < length {
            self.connection.fill()?;
        }
        Ok(self.connection.take(length))
    }

    fn trace(&self, verb: &str, message: &Message) {
        if let Some(trace) = self.trace {
            trace(&format!("{verb} '{}' message (uuid = {})", message.kind().name(), message.cookie));
        }
    }
}

/// A refusal becomes an error: the tapdisk's words, if it has any, and its number.
fn refused(message: Message) -> Result<Body> {
    match message.body {
        Body::Error(errno, text) => {
            Err(Error::from_os(text.to_string(), io::Error::from_raw_os_error(errno.0.saturating_abs())))
        }
        body => Ok(body),
    }
}

/// An acknowledgement of the kind that was expected, without an error in it.
fn done(body: Body, expected: Kind) -> Result<()> {
    let errno = match &body {
        Body::AttachResponse(errno)
        | Body::DetachResponse(errno)
        | Body::CloseResponse(errno)
        | Body::PauseResponse(errno)
        | Body::ResumeResponse(errno)
            if body.kind() == expected =>
        {
            errno.0
        }
        _ => return Err(unexpected(body.kind())),
    };
    if errno == 0 { Ok(()) } else { Err(Error::from_os("", io::Error::from_raw_os_error(errno.saturating_abs()))) }
}

fn unexpected(kind: Kind) -> Error {
    os(format!("unexpected answer '{}'", kind.name()), Errno::PROTO)
}

fn os(context: impl Into<Cow<'static, str>>, error: Errno) -> Error {
    Error::from_os(context, error.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{errno, reason};
    use block_core::ErrorKind;
    use std::{
        io::{Read, Write},
        os::unix::net::{UnixListener, UnixStream},
        thread,
    };
    use wire::control::{Errno as Number, RequestReader, VbdState};

    struct Stranger {
        _directory: tempfile::TempDir,
        run: RunDir,
        thread: thread::JoinHandle<Request>,
    }

    /// Somebody on control socket 7 who reads one request and answers with these bytes.
    fn stranger(answer: Vec<u8>) -> Stranger {
        let directory = tempfile::tempdir().unwrap();
        let run = RunDir::at(directory.path());
        let listener = UnixListener::bind(run.control_socket(7)).unwrap();
        let thread = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut reader = RequestReader::new();
            let request = loop {
                let mut bytes = [0; 100];
                let length = stream.read(&mut bytes).unwrap();
                if let (_, Some(request)) = reader.feed(&bytes[..length]) {
                    break request.unwrap();
                }
            };
            stream.write_all(&answer).unwrap();
            request
        });
        Stranger { _directory: directory, run, thread }
    }

    fn minor() -> Minor {
        Minor::new(3).unwrap()
    }

    fn message(body: Body) -> Vec<u8> {
        Message::new(3, body).encode().to_vec()
    }

    #[test]
    fn what_follows_a_message_is_sent_with_it() {
        let size = ImageInformation { sectors: 16384, sector_size: 512, information: 0 };
        let Stranger { run, thread, _directory } = stranger(message(Body::OpenResponse(size)));
        let mut open = OpenRequest::new("vhd:/a.vhd").unwrap();
        open.log_path = Some(Text::new("/a.log").unwrap());
        open.key = EncryptionKey::new(vec![1; 32]);
        assert_eq!(Client::new(&run, 7).open(minor(), &open).unwrap(), size);
        let request = thread.join().unwrap();
        assert_eq!((request.log_path, request.key), (open.log_path, open.key));
    }

    #[test]
    fn a_refusal_carries_number_and_words() {
        let words = Text::new("/a.vhd: no such image").unwrap();
        let Stranger { run, _directory, .. } = stranger(message(Body::Error(Number(2), words)));
        let error = Client::new(&run, 7).pause(minor()).unwrap_err();
        assert_eq!((errno(&error), reason(&error).as_str()), (2, "/a.vhd: no such image"));
    }

    #[test]
    fn a_list_is_read_to_its_end() {
        let entry = |count| ListEntry { count, minor: 3, state: VbdState::PAUSED, path: Text::EMPTY };
        let answers = [entry(2), entry(1), ListEntry::END].map(|entry| message(Body::ListResponse(entry)));
        let Stranger { run, _directory, .. } = stranger(answers.concat());
        assert_eq!(Client::new(&run, 7).list().unwrap(), [entry(2), entry(1)]);
    }

    #[test]
    fn a_list_that_is_cut_short_is_an_error() {
        let entry = ListEntry { count: 2, minor: 3, state: VbdState::PAUSED, path: Text::EMPTY };
        let Stranger { run, _directory, .. } = stranger(message(Body::ListResponse(entry)));
        assert_eq!(errno(&Client::new(&run, 7).list().unwrap_err()), 71);
    }

    #[test]
    fn statistics_follow_their_length() {
        let answer = [message(Body::StatsResponse { length: 4 }), b"{  }rest".to_vec()].concat();
        let Stranger { run, _directory, .. } = stranger(answer);
        assert_eq!(Client::new(&run, 7).stats(Some(minor())).unwrap(), b"{  }");
    }

    #[test]
    fn a_silent_tapdisk_is_given_up() {
        let directory = tempfile::tempdir().unwrap();
        let run = RunDir::at(directory.path());
        let _silent = UnixListener::bind(run.control_socket(7)).unwrap();
        let error = Client::new(&run, 7).timeout(Duration::from_millis(20)).close(minor()).unwrap_err();
        assert_eq!((errno(&error), error.kind()), (110, ErrorKind::TimedOut));
    }

    #[test]
    fn a_timeout_that_a_tapdisk_reports_is_not_taken_for_ours() {
        let Stranger { run, _directory, .. } = stranger(message(Body::Error(Number(110), Text::EMPTY)));
        let error = Client::new(&run, 7).close(minor()).unwrap_err();
        assert_eq!(errno(&error), 110);
        assert_ne!(error.kind(), ErrorKind::TimedOut);
    }

    #[test]
    fn a_tapdisk_that_does_not_accept_is_given_up() {
        let directory = tempfile::tempdir().unwrap();
        let run = RunDir::at(directory.path());
        let _full = UnixListener::bind(run.control_socket(7)).unwrap();
        rustix::net::listen(&_full, 0).unwrap();
        let _waiting = UnixStream::connect(run.control_socket(7)).unwrap();
        let error = Client::new(&run, 7).timeout(Duration::from_millis(20)).pid().unwrap_err();
        assert_eq!(errno(&error), 110);
    }

    #[test]
    fn a_tapdisk_that_is_not_there_is_named() {
        let error = Client::new(&RunDir::at("/nonexistent"), 7).pid().unwrap_err();
        assert_eq!((errno(&error), reason(&error).as_str()), (2, "/nonexistent/ctl7"));
    }
}
