//! NBD clients that keep many requests under way with as little effort as they can, and count the answers.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use block_core::{Error, ErrorKind, Result, ResultExt};
use wire::nbd::{
    ClientFlags, Command, CommandFlags, ReplyHeader, RequestHeader, SIMPLE_REPLY_BYTES, put_client_flags,
    put_export_name,
};

use crate::load::Random;

/// Bytes of each request.
pub(crate) const BLOCK: u32 = 4096;
/// Requests that each client keeps under way.
pub(crate) const DEPTH: usize = 32;

/// Until both sides are at it.
const WARM_UP: Duration = Duration::from_millis(50);
/// Greeting and answer of a server that is asked for its export by name, without the padding.
const GREETING_BYTES: usize = 18 + 10;

/// Answers, and those that were errors. (Counts; floating, since they are divided.)
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answers {
    pub(crate) all: f64,
    pub(crate) failed: f64,
}

/// Clients at work, each in a thread.
pub(crate) struct Load {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<Result<()>>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    answered: AtomicU64,
    failed: AtomicU64,
}

impl Load {
    /// Connects so many clients, which ask for random blocks of a disk of `bytes`.
    pub(crate) fn start(socket: &Path, connections: u64, bytes: u64, is_write: bool) -> Result<Load> {
        let mut load = Load { shared: Arc::default(), clients: Vec::new() };
        for number in 0..connections {
            let client = Pipeline::connect(socket, number, bytes, is_write)?;
            let shared = load.shared.clone();
            load.clients.push(thread::spawn(move || client.run(&shared)));
        }
        thread::sleep(WARM_UP);
        Ok(load)
    }

    /// The answers that come in so much time.
    pub(crate) fn count(&self, duration: Duration) -> Answers {
        let counters = [&self.shared.answered, &self.shared.failed];
        let before = counters.map(|counter| counter.load(Ordering::Relaxed));
        thread::sleep(duration);
        let now = counters.map(|counter| counter.load(Ordering::Relaxed));
        #[allow(clippy::cast_precision_loss, reason = "counts of answers of some seconds")]
        let [all, failed] = [0, 1].map(|index| (now[index] - before[index]) as f64);
        Answers { all, failed }
    }

    /// Lets the clients fetch their last answers; how many answers have been errors since they started.
    pub(crate) fn end(self) -> Result<u64> {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.clients.into_iter().try_for_each(|client| client.join().expect("a client does not panic"))?;
        Ok(self.shared.failed.load(Ordering::Relaxed))
    }
}

struct Pipeline {
    stream: UnixStream,
    random: Random,
    bytes: u64,
    is_write: bool,
    data: Vec<u8>,
}

/// Whole replies at the front of what was received.
#[derive(Default)]
struct Replies {
    count: usize,
    failed: u64,
    bytes: usize,
}

impl Pipeline {
    fn connect(socket: &Path, number: u64, bytes: u64, is_write: bool) -> Result<Pipeline> {
        let mut stream = UnixStream::connect(socket).context(socket.display())?;
        let mut hello = Vec::new();
        put_client_flags(&mut hello, ClientFlags::FIXED_NEWSTYLE | ClientFlags::NO_ZEROES);
        put_export_name(&mut hello, "bench");
        stream.write_all(&hello).context("nbd")?;
        stream.read_exact(&mut [0; GREETING_BYTES]).context("nbd")?;
        Ok(Pipeline { stream, random: Random::new(number + 1), bytes, is_write, data: vec![0x5a; BLOCK as usize] })
    }

    fn run(mut self, shared: &Shared) -> Result<()> {
        let mut received = vec![0; (SIMPLE_REPLY_BYTES + BLOCK as usize) * DEPTH];
        let mut have = 0;
        self.ask(DEPTH)?;
        let mut running = DEPTH;
        while running > 0 {
            let count = self.stream.read(&mut received[have..]).context("nbd")?;
            if count == 0 {
                return Err(Error::new(ErrorKind::Closed, "nbd: the server has gone"));
            }
            have += count;
            let replies = self.whole_replies(&received[..have])?;
            received.copy_within(replies.bytes..have, 0);
            have -= replies.bytes;
            shared.answered.fetch_add(replies.count as u64, Ordering::Relaxed);
            shared.failed.fetch_add(replies.failed, Ordering::Relaxed);
            running -= replies.count;
            if !shared.stop.load(Ordering::Relaxed) {
                self.ask(replies.count)?;
                running += replies.count;
            }
        }
        Ok(())
    }

    fn whole_replies(&self, received: &[u8]) -> Result<Replies> {
        let mut replies = Replies::default();
        while let Some((reply, length)) = ReplyHeader::decode(&received[replies.bytes..])? {
            let ReplyHeader::Simple { error, .. } = reply else {
                return Err(Error::new(ErrorKind::Invalid, "nbd: not a simple reply"));
            };
            let data = if self.is_write || error.is_some() { 0 } else { BLOCK as usize };
            if received.len() < replies.bytes + length + data {
                break;
            }
            replies.bytes += length + data;
            replies.count += 1;
            replies.failed += u64::from(error.is_some());
        }
        Ok(replies)
    }

    fn ask(&mut self, count: usize) -> Result<()> {
        let mut out = Vec::new();
        for _ in 0..count {
            let offset = self.random.next() % (self.bytes / u64::from(BLOCK)) * u64::from(BLOCK);
            let command = if self.is_write { Command::Write } else { Command::Read };
            let header = RequestHeader { flags: CommandFlags::EMPTY, command, cookie: 1, offset, length: BLOCK };
            out.extend(header.encode());
            if self.is_write {
                out.extend(&self.data);
            }
        }
        self.stream.write_all(&out).context("nbd")
    }
}
