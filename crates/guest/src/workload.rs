//! Work for a disk that is checked: blocks with stamps, which are read back, also by another kernel.
//!
//! ```text
//!   a block: | "oxtapwrk" | seed | block | generation | numbers that follow from these ... |
//! ```
//!
//! Of each block it is known which generation must be there. A write without an answer may have happened or not: both
//! are right, until somebody has looked. Of a block that nobody has written yet anything may be there, but not a half of
//! one of ours.

use std::{
    cell::{Cell, RefCell},
    fmt,
    rc::Rc,
};

use block_core::{Error, ErrorKind, Result};
use futures_util::future::join_all;
use storage_io::Signal;

use crate::{Device, DiskProperties};

/// Bytes of a block.
pub const BLOCK_BYTES: usize = 4096;
const BLOCK_SECTORS: usize = BLOCK_BYTES / 512;
const MAGIC: u64 = u64::from_be_bytes(*b"oxtapwrk");
/// Blocks that are worked on, at most: 64 MiB.
const BLOCKS_MAX: u64 = 16 << 10;
/// One of so many requests is a flush.
const FLUSH_EVERY: u64 = 64;

/// How much is asked at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Requests that run at a time.
    pub depth: usize,
    /// Blocks of one request, at most.
    pub blocks_max: usize,
    /// Nothing is written.
    pub read_only: bool,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace { depth: 16, blocks_max: 16, read_only: false }
    }
}

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Reads that were answered and right.
    pub reads: u64,
    /// Writes that were answered.
    pub writes: u64,
    /// Flushes that were answered.
    pub flushes: u64,
    /// Bytes of these reads.
    pub read_bytes: u64,
    /// Bytes of these writes.
    pub written_bytes: u64,
    /// Requests without an answer, because the disk was left.
    pub unanswered: u64,
}

impl Done {
    /// Requests with an answer.
    pub fn requests(&self) -> u64 {
        self.reads + self.writes + self.flushes
    }
}

/// What is known of a block.
#[derive(Clone, Debug, Default)]
struct Block {
    /// The generation that was answered last; none if nobody has written it.
    settled: Option<u64>,
    /// Generations that may have been written since.
    perhaps: Vec<u64>,
    /// Somebody works on it.
    is_busy: bool,
}

/// Stamped blocks of one disk. Clones are the same; it outlives the devices that it is used with.
#[derive(Clone, Debug)]
pub struct Workload(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    seed: u64,
    random: Cell<u64>,
    generation: Cell<u64>,
    blocks: RefCell<Vec<Block>>,
    free: Signal,
    done: Cell<Done>,
    /// Nothing more is asked.
    is_stopped: Cell<bool>,
}

impl Workload {
    /// Work for a disk, the same for the same seed.
    pub fn new(seed: u64, disk: &DiskProperties) -> Workload {
        let count = (disk.sectors / BLOCK_SECTORS as u64).min(BLOCKS_MAX);
        let blocks = vec![Block::default(); usize::try_from(count).expect("few")];
        Workload(Rc::new(Inner {
            seed,
            random: Cell::new(seed | 1),
            generation: Cell::new(0),
            blocks: RefCell::new(blocks),
            free: Signal::new(),
            done: Cell::default(),
            is_stopped: Cell::new(false),
        }))
    }

    /// What was done until now.
    pub fn done(&self) -> Done {
        self.0.done.get()
    }

    /// Ends when so many requests have an answer, since the beginning.
    pub async fn until(&self, requests: u64) {
        self.0.free.until(|| self.0.done.get().requests() >= requests).await;
    }

    /// Has whoever runs it end with the requests that are under way.
    pub fn stop(&self) {
        self.0.is_stopped.set(true);
    }

    /// Reads and writes, so many requests in all; ends early when the disk is left, or when it is told to
    /// [`stop`](Self::stop). A caller that drops it leaves what is under way to whatever becomes of the disk: pages of the
    /// guest are not used again.
    ///
    /// # Errors
    /// A request that failed, or `Mismatch` for bytes that should not be there.
    pub async fn run(&self, device: &Device, requests: u64, pace: Pace) -> Result<()> {
        self.0.is_stopped.set(false);
        let left = Cell::new(requests);
        let lane = async || {
            while left.get() > 0 && !self.0.is_stopped.get() {
                left.set(left.get() - 1);
                if !self.step(device, pace).await? {
                    break;
                }
            }
            Ok(())
        };
        join_all((0..pace.depth).map(|_| lane())).await.into_iter().collect()
    }

