//! A fixed amount of work, for those who count instructions: no clock, no thread, no ring, no randomness.
//!
//! ```text
//!   valgrind --tool=callgrind oxtap-bench count vhd.vhd vhd read 2000 --> instructions, of which
//!                             oxtap-bench count vhd.vhd vhd read 1000 --> are for everything else
//! ```
//!
//! What a request costs is the difference between much and little work, divided by that of the requests: it is the same on
//! every machine with the same compiler. `tests/instructions.rs` compares it with what is written down.

use std::{
    path::PathBuf,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
};

use block_core::{GuestRange, Result, Tag};
use clap::{Args, ValueEnum};
use image_chain::{ChainSpec, ImageKind, ImageName};
use storage_io::{Access, BufferPool, EngineChoice, Executor, Files, LockPolicy};
use virtual_disk::{Disk, Operation, Outcome, Request, RequestSource, Settings};

use crate::{
    disk::{Silent, pool},
    load::Random,
};

/// As many are under way.
const DEPTH: u64 = 32;
const BLOCK: u64 = 4096;
/// Of the disk.
const BYTES: u64 = 4 << 20;
/// Of a request by which the disk is filled.
const FILL: u64 = 128 << 10;

/// `count`.
#[derive(Debug, Args)]
pub(crate) struct Count {
    /// The image, of a disk of 4 MiB, which is filled first.
    image: PathBuf,
    /// Its format.
    format: Kind,
    /// What is done.
    work: Work,
    /// How often.
    requests: u64,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    Raw,
    Vhd,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Work {
    Read,
    Write,
}

pub(crate) fn count(arguments: &Count) -> Result<()> {
    let executor = Executor::new(EngineChoice::Inline)?;
    let kind = match arguments.format {
        Kind::Raw => ImageKind::Raw,
        Kind::Vhd => ImageKind::Vhd,
    };
    let leaf = ImageName::new(kind, arguments.image.clone());
    let spec = ChainSpec { direct: false, lock: LockPolicy::None, ..ChainSpec::new(leaf, Access::Write) };
    let disk = Disk::new(&executor, Rc::new(Files), pool(), Arc::new(Silent));
    executor.block_on(disk.open(spec, Settings::default()))?;
    let queue = disk.queue();
    let fill = Counted::new(queue.pool().clone(), BYTES, FILL, BYTES / FILL, Work::Write, None);
    let work =
        Counted::new(queue.pool().clone(), BYTES, BLOCK, arguments.requests, arguments.work, Some(Random::new(1)));
    let (fill, work) = executor.block_on(async { (queue.serve(fill).await, queue.serve(work).await) });
    assert!(fill.failed + work.failed == 0, "requests failed");
    executor.end_tasks();
    Ok(())
}

/// A source of so many requests.
struct Counted {
    pool: BufferPool,
    bytes: u64,
    block: u64,
    left: u64,
    asked: u64,
    running: u64,
    work: Work,
    /// Where they go; else one behind the other.
    random: Option<Random>,
    failed: u64,
}

impl Counted {
    fn new(pool: BufferPool, bytes: u64, block: u64, left: u64, work: Work, random: Option<Random>) -> Counted {
        Counted { pool, bytes, block, left, asked: 0, running: 0, work, random, failed: 0 }
    }
}

impl RequestSource for Counted {
    fn poll_next(&mut self, _: &mut Context<'_>) -> Poll<Option<Request>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        // Every answer is followed by a question: nobody has to be woken.
        if self.running == DEPTH {
            return Poll::Pending;
        }
        self.left -= 1;
        self.running += 1;
        self.asked += 1;
        let number = self.random.as_mut().map_or(self.asked - 1, Random::next);
        let offset = number % (self.bytes / self.block) * self.block;
        let range = GuestRange::checked(offset, self.block).expect("within the disk");
        let buffer = self.pool.take(usize::try_from(self.block).expect("a block is small"));
        let operation = match self.work {
            Work::Read => Operation::Read { range, buffer },
            Work::Write => Operation::Write { range, buffer, durable: false },
        };
        Poll::Ready(Some(Request { tag: Tag(self.asked), operation }))
    }

    fn answer(&mut self, _: Tag, outcome: Outcome) {
        self.running -= 1;
        self.failed += u64::from(matches!(outcome, Outcome::Failed(_)));
    }

    fn publish(&mut self) {}
}
