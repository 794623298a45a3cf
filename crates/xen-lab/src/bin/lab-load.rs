//! `lab-load`: what a guest of the lab does with a disk. It writes and reads past the page cache, several requests at a time,
//! and checks each byte that it reads against what it has written.
//!
//! ```text
//!   disk  | worker 0: slot slot slot .. | worker 1: slot slot slot .. | ..
//! ```
//!
//! Each worker has a stripe of its own and one request under way. A slot is written as a whole; its words are made of the
//! worker, the slot and a version that grows, so that a write that comes late is seen: it takes an older version back. A write
//! that has failed may have happened in part: sectors of that slot may be of either version until it is written again.

#![forbid(unsafe_code)]

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use rustix::fs::OFlags;

const SECTOR: usize = 512;
/// What any device wants buffers to begin at.
const ALIGNMENT: usize = 4096;
/// One in so many requests is followed by a flush.
const FLUSH_EVERY: u64 = 64;

/// Writes and reads a disk, several requests at a time, and checks what it reads.
///
/// The exit status is 0 if all is as it should be, 3 if something else was read than had been written, 4 if requests have failed
/// that should not have, or none has that should.
#[derive(Parser)]
#[command(name = "lab-load", version)]
struct Arguments {
    /// The disk.
    disk: PathBuf,
    /// How many requests are under way at once.
    #[arg(long, default_value_t = 8)]
    depth: usize,
    /// How large they are, in KiB.
    #[arg(long, default_value_t = 64, value_name = "KIB")]
    request: usize,
    /// How much of the disk is used, in MiB.
    #[arg(long, default_value_t = 16, value_name = "MIB")]
    span: usize,
    /// End after so many requests of each worker.
    #[arg(long, default_value_t = u64::MAX, value_name = "COUNT")]
    requests: u64,
    /// End as soon as there is such a file.
    #[arg(long, value_name = "FILE")]
    until: Option<PathBuf>,
    /// Each worker ends with its first request that fails; all have to.
    #[arg(long)]
    to_failure: bool,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            println!("lab-load: {error:#}");
            ExitCode::from(3)
        }
    }
}

fn run(arguments: &Arguments) -> Result<u8> {
    let slot = arguments.request << 10;
    let slots = (arguments.span << 20).checked_div(slot * arguments.depth).unwrap_or_default();
    ensure!(slots > 0, "no room for {} requests of {slot} bytes", arguments.depth);
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(OFlags::DIRECT.bits().cast_signed());
    let disk = options.open(&arguments.disk).with_context(|| arguments.disk.display().to_string())?;
    let told: Vec<Result<Told>> = thread::scope(|scope| {
        let workers = (0..arguments.depth).map(|number| {
            let worker = Worker::new(&disk, number as u64, slot, slots);
            scope.spawn(move || worker.work(arguments))
        });
        let workers: Vec<_> = workers.collect();
        workers.into_iter().map(|worker| worker.join().expect("a worker does not panic")).collect()
    });
    let told: Vec<Told> = told.into_iter().collect::<Result<_>>()?;
    let sum = |of: fn(&Told) -> u64| told.iter().map(of).sum::<u64>();
    let longest = told.iter().map(|told| told.longest).max().unwrap_or_default();
    println!(
        "lab-load: writes={} reads={} flushes={} failed={} longest_ms={} kib={} depth={}",
        sum(|told| told.writes),
        sum(|told| told.reads),
        sum(|told| told.flushes),
        sum(|told| told.failed),
        longest.as_millis(),
        arguments.request,
        arguments.depth
    );
    if let Some(error) = told.iter().find_map(|told| told.error.as_ref()) {
        println!("lab-load: a request has failed: {error}");
    }
    let is_well = match arguments.to_failure {
        true => told.iter().all(|told| told.failed > 0),
        false => told.iter().all(|told| told.failed == 0),
    };
    Ok(if is_well { 0 } else { 4 })
}

/// What has come of a worker's requests.
#[derive(Debug, Default)]
struct Told {
    writes: u64,
    reads: u64,
    flushes: u64,
    failed: u64,
    /// How long a request took at most.
    longest: Duration,
    error: Option<io::Error>,
}

/// Who has a stripe of the disk.
struct Worker<'a> {
    disk: &'a File,
    number: u64,
    slot: usize,
    /// Of each slot, the versions that its sectors may have; none: anything.
    versions: Vec<Vec<u64>>,
    next_version: u64,
    random: u64,
    buffer: Aligned,
    told: Told,
}