    /// One request; false if the disk was left before it was answered.
    async fn step(&self, device: &Device, pace: Pace) -> Result<bool> {
        let word = self.random();
        let mut asked = Asked { workload: self, has_answer: false };
        let answered = self.ask(device, pace, word).await;
        asked.has_answer = !matches!(answered, Ok(false));
        answered
    }

    async fn ask(&self, device: &Device, pace: Pace, word: u64) -> Result<bool> {
        if !pace.read_only && word.is_multiple_of(FLUSH_EVERY) && device.disk().is_some_and(|disk| disk.flush) {
            return self.told(device.flush().await, |done| done.flushes += 1);
        }
        let taken = self.take_blocks(pace.blocks_max).await;
        if pace.read_only || word & 1 << 32 == 0 {
            self.read(device, &taken).await
        } else {
            self.write(device, &taken).await
        }
    }

    async fn read(&self, device: &Device, taken: &Taken<'_>) -> Result<bool> {
        let read = device.read(taken.sector(), taken.count * BLOCK_SECTORS).await;
        let checked = match &read {
            Ok(bytes) => self.check(taken.first, bytes),
            Err(_) => Ok(()),
        };
        let bytes = (taken.count * BLOCK_BYTES) as u64;
        let told = self.told(read.map(drop), |done| {
            done.reads += 1;
            done.read_bytes += bytes;
        });
        checked.and(told)
    }

    async fn write(&self, device: &Device, taken: &Taken<'_>) -> Result<bool> {
        let generation = self.0.generation.get() + 1;
        self.0.generation.set(generation);
        let mut bytes = Vec::with_capacity(taken.count * BLOCK_BYTES);
        for index in taken.first..taken.first + taken.count {
            bytes.extend_from_slice(&*self.stamped(index, generation));
            self.0.blocks.borrow_mut()[index].perhaps.push(generation);
        }
        let written = device.write(taken.sector(), &bytes).await;
        if written.is_ok() {
            for block in &mut self.0.blocks.borrow_mut()[taken.first..taken.first + taken.count] {
                *block = Block { settled: Some(generation), perhaps: Vec::new(), is_busy: true };
            }
        }
        let length = bytes.len() as u64;
        self.told(written, |done| {
            done.writes += 1;
            done.written_bytes += length;
        })
    }

    /// Counts what became of a request; false if it has no answer.
    fn told(&self, result: Result<()>, count: impl FnOnce(&mut Done)) -> Result<bool> {
        let mut done = self.0.done.get();
        let answered = match result {
            Ok(()) => {
                count(&mut done);
                true
            }
            Err(error) if error.kind() == ErrorKind::Closed => false,
            Err(error) => return Err(error),
        };
        self.0.done.set(done);
        Ok(answered)
    }

    /// Reads everything back; says how many blocks there are.
    ///
    /// # Errors
    /// A request that failed, or `Mismatch` for bytes that should not be there.
    pub async fn verify(&self, device: &Device, pace: Pace) -> Result<u64> {
        let count = self.0.blocks.borrow().len();
        let next = Cell::new(0);
        let lane = async || {
            while next.get() < count {
                let first = next.get();
                let length = pace.blocks_max.min(count - first);
                next.set(first + length);
                let bytes = device.read((first * BLOCK_SECTORS) as u64, length * BLOCK_SECTORS).await?;
                self.check(first, &bytes)?;
            }
            Ok::<(), Error>(())
        };
        join_all((0..pace.depth).map(|_| lane())).await.into_iter().collect::<Result<()>>()?;
        Ok(count as u64)
    }

    /// What the first bytes of the disk must be, for somebody else who reads them: blocks that were written as they are
    /// known, the others zero, as in a new image. None if of some block it is not known: nobody has looked since a request
    /// without an answer.
    pub fn content(&self) -> Option<Vec<u8>> {
        let blocks = self.0.blocks.borrow();
        let mut bytes = vec![0; blocks.len() * BLOCK_BYTES];
        for (index, (block, bytes)) in blocks.iter().zip(bytes.chunks_exact_mut(BLOCK_BYTES)).enumerate() {
            if !block.perhaps.is_empty() {
                return None;
            }
            if let Some(generation) = block.settled {
                bytes.copy_from_slice(&*self.stamped(index, generation));
            }
        }
        Some(bytes)
    }

