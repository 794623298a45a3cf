//! CPU time that the server needs for a request over NBD, with one connection and with two. (The client needs more than
//! the server: on two cores it would only measure itself to count requests per second.)

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use block_core::{Error, ErrorKind, Result, ResultExt};
use wire::nbd::{
    ClientFlags, Command as NbdCommand, CommandFlags, ReplyHeader, RequestHeader, SIMPLE_REPLY_BYTES, put_client_flags,
    put_export_name,
};

use crate::{
    Effort,
    disk::make_file,
    figures::Report,
    load::Random,
    processes::{Process, program},
    usage::process_cpu,
};

/// The bytes of the disk that a [`Pipeline`] asks for.
pub(crate) const BYTES: u64 = 64 << 20;
const BLOCK: u32 = 4096;
const DEPTH: usize = 32;
/// Until both sides are at it.
const WARM_UP: Duration = Duration::from_millis(50);
/// Greeting and answer of a server that is asked for its export by name, without the padding.
const GREETING_BYTES: usize = 18 + 10;

pub(crate) fn run(effort: &Effort) -> Result<Report> {
    let image = effort.directory.join("nbd.raw");
    make_file(&image, BYTES)?;
    let mut report = Report::default();
    for _ in 0..effort.rounds {
        for (kind, is_write) in [("read", false), ("write", true)] {
            let mut costs = [0.0; 2];
            for (connections, cost) in (1..).zip(&mut costs) {
                let measured = measure(effort, &image, connections, is_write)?;
                *cost = measured.cpu;
                let plural = if connections == 1 { "" } else { "s" };
                report.add(format!("{kind}, {connections} connection{plural}: CPU"), "us/request", measured.cpu);
                report.add(format!("{kind}, {connections} connection{plural}"), "requests/s", measured.requests);
            }
            report.add(format!("{kind}: CPU, 2 : 1 connections"), "x", costs[1] / costs[0]);
        }
    }
    report
        .note(format!("{BLOCK} bytes at random places of a raw file past the page cache, {DEPTH} requests under way"));
    Ok(report)
}

struct Measured {
    requests: f64,
    /// Microseconds of the server for one request.
    cpu: f64,
}

fn measure(effort: &Effort, image: &Path, connections: u64, is_write: bool) -> Result<Measured> {
    let socket = effort.directory.join("nbd.sock");
    let mut command = Command::new(program("oxtap")?);
    let server = Process::start(command.arg("serve").arg("--socket").arg(&socket).arg(image))?;
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..connections)
        .map(|number| {
            let (pipeline, stop) = (Pipeline::connect(&socket, number, is_write, false)?, stop.clone());
            Ok(thread::spawn(move || pipeline.run(&stop)))
        })
        .collect::<Result<_>>()?;
    thread::sleep(WARM_UP);
    let before = process_cpu(server.pid())?;
    thread::sleep(effort.duration);
    stop.store(true, Ordering::Relaxed);
    let mut answered = 0.0;
    for client in clients {
        answered += f64::from(client.join().expect("a client does not panic")?.all);
    }
    let used = process_cpu(server.pid())? - before;
    Ok(Measured { requests: answered / effort.duration.as_secs_f64(), cpu: used.as_secs_f64() * 1e6 / answered })
}

/// A client that keeps `DEPTH` requests under way, with as little effort as it can.
pub(crate) struct Pipeline {
    stream: UnixStream,
    random: Random,
    is_write: bool,
    may_fail: bool,
    data: Vec<u8>,
}

/// Requests that were answered.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Answered {
    pub(crate) all: u32,
    /// Those of them that failed.
    pub(crate) failed: u32,
}

impl Pipeline {
    pub(crate) fn connect(socket: &Path, number: u64, is_write: bool, may_fail: bool) -> Result<Pipeline> {
        let mut stream = UnixStream::connect(socket).context(socket.display())?;
        let mut hello = Vec::new();
        put_client_flags(&mut hello, ClientFlags::FIXED_NEWSTYLE | ClientFlags::NO_ZEROES);
        put_export_name(&mut hello, "bench");
        stream.write_all(&hello).context("nbd")?;
        stream.read_exact(&mut [0; GREETING_BYTES]).context("nbd")?;
        let data = vec![0x5a; BLOCK as usize];
        Ok(Pipeline { stream, random: Random::new(number + 1), is_write, may_fail, data })
    }

    /// Runs until it is told to stop.
    pub(crate) fn run(mut self, stop: &AtomicBool) -> Result<Answered> {
        let mut answered = Answered::default();
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
            let (now, used) = self.replies(&received[..have])?;
            received.copy_within(used..have, 0);
            have -= used;
            answered = Answered { all: answered.all + now.all, failed: answered.failed + now.failed };
            running -= now.all as usize;
            if !stop.load(Ordering::Relaxed) {
                self.ask(now.all as usize)?;
                running += now.all as usize;
            }
        }
        Ok(answered)
    }

    fn ask(&mut self, count: usize) -> Result<()> {
        let mut out = Vec::new();
        for _ in 0..count {
            let offset = self.random.next() % (BYTES / u64::from(BLOCK)) * u64::from(BLOCK);
            let command = if self.is_write { NbdCommand::Write } else { NbdCommand::Read };
            let header = RequestHeader { flags: CommandFlags::EMPTY, command, cookie: 1, offset, length: BLOCK };
            out.extend(header.encode());
            if self.is_write {
                out.extend(&self.data);
            }
        }
        self.stream.write_all(&out).context("nbd")
    }

    /// What whole replies say, and how many bytes those are.
    fn replies(&self, bytes: &[u8]) -> Result<(Answered, usize)> {
        let (mut answered, mut used) = (Answered::default(), 0);
        while let Some((header, length)) = ReplyHeader::decode(&bytes[used..])? {
            let has_failed = match header {
                ReplyHeader::Simple { error: None, .. } => false,
                ReplyHeader::Simple { .. } if self.may_fail => true,
                other => return Err(Error::new(ErrorKind::Io, format!("nbd: {other:?}"))),
            };
            let data = if self.is_write || has_failed { 0 } else { BLOCK as usize };
            if bytes.len() < used + length + data {
                break;
            }
            used += length + data;
            answered = Answered { all: answered.all + 1, failed: answered.failed + u32::from(has_failed) };
        }
        Ok((answered, used))
    }
}
