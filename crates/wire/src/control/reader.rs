//! Messages from a stream that may be cut anywhere.

use std::fmt;

use zeroize::Zeroizing;

use super::bits::OpenFlags;
use super::message::{Body, DecodeError, MESSAGE_BYTES, Message, Reason};
use super::text::{TEXT_BYTES, Text};

/// Bytes of the log path behind an OPEN or RESUME with [`OpenFlags::ADD_LOG`].
pub const LOG_PATH_BYTES: usize = TEXT_BYTES;

/// The longest key behind an OPEN with [`OpenFlags::ENCRYPTED`].
pub const KEY_BYTES_MAX: usize = 128;

/// Collects messages without what may follow them: for the side that reads answers.
#[derive(Debug, Default)]
pub struct MessageReader {
    collected: Vec<u8>,
}

impl MessageReader {
    /// A reader at the beginning of a message.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes bytes off the front of `input`: how many, and the message that they complete. Without a message all of
    /// `input` has been taken.
    pub fn feed(&mut self, input: &[u8]) -> (usize, Option<Result<Message, DecodeError>>) {
        let (taken, whole) = collect(&mut self.collected, MESSAGE_BYTES, input);
        (taken, whole.map(|bytes| decode(&bytes)))
    }

    /// Whether the stream must not end here: a message has begun.
    pub fn is_inside(&self) -> bool {
        !self.collected.is_empty()
    }
}

/// A key that followed an OPEN. Its bytes are not shown in traces, and are overwritten when it goes.
#[derive(Clone, PartialEq, Eq)]
pub struct EncryptionKey(Zeroizing<Vec<u8>>);

impl EncryptionKey {
    /// A key of 1 to [`KEY_BYTES_MAX`] bytes.
    pub fn new(bytes: Vec<u8>) -> Option<Self> {
        (1..=KEY_BYTES_MAX).contains(&bytes.len()).then(|| EncryptionKey(Zeroizing::new(bytes)))
    }

    /// The key.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for EncryptionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EncryptionKey({} bytes)", self.0.len())
    }
}

/// A message and what followed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The message.
    pub message: Message,
    /// The path of the change log; there is one exactly if an OPEN or RESUME has [`OpenFlags::ADD_LOG`].
    pub log_path: Option<Text>,
    /// The key; there is one exactly if an OPEN has [`OpenFlags::ENCRYPTED`].
    pub key: Option<EncryptionKey>,
}

impl Request {
    /// A request that is a message alone.
    pub const fn new(message: Message) -> Self {
        Request { message, log_path: None, key: None }
    }

    /// The request as bytes: the message, the log path, the key. The flags of the message are made to say what follows.
    pub fn encode(&self) -> Vec<u8> {
        let mut message = self.message.clone();
        let (mut log_path, mut key) = (None, None);
        if let Body::Open(parameters) | Body::Resume(parameters) = &mut message.body {
            log_path = self.log_path.as_ref();
            parameters.flags = parameters.flags.without(OpenFlags::ADD_LOG);
            parameters.flags = parameters.flags.with_if(OpenFlags::ADD_LOG, log_path.is_some());
        }
        if let Body::Open(parameters) = &mut message.body {
            key = self.key.as_ref();
            parameters.flags = parameters.flags.without(OpenFlags::ENCRYPTED);
            parameters.flags = parameters.flags.with_if(OpenFlags::ENCRYPTED, key.is_some());
        }
        let mut bytes = message.encode().to_vec();
        bytes.extend(log_path.iter().flat_map(|path| path.to_field()));
        if let Some(EncryptionKey(key)) = key {
            bytes.push(u8::try_from(key.len()).expect("a key has at most 128 bytes"));
            bytes.extend_from_slice(key);
        }
        bytes
    }
}

/// Collects requests with what follows them: for a tapdisk. After an error the stream is of no more use.
///
/// ```text
///   Message --544--> LogPath? --256--> KeyLength? --1--> Key --n--> a request
/// ```
#[derive(Debug, Default)]
pub struct RequestReader {
    collected: Vec<u8>,
    state: State,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Message,
    LogPath(Request),
    KeyLength(Request),
    Key(Request, usize),
}