    fn check(&self, first: usize, bytes: &[u8]) -> Result<()> {
        let mut blocks = self.0.blocks.borrow_mut();
        for (offset, bytes) in bytes.chunks_exact(BLOCK_BYTES).enumerate() {
            let index = first + offset;
            let block = &mut blocks[index];
            let found = Stamp::of(bytes).filter(|stamp| stamp.seed == self.0.seed);
            let generation = found.filter(|stamp| stamp.block == index as u64).map(|stamp| stamp.generation);
            let is_whole = generation.is_some_and(|generation| *bytes == *self.stamped(index, generation));
            let is_expected = match (block.settled, generation) {
                _ if is_whole && generation.is_some_and(|generation| block.perhaps.contains(&generation)) => true,
                (Some(settled), Some(generation)) => is_whole && generation == settled,
                (Some(_), None) => false,
                // Nobody knows what was there before; a stamp of ours must be whole.
                (None, _) => found.is_none() || is_whole,
            };
            if !is_expected {
                let expected = Expected { block, index, found };
                return Err(Error::new(ErrorKind::Mismatch, expected.to_string()));
            }
            // Somebody has looked.
            block.perhaps.clear();
            if let Some(generation) = generation {
                block.settled = Some(generation);
                // A new process goes on where the one before has stopped.
                self.0.generation.set(self.0.generation.get().max(generation));
            }
        }
        Ok(())
    }

    fn stamped(&self, index: usize, generation: u64) -> Box<[u8; BLOCK_BYTES]> {
        let mut bytes = Box::new([0; BLOCK_BYTES]);
        let mut words = bytes.as_chunks_mut::<8>().0.iter_mut();
        let head = [MAGIC, self.0.seed, index as u64, generation];
        words.by_ref().zip(head).for_each(|(bytes, word)| *bytes = word.to_be_bytes());
        let mut word = head.into_iter().fold(1, |word, part| mix(word ^ part));
        for bytes in words {
            word = mix(word);
            *bytes = word.to_be_bytes();
        }
        bytes
    }

    /// Some blocks that nobody else works on.
    async fn take_blocks(&self, blocks_max: usize) -> Taken<'_> {
        let (first, count) = self.0.free.find(|| self.find_free(blocks_max)).await;
        Taken { workload: self, first, count }
    }

    fn find_free(&self, blocks_max: usize) -> Option<(usize, usize)> {
        let mut blocks = self.0.blocks.borrow_mut();
        let below = |word: u64, end: usize| usize::try_from(word % end as u64).expect("less than a length");
        let start = below(self.random(), blocks.len());
        let wanted = below(self.random(), blocks_max) + 1;
        let first = (start..blocks.len()).chain(0..start).find(|index| !blocks[*index].is_busy)?;
        let count = blocks[first..].iter().take(wanted).take_while(|block| !block.is_busy).count();
        blocks[first..first + count].iter_mut().for_each(|block| block.is_busy = true);
        Some((first, count))
    }

    fn random(&self) -> u64 {
        let next = mix(self.0.random.get());
        self.0.random.set(next);
        next
    }
}

/// A request that may be given up with its kernel.
struct Asked<'a> {
    workload: &'a Workload,
    has_answer: bool,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        if !self.has_answer {
            let done = self.workload.0.done.get();
            self.workload.0.done.set(Done { unanswered: done.unanswered + 1, ..done });
        }
    }
}

/// Blocks that are worked on.
struct Taken<'a> {
    workload: &'a Workload,
    first: usize,
    count: usize,
}

impl Taken<'_> {
    fn sector(&self) -> u64 {
        (self.first * BLOCK_SECTORS) as u64
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let inner = &self.workload.0;
        inner.blocks.borrow_mut()[self.first..self.first + self.count]
            .iter_mut()
            .for_each(|block| block.is_busy = false);
        inner.free.notify();
    }
}

/// Whose block it says that it is.
#[derive(Clone, Copy, Debug)]
struct Stamp {
    seed: u64,
    block: u64,
    generation: u64,
}

