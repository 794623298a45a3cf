//! A client that sends what bytes say, in portions that they choose: each request that makes sense to a reader of the
//! protocol has one answer, whatever is sent the connection ends in order, and nothing of it is left.

use std::{
    collections::HashMap,
    io::{ErrorKind, Read, Write},
    os::unix::net::UnixStream,
    rc::Rc,
    sync::Arc,
};

use export::nbd::{Limits, Server, Style};
use image_chain::ChainSpec;
use storage_io::{Access, BufferPool, EngineChoice, Executor, LockPolicy, MemoryFiles, MemoryStorage};
use test_support::Choices;
use virtual_disk::{Disk, Settings};
use wire::nbd::{
    BASE_ALLOCATION, ChunkPayload, ClientFlags, Command, CommandFlags, GREETING_BYTES, OLDSTYLE_GREETING_BYTES,
    OptionCode, ReplyHeader, RequestHeader, put_client_flags, put_export_name, put_go, put_meta_contexts, put_option,
};

const DISK_BYTES: usize = 1 << 20;
/// Requests of one client, if the bytes suffice.
const REQUESTS_MAX: usize = 60;

/// A server of a disk in memory.
pub(crate) struct Host {
    executor: Executor,
    disk: Disk,
    server: Server,
}

/// How a client begins, and how far its answers can be understood.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Speech {
    /// Anything at all.
    Noise,
    /// It agrees on simple replies.
    Simple,
    /// It agrees on chunks.
    Chunks,
    /// It has nothing to agree on.
    Old,
}

/// What was sent, and what has to come back.
struct Sent {
    bytes: Vec<u8>,
    /// Requests that wait for their answer, by cookie: how long the data is that comes with it.
    asked: HashMap<u64, u32>,
    /// Something was sent that ends the connection, or may.
    has_ended: bool,
}

impl Host {
    pub(crate) fn new() -> Host {
        let executor = Executor::new(EngineChoice::Inline).unwrap();
        let files = MemoryFiles::new();
        files.put("/a", Arc::new(MemoryStorage::new(DISK_BYTES)));
        let disk = Disk::new(&executor, Rc::new(files), BufferPool::new(16 << 20), Arc::new(()));
        let leaf = "aio:/a".parse().unwrap();
        let spec = ChainSpec { direct: false, lock: LockPolicy::None, ..ChainSpec::new(leaf, Access::Write) };
        executor.block_on(disk.open(spec, Settings::default())).unwrap();
        let server = Server::new(&disk, Limits { bytes: 1 << 20, ..Limits::default() });
        Host { executor, disk, server }
    }

    /// One client comes, sends what the bytes say, reads what it gets, and goes.
    pub(crate) fn serve(&mut self, bytes: &[u8]) {
        let mut choices = Choices::new(bytes);
        let speech = [Speech::Noise, Speech::Simple, Speech::Chunks, Speech::Old][choices.index(4)];
        let portion = 1 + choices.index(300);
        let hangs_up = choices.one_in(8);
        let sent = speech.speak(&mut choices);
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.set_nonblocking(true).unwrap();
        self.server.adopt(theirs.into(), if speech == Speech::Old { Style::Old } else { Style::New });
        let received = self.executor.block_on(self.exchange(ours, &sent.bytes, portion, hangs_up));
        if let Some(received) = received {
            speech.are_answers(&received, sent);
        }
        self.executor.block_on(async {
            for _ in 0..1000 {
                if self.server.connections() == 0 {
                    break;
                }
                self.executor.yield_now().await;
            }
        });
        assert_eq!((self.server.connections(), self.disk.status().in_flight()), (0, 0), "something is left of it");
    }

    /// Sends, and receives meanwhile. Nothing, if the client hangs up without listening.
    async fn exchange(&self, mut stream: UnixStream, bytes: &[u8], portion: usize, hangs_up: bool) -> Option<Vec<u8>> {
        let (mut rest, mut received, mut is_over) = (bytes, Vec::new(), false);
        while !rest.is_empty() && !is_over {
            match stream.write(&rest[..rest.len().min(portion)]) {
                Ok(count) => rest = &rest[count..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => break,
            }
            self.executor.yield_now().await;
            is_over = receive(&mut stream, &mut received);
        }
        if hangs_up {
            return None;
        }
        // It may have ended already.
        let _ = stream.shutdown(std::net::Shutdown::Write);
        while !is_over {
            self.executor.readable(&stream).await.unwrap();
            is_over = receive(&mut stream, &mut received);
        }
        Some(received)
    }
}

/// Receives what is there; says whether there is an end.
fn receive(stream: &mut UnixStream, received: &mut Vec<u8>) -> bool {
    let mut bytes = [0; 4096];
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => return true,
            Ok(count) => received.extend_from_slice(&bytes[..count]),
            Err(error) => return error.kind() != ErrorKind::WouldBlock,
        }
    }
}

