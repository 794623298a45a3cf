//! Verified I/O: a few connections write, zero, discard and read back, while the disk is paused and resumed.
//!
//! Each connection owns every n-th megabyte of the playground, so that it always knows what it must read.

use std::{
    ops::Range,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use block_core::{Result, ResultExt};
use control_api::OpenRequest;
use export::nbd::{CommandFlags, client::Client as Nbd};

use super::{
    super::size,
    content::scramble,
    place::{Served, failed},
};

const CONNECTIONS: u64 = 4;
/// A connection owns runs of this many bytes.
const SHARE: u64 = 1 << 20;
const REQUEST_BYTES_MAX: u64 = 256 << 10;
/// Bytes of one request while a disk is copied.
const COPY_BYTES: usize = 1 << 20;
/// Rest between two pauses.
const PAUSE_EVERY: Duration = Duration::from_millis(250);

/// What copying a disk took.
pub(super) struct Copied {
    bytes: u64,
    time: Duration,
}

impl Copied {
    pub(super) fn describe(&self) -> String {
        let rate = self.bytes as f64 / self.time.as_secs_f64().max(0.001) / f64::from(1 << 20);
        format!(
            "base.vhd, {} written and flushed through tapdisk and NBD ({rate:.0} MiB/s)",
            size::describe(self.bytes)
        )
    }
}

/// Writes what is not zero of a new disk, and flushes.
pub(super) fn copy_in(served: &Served<'_>, bytes: &[u8]) -> Result<Copied> {
    let mut nbd = Nbd::connect_unix(&served.socket(), "")?;
    let started = Instant::now();
    let zeroes = vec![0; COPY_BYTES];
    let mut written = 0;
    for (index, chunk) in bytes.chunks(COPY_BYTES).enumerate() {
        if chunk != &zeroes[..chunk.len()] {
            nbd.write((index * COPY_BYTES) as u64, chunk)?;
            written += chunk.len() as u64;
        }
    }
    nbd.flush()?;
    let copied = Copied { bytes: written, time: started.elapsed() };
    nbd.disconnect()?;
    Ok(copied)
}

/// The work to do.
pub(super) struct Load<'a> {
    pub(super) served: &'a Served<'a>,
    /// The bytes of the disk that are written; all bytes are read.
    pub(super) playground: Range<u64>,
    pub(super) time: Duration,
}

/// What was done.
pub(super) struct Summary {
    requests: u64,
    bytes: u64,
    pauses: u64,
    longest_pause: Duration,
    time: Duration,
}

impl Summary {
    pub(super) fn describe(&self) -> String {
        let seconds = self.time.as_secs_f64().max(0.001);
        format!(
            "{} requests, {} over NBD ({:.0} MiB/s), all as expected; paused and resumed {} times, longest {} ms",
            self.requests,
            size::describe(self.bytes),
            self.bytes as f64 / seconds / f64::from(1 << 20),
            self.pauses,
            self.longest_pause.as_millis()
        )
    }
}

/// What the connections tell each other.
#[derive(Default)]
struct Progress {
    stop: AtomicBool,
    requests: AtomicU64,
    bytes: AtomicU64,
}

impl Load<'_> {
    /// Works on the disk, which holds `model`; gives what it then holds.
    pub(super) fn run(&self, model: Vec<u8>) -> Result<(Vec<u8>, Summary)> {
        let progress = Progress::default();
        let started = Instant::now();
        let mut shares: Vec<Vec<u8>> = Vec::new();
        let pauses = thread::scope(|scope| {
            let workers: Vec<_> = (0..CONNECTIONS)
                .map(|number| {
                    scope.spawn({
                        let (model, progress) = (&model, &progress);
                        move || Worker::new(self, number, model.clone(), progress)?.run()
                    })
                })
                .collect();
            let pauses = self.pause_and_resume(started);
            progress.stop.store(true, Ordering::Relaxed);
            for worker in workers {
                shares.push(worker.join().map_err(|_| failed("a connection's thread panicked"))??);
            }
            pauses
        })?;
        let (requests, bytes) = (progress.requests.into_inner(), progress.bytes.into_inner());
        let summary = Summary { requests, bytes, pauses: pauses.0, longest_pause: pauses.1, time: started.elapsed() };
        Ok((self.merge(model, &shares), summary))
    }

    /// Until the time is over. How often, and the longest.
    fn pause_and_resume(&self, started: Instant) -> Result<(u64, Duration)> {
        let (mut count, mut longest) = (0, Duration::ZERO);
        while started.elapsed() < self.time {
            thread::sleep(PAUSE_EVERY);
            let begun = Instant::now();
            self.served.client.pause(self.served.minor).context("pause")?;
            self.served.client.resume(self.served.minor, &OpenRequest::default()).context("resume")?;
            longest = longest.max(begun.elapsed());
            count += 1;
        }
        Ok((count, longest))
    }

    /// Each connection knows its own share.
    fn merge(&self, mut model: Vec<u8>, shares: &[Vec<u8>]) -> Vec<u8> {
        let shared = model.len() as u64 / SHARE;
        for index in 0..shared {
            let run = to_index(index * SHARE)..to_index((index + 1) * SHARE);
            let owner = to_index(index % CONNECTIONS);
            model[run.clone()].copy_from_slice(&shares[owner][run]);
        }
        model
    }
}