impl Stamp {
    fn of(bytes: &[u8]) -> Option<Stamp> {
        let words = bytes.as_chunks::<8>().0;
        let word = |index: usize| u64::from_be_bytes(words[index]);
        (word(0) == MAGIC).then(|| Stamp { seed: word(1), block: word(2), generation: word(3) })
    }
}

/// What should have been there, in words.
struct Expected<'a> {
    block: &'a Block,
    index: usize,
    found: Option<Stamp>,
}

impl fmt::Display for Expected<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "block {}: generation {:?}", self.index, self.block.settled.unwrap_or(0))?;
        if !self.block.perhaps.is_empty() {
            write!(f, " or one of {:?}", self.block.perhaps)?;
        }
        match self.found {
            Some(stamp) => {
                write!(f, " was written, and there is block {} generation {}", stamp.block, stamp.generation)
            }
            None => f.write_str(" was written, and there is something else"),
        }
    }
}

/// The next of numbers that look random.
fn mix(word: u64) -> u64 {
    let word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ word >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    const DISK: DiskProperties = DiskProperties {
        sectors: 64,
        logical_block_size: 512,
        physical_block_size: 512,
        read_only: false,
        is_cdrom: false,
        flush: false,
        barrier: false,
        discard: false,
        secure_discard: false,
        persistent: false,
    };

    #[test]
    fn a_block_is_right_if_it_holds_what_was_answered_last() {
        let work = Workload::new(7, &DISK);
        work.0.blocks.borrow_mut()[3].settled = Some(2);
        work.check(3, &*work.stamped(3, 2)).unwrap();
        for wrong in
            [work.stamped(3, 1), work.stamped(4, 2), Workload::new(8, &DISK).stamped(3, 2), Box::new([0; 4096])]
        {
            assert_eq!(work.check(3, &*wrong).unwrap_err().kind(), ErrorKind::Mismatch);
        }
    }

    #[test]
    fn a_write_without_an_answer_may_have_happened_until_somebody_has_looked() {
        let work = Workload::new(7, &DISK);
        work.0.blocks.borrow_mut()[3] = Block { settled: Some(2), perhaps: vec![3, 4], is_busy: false };
        work.check(3, &*work.stamped(3, 4)).unwrap();
        let error = work.check(3, &*work.stamped(3, 3)).unwrap_err();
        assert_eq!(error.to_string(), "block 3: generation 4 was written, and there is block 3 generation 3");
    }

    #[test]
    fn the_content_is_known_once_somebody_has_looked() {
        let work = Workload::new(7, &DISK);
        work.0.blocks.borrow_mut()[3] = Block { settled: Some(2), perhaps: vec![3], is_busy: false };
        work.0.blocks.borrow_mut()[4] = Block { settled: None, perhaps: vec![4], is_busy: false };
        assert_eq!(work.content(), None);
        work.check(3, &*work.stamped(3, 2)).unwrap();
        assert_eq!(work.content(), None);
        work.check(4, &[0; BLOCK_BYTES]).unwrap();
        let content = work.content().unwrap();
        assert_eq!(content.len(), 64 * 512);
        assert_eq!(content[3 * BLOCK_BYTES..4 * BLOCK_BYTES], *work.stamped(3, 2));
        assert!(content[..3 * BLOCK_BYTES].iter().chain(&content[4 * BLOCK_BYTES..]).all(|byte| *byte == 0));
    }

    #[test]
    fn nothing_is_known_of_a_block_that_nobody_has_written_but_half_of_ours_is_wrong() {
        let work = Workload::new(7, &DISK);
        work.check(0, &[9; BLOCK_BYTES]).unwrap();
        let mut torn = work.stamped(0, 1);
        torn[4095] ^= 1;
        assert!(work.check(0, &*torn).is_err());
        work.check(0, &*work.stamped(0, 5)).unwrap();
        assert_eq!(work.0.generation.get(), 5, "a new process goes on from there");
    }

    #[test]
    fn two_never_work_on_one_block() {
        let work = Workload::new(7, &DISK);
        let mut taken = [0; 8];
        while let Some((first, count)) = work.find_free(3) {
            taken[first..first + count].iter_mut().for_each(|times| *times += 1);
        }
        assert_eq!(taken, [1; 8]);
    }
}