impl Speech {
    /// All that the client sends.
    fn speak(self, choices: &mut Choices<'_>) -> Sent {
        let mut sent = Sent { bytes: Vec::new(), asked: HashMap::new(), has_ended: false };
        let out = &mut sent.bytes;
        if self != Speech::Old {
            put_client_flags(out, ClientFlags::FIXED_NEWSTYLE | ClientFlags::NO_ZEROES);
        }
        match self {
            Speech::Noise => {
                options(out, choices);
                sent.bytes.extend_from_slice(choices.rest());
                return sent;
            }
            Speech::Chunks => {
                put_option(out, OptionCode::STRUCTURED_REPLY, &[]);
                put_meta_contexts(out, OptionCode::SET_META_CONTEXT, "", &[BASE_ALLOCATION]);
                put_export_name(out, "any");
            }
            Speech::Simple => put_export_name(out, "any"),
            Speech::Old => {}
        }
        for cookie in 0..REQUESTS_MAX as u64 {
            if choices.is_over() || sent.has_ended {
                break;
            }
            sent.ask(cookie, choices);
        }
        sent
    }

    /// Bytes in front of the first reply.
    fn greeting_bytes(self) -> usize {
        let export = 10;
        match self {
            Speech::Noise | Speech::Simple => GREETING_BYTES + export,
            // An answer of 20 bytes to each option, and the context with its name and number.
            Speech::Chunks => GREETING_BYTES + 3 * 20 + 4 + BASE_ALLOCATION.len() + export,
            Speech::Old => OLDSTYLE_GREETING_BYTES,
        }
    }

    /// What came back: one answer for each request, in any order, and nothing else.
    fn are_answers(self, received: &[u8], mut sent: Sent) {
        if self == Speech::Noise {
            return;
        }
        let mut rest = &received[self.greeting_bytes()..];
        while !rest.is_empty() {
            // Who was handed over and disconnects may begin again.
            if sent.has_ended && rest.starts_with(b"NBDMAGIC") {
                return;
            }
            let Some((header, length)) = ReplyHeader::decode(rest).unwrap() else {
                assert!(sent.has_ended, "the last reply is cut off");
                return;
            };
            rest = &rest[length..];
            let payload = match header {
                ReplyHeader::Simple { cookie, error } => {
                    let data = sent.asked.remove(&cookie).unwrap_or_else(|| panic!("{cookie} was not asked"));
                    if error.is_some() { 0 } else { data }
                }
                ReplyHeader::Chunk { cookie, done, kind, length } => {
                    assert!(sent.asked.contains_key(&cookie), "{cookie} was not asked");
                    let payload = rest.get(..length as usize);
                    assert!(payload.is_some() || sent.has_ended, "the last chunk is cut off");
                    ChunkPayload::decode(kind, payload.unwrap_or_default()).map(drop).unwrap();
                    if done {
                        sent.asked.remove(&cookie);
                    }
                    length
                }
            };
            rest = rest.get(payload as usize..).unwrap_or_default();
        }
        assert!(sent.has_ended || sent.asked.is_empty(), "{:?} have no answer", sent.asked);
    }
}

impl Sent {
    /// One request, with what it needs.
    fn ask(&mut self, cookie: u64, choices: &mut Choices<'_>) {
        let command = match choices.index(16) {
            number @ 0..8 if number != 2 => Command::from_number(u16::try_from(number).unwrap()),
            8..15 => Command::Read,
            _ => Command::from_number(u16::from_le_bytes(choices.array())),
        };
        let flags =
            if choices.one_in(3) { CommandFlags::from_bits(choices.byte().into()) } else { CommandFlags::EMPTY };
        let offset = match choices.index(8) {
            0 => choices.number(),
            1 => (DISK_BYTES as u64).wrapping_sub(u64::from(choices.byte())),
            _ => u64::from(u16::from_le_bytes(choices.array())),
        };
        let length = match choices.index(8) {
            0 => u32::from_le_bytes(choices.array()),
            1 => u32::from(choices.byte()) << 13,
            _ => u32::from(choices.byte()),
        };
        let header = RequestHeader { flags, command, cookie, offset, length };
        self.bytes.extend(header.encode());
        match command {
            Command::Disconnect => self.has_ended = true,
            Command::Write if length <= 4096 => self.bytes.resize(self.bytes.len() + length as usize, choices.byte()),
            // It promises more than it sends.
            Command::Write => self.has_ended = true,
            _ => {}
        }
        if command != Command::Disconnect {
            self.asked.insert(cookie, if command == Command::Read { length } else { 0 });
        }
    }
}

/// Options of all kinds, with what they need, or with something else.
fn options(out: &mut Vec<u8>, choices: &mut Choices<'_>) {
    for _ in 0..choices.index(8) {
        let option = match choices.one_in(8) {
            true => OptionCode(u32::from_le_bytes(choices.array())),
            false => OptionCode(u32::from(choices.byte() % 11)),
        };
        match choices.index(4) {
            0 => put_go(out, "any", &[]),
            1 => put_meta_contexts(out, option, "", &[BASE_ALLOCATION, "base:"]),
            2 => put_option(out, option, &[]),
            _ => {
                let length = choices.index(40);
                put_option(out, option, choices.take(length));
            }
        }
    }
}