impl RequestReader {
    /// A reader at the beginning of a request.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes bytes off the front of `input`: how many, and the request that they complete. Without a request all of
    /// `input` has been taken.
    pub fn feed(&mut self, input: &[u8]) -> (usize, Option<Result<Request, DecodeError>>) {
        let mut rest = input;
        while !rest.is_empty() {
            let wanted = self.wanted();
            let (taken, whole) = collect(&mut self.collected, wanted, rest);
            rest = &rest[taken..];
            let request = whole.and_then(|bytes| self.advance(bytes).transpose());
            if request.is_some() {
                return (input.len() - rest.len(), request);
            }
        }
        (input.len(), None)
    }

    /// Whether the stream must not end here: a request has begun.
    pub fn is_inside(&self) -> bool {
        !self.collected.is_empty() || !matches!(self.state, State::Message)
    }

    const fn wanted(&self) -> usize {
        match self.state {
            State::Message => MESSAGE_BYTES,
            State::LogPath(_) => LOG_PATH_BYTES,
            State::KeyLength(_) => 1,
            State::Key(_, length) => length,
        }
    }

    /// All that the current state waits for is there: goes on, or gives the request.
    fn advance(&mut self, bytes: Vec<u8>) -> Result<Option<Request>, DecodeError> {
        match std::mem::take(&mut self.state) {
            State::Message => {
                let request = Request::new(decode(&bytes)?);
                if flags_of(&request.message).contains(OpenFlags::ADD_LOG) {
                    self.state = State::LogPath(request);
                    return Ok(None);
                }
                Ok(self.key_or_done(request))
            }
            State::LogPath(mut request) => {
                let field = bytes.first_chunk().expect("as many bytes as were wanted");
                let path = Text::from_field(field);
                let reason = Reason::Unterminated("the log path");
                request.log_path = Some(path.ok_or(DecodeError { cookie: request.message.cookie, reason })?);
                Ok(self.key_or_done(request))
            }
            State::KeyLength(request) => {
                let (cookie, length) = (request.message.cookie, bytes[0]);
                if !(1..=KEY_BYTES_MAX).contains(&usize::from(length)) {
                    return Err(DecodeError { cookie, reason: Reason::KeyLength(length) });
                }
                self.state = State::Key(request, usize::from(length));
                Ok(None)
            }
            State::Key(mut request, _) => {
                request.key = EncryptionKey::new(bytes);
                Ok(Some(request))
            }
        }
    }

    /// A key follows an OPEN only.
    fn key_or_done(&mut self, request: Request) -> Option<Request> {
        let is_open = matches!(request.message.body, Body::Open(_));
        if is_open && flags_of(&request.message).contains(OpenFlags::ENCRYPTED) {
            self.state = State::KeyLength(request);
            return None;
        }
        Some(request)
    }
}

fn flags_of(message: &Message) -> OpenFlags {
    match &message.body {
        Body::Open(parameters) | Body::Resume(parameters) => parameters.flags,
        _ => OpenFlags::EMPTY,
    }
}

/// Moves bytes from `input` to `collected` until there are `wanted`: how many, and all of them once they are there.
fn collect(collected: &mut Vec<u8>, wanted: usize, input: &[u8]) -> (usize, Option<Vec<u8>>) {
    let taken = input.len().min(wanted - collected.len());
    // At once: what grows bit by bit leaves copies of a key behind.
    collected.reserve_exact(wanted - collected.len());
    collected.extend_from_slice(&input[..taken]);
    let whole = (collected.len() == wanted).then(|| std::mem::take(collected));
    (taken, whole)
}

fn decode(bytes: &[u8]) -> Result<Message, DecodeError> {
    Message::decode(bytes.first_chunk().expect("as many bytes as were wanted"))
}
