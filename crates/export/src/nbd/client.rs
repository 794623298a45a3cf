//! A small NBD client that waits: one request at a time, for tools and tests. It asks for structured replies and
//! `base:allocation`, and does without if the server has none.

use std::{
    io::{self, Read, Write},
    net::{TcpStream, ToSocketAddrs},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use block_core::{Error, ErrorKind, Result, ResultExt};
use wire::nbd::{
    BASE_ALLOCATION, BlockDescriptor, BlockSizes, ChunkKind, ChunkPayload, ClientFlags, Command, CommandFlags,
    DATA_CHUNK_HEADER_BYTES, ErrorCode, Greeting, Information, InformationKind, OptionCode, OptionReply, ReplyHeader,
    RequestHeader, TransmissionFlags, put_client_flags, put_go, put_meta_contexts, put_option,
};

/// The longest payload of a chunk that is believed: the data of a read is never longer than what was asked for, and the
/// rest is short.
const PAYLOAD_BYTES_MAX: usize = (32 << 20) + DATA_CHUNK_HEADER_BYTES;

/// A connection to an export.
pub struct Client {
    stream: Box<dyn Stream>,
    /// Received and not used yet.
    received: Vec<u8>,
    size: u64,
    flags: TransmissionFlags,
    block_sizes: Option<BlockSizes>,
    structured_replies: bool,
    /// The number of `base:allocation`.
    context: Option<u32>,
    next_cookie: u64,
}

trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// What one request brought.
#[derive(Default)]
struct Answer {
    extents: Vec<BlockDescriptor>,
    failure: Option<Error>,
}

impl Client {
    /// Connects to a Unix socket and takes the export called `name`.
    pub fn connect_unix(path: &Path, name: &str) -> Result<Client> {
        let stream = UnixStream::connect(path).context(path.display())?;
        Client::negotiate(Box::new(stream), name).context(path.display())
    }

    /// Connects to a TCP address and takes the export called `name`.
    pub fn connect_tcp(address: impl ToSocketAddrs, name: &str) -> Result<Client> {
        let stream = TcpStream::connect(address).context("nbd")?;
        stream.set_nodelay(true).context("nbd")?;
        Client::negotiate(Box::new(stream), name).context("nbd")
    }

    /// Takes the export called `name` over a Unix connection that exists. Answers are waited for as long as `patience`, if
    /// given.
    pub fn over(stream: UnixStream, name: &str, patience: Option<Duration>) -> Result<Client> {
        stream.set_read_timeout(patience).context("nbd")?;
        Client::negotiate(Box::new(stream), name).context("nbd")
    }

    /// Bytes of the export.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// What the export offers.
    pub fn flags(&self) -> TransmissionFlags {
        self.flags
    }

    /// What the server said about alignment and lengths.
    pub fn block_sizes(&self) -> Option<BlockSizes> {
        self.block_sizes
    }

    /// Whether replies are structured.
    pub fn has_structured_replies(&self) -> bool {
        self.structured_replies
    }

    /// Fills `bytes` from `offset`.
    pub fn read(&mut self, offset: u64, bytes: &mut [u8]) -> Result<()> {
        let length = length_of(bytes.len())?;
        self.ask(Command::Read, CommandFlags::EMPTY, offset, length, &[], bytes).map(drop)
    }

    /// Writes `bytes` at `offset`.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.write_with(CommandFlags::EMPTY, offset, bytes)
    }

    /// Writes `bytes` at `offset`, with flags.
    pub fn write_with(&mut self, flags: CommandFlags, offset: u64, bytes: &[u8]) -> Result<()> {
        let length = length_of(bytes.len())?;
        self.ask(Command::Write, flags, offset, length, bytes, &mut []).map(drop)
    }

    /// Makes what was answered durable.
    pub fn flush(&mut self) -> Result<()> {
        self.command(Command::Flush, CommandFlags::EMPTY, 0, 0)
    }

    /// Says that the content of a range no longer matters.
    pub fn trim(&mut self, offset: u64, length: u32) -> Result<()> {
        self.command(Command::Trim, CommandFlags::EMPTY, offset, length)
    }

    /// Makes a range read as zeroes.
    pub fn write_zeroes(&mut self, flags: CommandFlags, offset: u64, length: u32) -> Result<()> {
        self.command(Command::WriteZeroes, flags, offset, length)
    }

    /// Any command that carries no data either way.
    pub fn command(&mut self, command: Command, flags: CommandFlags, offset: u64, length: u32) -> Result<()> {
        self.ask(command, flags, offset, length, &[], &mut []).map(drop)
    }

    /// What a range consists of, from its start on; the server may tell less than was asked for.
    pub fn block_status(&mut self, flags: CommandFlags, offset: u64, length: u32) -> Result<Vec<BlockDescriptor>> {
        self.ask(Command::BlockStatus, flags, offset, length, &[], &mut []).map(|answer| answer.extents)
    }

    /// Says goodbye.
    pub fn disconnect(mut self) -> Result<()> {
        let header = RequestHeader {
            flags: CommandFlags::EMPTY,
            command: Command::Disconnect,
            cookie: self.next_cookie,
            offset: 0,
            length: 0,
        };
        self.stream.write_all(&header.encode()).context("nbd")
    }

    fn negotiate(stream: Box<dyn Stream>, name: &str) -> Result<Client> {
        let mut client = Client {
            stream,
            received: Vec::new(),
            size: 0,
            flags: TransmissionFlags::EMPTY,
            block_sizes: None,
            structured_replies: false,
            context: None,
            next_cookie: 1,
        };
        match client.receive(Greeting::decode)? {
            Greeting::Oldstyle { size, flags } => (client.size, client.flags) = (size, flags),
            Greeting::Newstyle(_) => client.choose(name)?,
        }
        Ok(client)
    }

    fn choose(&mut self, name: &str) -> Result<()> {
        let mut out = Vec::new();
        put_client_flags(&mut out, ClientFlags::FIXED_NEWSTYLE | ClientFlags::NO_ZEROES);
        put_option(&mut out, OptionCode::STRUCTURED_REPLY, &[]);
        self.send(&out)?;
        self.structured_replies = self.option_replies(OptionCode::STRUCTURED_REPLY, |_, _| {}).is_ok();
        if self.structured_replies {
            out.clear();
            put_meta_contexts(&mut out, OptionCode::SET_META_CONTEXT, name, &[BASE_ALLOCATION]);
            self.send(&out)?;
            let chosen = |client: &mut Client, reply| {
                if let OptionReply::MetaContext { number, .. } = reply {
                    client.context = Some(number);
                }
            };
            // A server without contexts refuses the option, which is an answer too.
            let _ = self.option_replies(OptionCode::SET_META_CONTEXT, chosen);
        }
        out.clear();
        put_go(&mut out, name, &[InformationKind::BLOCK_SIZE]);
        self.send(&out)?;
        self.option_replies(OptionCode::GO, |client, reply| match reply {
            OptionReply::Information(Information::Export(export)) => {
                (client.size, client.flags) = (export.size, export.flags);
            }
            OptionReply::Information(Information::BlockSizes(sizes)) => client.block_sizes = Some(sizes),
            _ => {}
        })
    }

    /// Takes the replies to one option until the last.
    fn option_replies(&mut self, option: OptionCode, mut take: impl FnMut(&mut Client, OptionReply)) -> Result<()> {
        loop {
            match self.receive(|input| OptionReply::decode(input, option))? {
                OptionReply::Ack => return Ok(()),
                OptionReply::Failed { words, .. } => {
                    let words = String::from_utf8_lossy(&words).into_owned();
                    return Err(Error::new(ErrorKind::Unsupported, format!("the server refuses: {words}")));
                }
                reply => take(self, reply),
            }
        }
    }

    /// Sends a request and takes its whole answer; the bytes of a read go to `into`.
    fn ask(
        &mut self,
        command: Command,
        flags: CommandFlags,
        offset: u64,
        length: u32,
        data: &[u8],
        into: &mut [u8],
    ) -> Result<Answer> {
        let cookie = self.next_cookie;
        self.next_cookie += 1;
        let header = RequestHeader { flags, command, cookie, offset, length };
        self.send(&header.encode())?;
        self.send(data)?;
        let mut answer = Answer::default();
        let mut filled = 0;
        loop {
            let last = match self.receive(ReplyHeader::decode)? {
                ReplyHeader::Simple { cookie: own, error } if own == cookie => {
                    match error {
                        Some(code) => answer.failure = Some(failure(code, "")),
                        None => {
                            self.receive_exact(into)?;
                            filled = into.len();
                        }
                    }
                    true
                }
                ReplyHeader::Chunk { cookie: own, done, kind, length } if own == cookie => {
                    filled += self.take_chunk(kind, length as usize, offset, into, &mut answer)?;
                    done
                }
                _ => return Err(Error::new(ErrorKind::Invalid, "nbd: an answer to nothing that was asked")),
            };
            if last {
                break;
            }
        }
        match answer.failure {
            Some(error) => Err(error),
            None if filled < into.len() => Err(Error::new(ErrorKind::Invalid, "nbd: a read without all its bytes")),
            None => Ok(answer),
        }
    }

    /// Takes one chunk; says how many bytes of `into`, which begins at `base`, it filled.
    fn take_chunk(
        &mut self,
        kind: ChunkKind,
        length: usize,
        base: u64,
        into: &mut [u8],
        answer: &mut Answer,
    ) -> Result<usize> {
        if length > PAYLOAD_BYTES_MAX {
            return Err(Error::new(ErrorKind::LimitReached, "nbd: a chunk that is too long"));
        }
        let mut payload = vec![0; length];
        self.receive_exact(&mut payload)?;
        let place = |offset: u64, length: usize| {
            let from = offset.checked_sub(base).and_then(|from| usize::try_from(from).ok());
            let range = from.and_then(|from| Some(from..from.checked_add(length)?));
            range.ok_or_else(|| Error::new(ErrorKind::Invalid, "nbd: bytes that were not asked for"))
        };
        let outside = || Error::new(ErrorKind::Invalid, "nbd: bytes that were not asked for");
        match ChunkPayload::decode(kind, &payload)? {
            ChunkPayload::None => {}
            ChunkPayload::Data { offset, bytes } => {
                let part = into.get_mut(place(offset, bytes.len())?).ok_or_else(outside)?;
                part.copy_from_slice(bytes);
                return Ok(bytes.len());
            }
            ChunkPayload::Hole { offset, length } => {
                let part = into.get_mut(place(offset, length as usize)?).ok_or_else(outside)?;
                part.fill(0);
                return Ok(part.len());
            }
            ChunkPayload::BlockStatus { context, extents } if Some(context) == self.context => {
                answer.extents = extents;
            }
            ChunkPayload::BlockStatus { .. } => {}
            ChunkPayload::Failed { error, words, .. } => {
                answer.failure = Some(failure(error, &String::from_utf8_lossy(words)));
            }
        }
        Ok(0)
    }

    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).context("nbd")
    }

    /// Receives until `decode` has what it needs.
    fn receive<T>(&mut self, decode: impl Fn(&[u8]) -> Result<Option<(T, usize)>>) -> Result<T> {
        loop {
            if let Some((value, used)) = decode(&self.received)? {
                self.received.drain(..used);
                return Ok(value);
            }
            let mut bytes = [0; 512];
            let count = self.stream.read(&mut bytes).context("nbd")?;
            if count == 0 {
                return Err(Error::from_os("nbd", io::ErrorKind::UnexpectedEof.into()));
            }
            self.received.extend_from_slice(&bytes[..count]);
        }
    }

    fn receive_exact(&mut self, bytes: &mut [u8]) -> Result<()> {
        let already = self.received.len().min(bytes.len());
        bytes[..already].copy_from_slice(&self.received[..already]);
        self.received.drain(..already);
        self.stream.read_exact(&mut bytes[already..]).context("nbd")
    }
}

/// The server's error as one of the operating system's: the protocol's numbers are those of Linux.
fn failure(code: ErrorCode, words: &str) -> Error {
    let number = i32::try_from(code.number()).expect("the protocol's codes are small");
    let words = if words.is_empty() { "the server says".to_owned() } else { format!("the server says: {words}") };
    Error::from_os(words, io::Error::from_raw_os_error(number))
}

fn length_of(bytes: usize) -> Result<u32> {
    u32::try_from(bytes).map_err(|_| Error::new(ErrorKind::LimitReached, "nbd: more than 4 GiB at once"))
}