impl<'a> Worker<'a> {
    fn new(disk: &'a File, number: u64, slot: usize, slots: usize) -> Worker<'a> {
        Worker {
            disk,
            number,
            slot,
            versions: vec![Vec::new(); slots],
            next_version: 1,
            random: 0x9e37_79b9_7f4a_7c15 ^ (number + 1),
            buffer: Aligned::new(slot),
            told: Told::default(),
        }
    }

    /// Works until it is to end, and reads everything once more.
    fn work(mut self, arguments: &Arguments) -> Result<Told> {
        let is_over = |path: &Path| path.exists();
        for turn in 0..arguments.requests {
            if arguments.until.as_deref().is_some_and(is_over) || (self.told.failed > 0 && arguments.to_failure) {
                break;
            }
            let at = usize::try_from(self.draw() % self.versions.len() as u64).expect("it is below a length");
            match self.draw().is_multiple_of(2) {
                true => self.write(at),
                false => self.read(at)?,
            }
            if turn % FLUSH_EVERY == FLUSH_EVERY - 1 {
                self.told.flushes += 1;
                self.timed(|worker| worker.disk.sync_data());
            }
        }
        if self.told.failed == 0 {
            (0..self.versions.len()).try_for_each(|at| self.read(at))?;
        }
        Ok(self.told)
    }

    fn write(&mut self, at: usize) {
        let version = self.next_version;
        self.next_version += 1;
        self.told.writes += 1;
        let seed = self.seed(at, version);
        fill(self.buffer.bytes(), seed);
        let offset = self.offset(at);
        if self.timed(|worker| worker.disk.write_all_at(worker.buffer.bytes(), offset)) {
            self.versions[at] = vec![version];
        } else if !self.versions[at].is_empty() {
            self.versions[at].push(version);
        }
    }

    fn read(&mut self, at: usize) -> Result<()> {
        self.told.reads += 1;
        let offset = self.offset(at);
        if !self.timed(|worker| worker.disk.read_exact_at(worker.buffer.bytes(), offset)) {
            return Ok(());
        }
        let seeds: Vec<u64> = self.versions[at].iter().map(|version| self.seed(at, *version)).collect();
        if seeds.is_empty() {
            return Ok(());
        }
        for (sector, bytes) in self.buffer.bytes().chunks(SECTOR).enumerate() {
            if !seeds.iter().any(|seed| is_filled(bytes, *seed, sector * SECTOR)) {
                let versions = &self.versions[at];
                let place = offset + (sector * SECTOR) as u64;
                bail!(
                    "the sector at {place} is of none of the versions {versions:?} that worker {} wrote",
                    self.number
                );
            }
        }
        Ok(())
    }

    /// Does something that takes time and may fail; whether it has not.
    fn timed(&mut self, request: impl Fn(&mut Self) -> io::Result<()>) -> bool {
        let begin = Instant::now();
        let done = request(self);
        self.told.longest = self.told.longest.max(begin.elapsed());
        let Err(error) = done else { return true };
        self.told.failed += 1;
        self.told.error.get_or_insert(error);
        false
    }

    fn offset(&self, at: usize) -> u64 {
        (self.number * self.versions.len() as u64 + at as u64) * self.slot as u64
    }

    fn seed(&self, at: usize, version: u64) -> u64 {
        mixed(mixed(self.number + 1) ^ mixed(at as u64 + 1) ^ version)
    }

    fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed(self.random)
    }
}

/// A number that looks unlike another's.
fn mixed(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

fn word(seed: u64, position: usize) -> [u8; 8] {
    seed.wrapping_mul(position as u64 | 1).rotate_left(17).to_le_bytes()
}

fn fill(bytes: &mut [u8], seed: u64) {
    let words = bytes.chunks_exact_mut(8).enumerate();
    words.for_each(|(index, bytes)| bytes.copy_from_slice(&word(seed, index * 8)));
}

/// Whether bytes are what `fill` makes of this seed, from a position on.
fn is_filled(bytes: &[u8], seed: u64, position: usize) -> bool {
    bytes.chunks_exact(8).enumerate().all(|(index, bytes)| *bytes == word(seed, position + index * 8))
}

/// Bytes that begin where devices want them to.
struct Aligned {
    room: Vec<u8>,
    start: usize,
    length: usize,
}

impl Aligned {
    fn new(length: usize) -> Aligned {
        let room = vec![0; length + ALIGNMENT];
        let start = room.as_ptr().align_offset(ALIGNMENT);
        Aligned { room, start, length }
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.room[self.start..self.start + self.length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOT: usize = 8192;

    fn disk() -> File {
        let disk = tempfile::tempfile().unwrap();
        disk.set_len(1 << 20).unwrap();
        disk
    }

    #[test]
    fn an_older_version_is_seen() {
        let disk = disk();
        let mut worker = Worker::new(&disk, 3, SLOT, 4);
        worker.write(2);
        let mut older = vec![0; SECTOR];
        disk.read_exact_at(&mut older, worker.offset(2) + 1024).unwrap();
        worker.write(2);
        worker.read(2).unwrap();
        disk.write_all_at(&older, worker.offset(2) + 1024).unwrap();
        let place = worker.offset(2) + 1024;
        assert!(worker.read(2).unwrap_err().to_string().contains(&format!("the sector at {place}")));
    }

    #[test]
    fn each_sector_of_a_write_that_failed_may_be_old_or_new() {
        let disk = disk();
        let mut worker = Worker::new(&disk, 0, SLOT, 1);
        worker.write(0);
        let mut newer = vec![0; SLOT];
        fill(&mut newer, worker.seed(0, 2));
        disk.write_all_at(&newer[512..1024], 512).unwrap();
        worker.read(0).unwrap_err();
        worker.versions[0].push(2);
        worker.read(0).unwrap();
        disk.write_all_at(&[7; SECTOR], 512).unwrap();
        worker.read(0).unwrap_err();
    }

    #[test]
    fn workers_do_not_share_a_byte() {
        let disk = disk();
        let of = |number| Worker::new(&disk, number, SLOT, 4);
        assert_eq!((of(0).offset(3) + SLOT as u64, of(1).offset(0)), (of(1).offset(0), 4 * SLOT as u64));
    }
}
