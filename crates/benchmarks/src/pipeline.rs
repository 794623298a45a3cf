//! NBD clients: requests are written and answers read as many at once as there are.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
};

use block_core::{Error, ErrorKind, Result, ResultExt};
use wire::nbd::{
    ClientFlags, Command, CommandFlags, ReplyHeader, RequestHeader, SIMPLE_REPLY_BYTES, put_client_flags,
    put_export_name,
};

use crate::clients::{Load, Offsets, Shared, Workload};

/// Greeting and answer of a server that is asked for its export by name, without the padding.
const GREETING_BYTES: usize = 18 + 10;

/// Connects so many clients and lets them work.
pub(crate) fn start(socket: &Path, connections: u64, workload: Workload) -> Result<Load> {
    let connect = |number| Pipeline::connect(socket, number, workload);
    let clients = (0..connections).map(connect).collect::<Result<Vec<_>>>()?;
    let load = Load::start(clients.into_iter().map(|client| |shared: &Shared| client.run(shared)));
    load.warm_up();
    Ok(load)
}

struct Pipeline {
    stream: UnixStream,
    workload: Workload,
    offsets: Offsets,
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
    fn connect(socket: &Path, number: u64, workload: Workload) -> Result<Pipeline> {
        let mut stream = UnixStream::connect(socket).context(socket.display())?;
        let mut hello = Vec::new();
        put_client_flags(&mut hello, ClientFlags::FIXED_NEWSTYLE | ClientFlags::NO_ZEROES);
        put_export_name(&mut hello, "bench");
        stream.write_all(&hello).context("nbd")?;
        stream.read_exact(&mut [0; GREETING_BYTES]).context("nbd")?;
        let data = vec![0x5a; workload.block as usize];
        Ok(Pipeline { stream, workload, offsets: workload.offsets(number), data })
    }

    fn run(mut self, shared: &Shared) -> Result<()> {
        let depth = self.workload.depth;
        let mut received = vec![0; (SIMPLE_REPLY_BYTES + self.data.len()) * depth];
        let mut have = 0;
        self.ask(depth)?;
        let mut running = depth;
        while running > 0 {
            let count = self.stream.read(&mut received[have..]).context("nbd")?;
            if count == 0 {
                return Err(Error::new(ErrorKind::Closed, "nbd: the server has gone"));
            }
            have += count;
            let replies = self.whole_replies(&received[..have])?;
            received.copy_within(replies.bytes..have, 0);
            have -= replies.bytes;
            shared.answered(replies.count as u64, replies.failed);
            running -= replies.count;
            if !shared.is_over() {
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
            let data = if self.workload.is_write || error.is_some() { 0 } else { self.data.len() };
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
            let command = if self.workload.is_write { Command::Write } else { Command::Read };
            let header = RequestHeader { flags: CommandFlags::EMPTY, command, cookie: 1, offset, length };
            out.extend(header.encode());
            if self.workload.is_write {
                out.extend(&self.data);
            }
        }
        self.stream.write_all(&out).context("nbd")
    }
}
