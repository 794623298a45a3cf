//! NBD clients: requests are written and answers read as many at once as there are.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use block_core::{Error, ErrorKind, Result, ResultExt};
use wire::nbd::{
    ClientFlags, Command, CommandFlags, ReplyHeader, RequestHeader, SIMPLE_REPLY_BYTES, put_client_flags,
    put_export_name,
};

use crate::{
    clients::{Load, Offsets, Shared, Workload},
    load::Random,
};

/// Greeting and answer of a server that is asked for its export by name, without the padding.
const GREETING_BYTES: usize = 18 + 10;

/// A reply says by its cookie whether it comes with data.
const READ: u64 = 1;
const WRITE: u64 = 2;

/// Connects so many clients and lets them work.
pub(crate) fn start(socket: &Path, connections: u64, workload: Workload) -> Result<Load> {
    start_mixed(socket, connections, workload, if workload.is_write { 0 } else { 10 })
}

/// The same; of ten requests so many are reads, whatever the workload says.
pub(crate) fn start_mixed(socket: &Path, connections: u64, workload: Workload, reads_of_ten: u64) -> Result<Load> {
    let connect = |number| {
        let client = Pipeline::connect(socket, number, workload)?;
        Ok(Pipeline { reads_of_ten, ..client })
    };
    let clients = (0..connections).map(connect).collect::<Result<Vec<_>>>()?;
    let load = Load::start(clients.into_iter().map(|client| |shared: &Shared| client.run(shared)));
    load.warm_up();
    Ok(load)
}

/// Writes all of the workload's part of the disk once, in order.
pub(crate) fn write_all(socket: &Path, workload: Workload) -> Result<()> {
    each_once(socket, workload, 1, 0)
}

/// Reads all of the workload's part of the disk once, in order.
pub(crate) fn read_all(socket: &Path, workload: Workload) -> Result<()> {
    each_once(socket, workload, 1, 0)
}

/// Writes (or reads, if that is the workload) each block whose number is `which` modulo `of`, once and in order.
pub(crate) fn each_once(socket: &Path, workload: Workload, of: u64, which: u64) -> Result<()> {
    let mut client = Pipeline::connect(socket, 0, workload)?;
    for number in 0..workload.bytes / u64::from(workload.block) {
        if number % of != which {
            client.offsets.next();
            continue;
        }
        client.ask(1)?;
        let mut replies = Replies::default();
        while replies.count == 0 {
            replies = client.fetch()?;
        }
        if replies.failed > 0 {
            return Err(Error::new(ErrorKind::Io, "nbd: a request failed"));
        }
    }
    Ok(())
}

/// A client that asks at fixed instants: all requests of its workload at once, and again when it is time. Gives how long
/// each group took to be answered, in nanoseconds from the instant at which it was due, so that a late start counts too.
pub(crate) struct Paced {
    stop: Arc<AtomicBool>,
    client: JoinHandle<Result<Vec<u64>>>,
}

impl Paced {
    /// Connects, and asks every so often from now on.
    pub(crate) fn start(socket: &Path, workload: Workload, every: Duration) -> Result<Paced> {
        let client = Pipeline::connect(socket, 0, workload)?;
        let stop = Arc::<AtomicBool>::default();
        let told = stop.clone();
        Ok(Paced { stop, client: thread::spawn(move || client.run_paced(every, &told)) })
    }

    /// Ends it; gives the latencies.
    pub(crate) fn end(self) -> Result<Vec<u64>> {
        self.stop.store(true, Ordering::Relaxed);
        self.client.join().expect("a client does not panic")
    }
}

struct Pipeline {
    stream: UnixStream,
    workload: Workload,
    offsets: Offsets,
    reads_of_ten: u64,
    kinds: Random,
    data: Vec<u8>,
    /// What was received, and how much of it is no whole reply yet.
    received: Vec<u8>,
    have: usize,
}

/// Whole replies at the front of what was received.
#[derive(Default)]
struct Replies {
    count: usize,
    failed: u64,
    bytes: usize,
}

impl Pipeline {
    fn connect(socket: &Path, number: u64, workload: Workload) -> Result<Pipeline> {
        let mut stream = UnixStream::connect(socket).context(socket.display())?;
        let mut hello = Vec::new();
        put_client_flags(&mut hello, ClientFlags::FIXED_NEWSTYLE | ClientFlags::NO_ZEROES);
        put_export_name(&mut hello, "bench");
        stream.write_all(&hello).context("nbd")?;
        stream.read_exact(&mut [0; GREETING_BYTES]).context("nbd")?;
        let data = vec![0x5a; workload.block as usize];
        let received = vec![0; (SIMPLE_REPLY_BYTES + data.len()) * workload.depth];
        let (offsets, kinds) = (workload.offsets(number), Random::new(number + 77));
        let reads_of_ten = if workload.is_write { 0 } else { 10 };
        Ok(Pipeline { stream, workload, offsets, reads_of_ten, kinds, data, received, have: 0 })
    }

    fn run(mut self, shared: &Shared) -> Result<()> {
        self.ask(self.workload.depth)?;
        let mut running = self.workload.depth;
        while running > 0 {
            let replies = self.fetch()?;
            shared.answered(replies.count as u64, replies.failed);
            running -= replies.count;
            if !shared.is_over() {
                self.ask(replies.count)?;
                running += replies.count;
            }
        }
        Ok(())
    }

    fn run_paced(mut self, every: Duration, stop: &AtomicBool) -> Result<Vec<u64>> {
        let mut latencies = Vec::new();
        let mut due = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            self.ask(self.workload.depth)?;
            let mut running = self.workload.depth;
            while running > 0 {
                running -= self.fetch()?.count;
            }
            latencies.push(u64::try_from(due.elapsed().as_nanos()).unwrap_or(u64::MAX));
            due += every;
        }
        Ok(latencies)
    }

    /// Waits for replies; gives the whole ones.
    fn fetch(&mut self) -> Result<Replies> {
        let count = self.stream.read(&mut self.received[self.have..]).context("nbd")?;
        if count == 0 {
            return Err(Error::new(ErrorKind::Closed, "nbd: the server has gone"));
        }
        self.have += count;
        let replies = self.whole_replies(&self.received[..self.have])?;
        self.received.copy_within(replies.bytes..self.have, 0);
        self.have -= replies.bytes;
        Ok(replies)
    }

    fn whole_replies(&self, received: &[u8]) -> Result<Replies> {
        let mut replies = Replies::default();
        while let Some((reply, length)) = ReplyHeader::decode(&received[replies.bytes..])? {
            let ReplyHeader::Simple { error, cookie } = reply else {
                return Err(Error::new(ErrorKind::Invalid, "nbd: not a simple reply"));
            };
            let data = if cookie == WRITE || error.is_some() { 0 } else { self.data.len() };
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
            let (offset, length) = (self.offsets.next(), self.workload.block);
            let is_write = self.reads_of_ten < 10 && self.kinds.next() % 10 >= self.reads_of_ten;
            let (command, cookie) = if is_write { (Command::Write, WRITE) } else { (Command::Read, READ) };
            let header = RequestHeader { flags: CommandFlags::EMPTY, command, cookie, offset, length };
            out.extend(header.encode());
            if is_write {
                out.extend(&self.data);
            }
        }
        self.stream.write_all(&out).context("nbd")
    }
}