fn request_length(length: u64) -> u32 {
    u32::try_from(length).expect("requests are short")
}

fn to_index(offset: u64) -> usize {
    usize::try_from(offset).expect("the demo's disk fits into memory")
}

/// One connection.
struct Worker<'a> {
    nbd: Nbd,
    playground: Range<u64>,
    number: u64,
    model: Vec<u8>,
    progress: &'a Progress,
    random: u64,
    read: Vec<u8>,
}

impl<'a> Worker<'a> {
    fn new(load: &Load<'_>, number: u64, model: Vec<u8>, progress: &'a Progress) -> Result<Worker<'a>> {
        let nbd = Nbd::connect_unix(&load.served.socket(), "")?;
        let playground = load.playground.clone();
        Ok(Worker { nbd, playground, number, model, progress, random: number << 48, read: Vec::new() })
    }

    /// Works until told to stop, then reads its whole share once more. Its model.
    fn run(mut self) -> Result<Vec<u8>> {
        while !self.progress.stop.load(Ordering::Relaxed) {
            self.step()?;
        }
        for start in (0..self.model.len() as u64).step_by(to_index(SHARE)) {
            if start / SHARE % CONNECTIONS == self.number {
                self.verify(start, SHARE)?;
            }
        }
        self.nbd.flush()?;
        self.nbd.disconnect()?;
        Ok(self.model)
    }

    fn step(&mut self) -> Result<()> {
        let choice = self.draw(10);
        let length = 1 + self.draw(REQUEST_BYTES_MAX);
        // Most guests speak in pages; some do not.
        let length = if self.draw(4) == 0 { length } else { length.next_multiple_of(4096) };
        let range = if choice < 6 { self.playground.clone() } else { 0..self.model.len() as u64 };
        let offset = self.place(range, length);
        match choice {
            0..=3 => self.write(offset, length),
            4 => self.zero(offset, length),
            5 => self.discard(offset, length),
            9 if self.draw(8) == 0 => self.nbd.flush(),
            _ => self.verify(offset, length),
        }?;
        self.progress.requests.fetch_add(1, Ordering::Relaxed);
        self.progress.bytes.fetch_add(length, Ordering::Relaxed);
        Ok(())
    }

    fn draw(&mut self, below: u64) -> u64 {
        self.random += 1;
        scramble(self.random) % below
    }

    /// A place for `length` bytes in a run of this connection's own.
    fn place(&mut self, range: Range<u64>, length: u64) -> u64 {
        let runs = (range.end - range.start) / (SHARE * CONNECTIONS);
        let run = range.start / SHARE + self.draw(runs) * CONNECTIONS + self.number;
        let inside = self.draw(SHARE - length + 1);
        let inside = if length.is_multiple_of(4096) { inside & !4095 } else { inside };
        run * SHARE + inside
    }

    fn own(&mut self, offset: u64, length: u64) -> &mut [u8] {
        &mut self.model[to_index(offset)..to_index(offset + length)]
    }

    fn write(&mut self, offset: u64, length: u64) -> Result<()> {
        let seed = self.draw(u64::MAX);
        for (index, word) in self.own(offset, length).chunks_mut(8).enumerate() {
            let bytes = scramble(seed ^ index as u64).to_le_bytes();
            word.copy_from_slice(&bytes[..word.len()]);
        }
        let flags = if self.draw(16) == 0 { CommandFlags::FUA } else { CommandFlags::EMPTY };
        let bytes = &self.model[to_index(offset)..to_index(offset + length)];
        self.nbd.write_with(flags, offset, bytes)
    }

    fn zero(&mut self, offset: u64, length: u64) -> Result<()> {
        self.own(offset, length).fill(0);
        self.nbd.write_zeroes(CommandFlags::EMPTY, offset, request_length(length))
    }

    /// Afterwards each byte is what it was, or zero: what it is now is what it must stay.
    fn discard(&mut self, offset: u64, length: u64) -> Result<()> {
        self.nbd.trim(offset, request_length(length))?;
        let mut now = vec![0; to_index(length)];
        self.nbd.read(offset, &mut now)?;
        let before = self.own(offset, length);
        if let Some(index) = now.iter().zip(&*before).position(|(now, before)| now != before && *now != 0) {
            return Err(failed(format!("byte {} was made up by a discard", offset + index as u64)));
        }
        before.copy_from_slice(&now);
        Ok(())
    }

    fn verify(&mut self, offset: u64, length: u64) -> Result<()> {
        self.read.resize(to_index(length), 0);
        self.nbd.read(offset, &mut self.read)?;
        let expected = &self.model[to_index(offset)..to_index(offset + length)];
        match self.read.iter().zip(expected).position(|(read, expected)| read != expected) {
            None => Ok(()),
            Some(index) => Err(failed(format!("byte {} is not what was written", offset + index as u64))),
        }
    }
}
