//! A disk as an array of bytes: every change that is made through a client is made here too.

use std::ops::Range;

const SECTOR: usize = 512;
/// Sectors of a VHD's block.
const PER_BLOCK: usize = 4096;

/// What the disk must hold, and the commands of qemu-io that have not been run yet.
pub(crate) struct Oracle {
    pub(crate) bytes: Vec<u8>,
    /// Which sectors the leaf has itself.
    in_leaf: Vec<bool>,
    /// Which sectors it may have besides: zeroes over what read as zeroes need no place.
    may_be_in_leaf: Vec<bool>,
    commands: Vec<String>,
    random: u64,
}

impl Oracle {
    pub(crate) fn new(length: usize, seed: u64) -> Oracle {
        let in_leaf = vec![false; length.div_ceil(SECTOR)];
        let may_be_in_leaf = in_leaf.clone();
        Oracle { bytes: vec![0; length], in_leaf, may_be_in_leaf, commands: Vec::new(), random: seed | 1 }
    }

    /// A disk that a parent fills.
    pub(crate) fn filled(length: usize, byte: u8, seed: u64) -> Oracle {
        Oracle { bytes: vec![byte; length], ..Oracle::new(length, seed) }
    }

    /// From now on there is a new leaf, with nothing in it.
    pub(crate) fn snapshot(&mut self) {
        self.in_leaf.fill(false);
        self.may_be_in_leaf.fill(false);
    }

    /// The disk is larger than it seemed.
    pub(crate) fn resize(&mut self, length: usize) {
        self.bytes.resize(length, 0);
        self.in_leaf.resize(length.div_ceil(SECTOR), false);
        self.may_be_in_leaf.resize(length.div_ceil(SECTOR), false);
    }

    fn fill(&mut self, offset: usize, length: usize, byte: u8) {
        self.bytes[offset..offset + length].fill(byte);
        self.in_leaf[offset / SECTOR..(offset + length).div_ceil(SECTOR)].fill(true);
    }

    pub(crate) fn write(&mut self, offset: usize, length: usize, byte: u8) {
        self.fill(offset, length, byte);
        self.commands.push(format!("write -q -P {byte} {offset} {length}"));
    }

    pub(crate) fn zero(&mut self, offset: usize, length: usize) {
        for sector in offset / SECTOR..(offset + length).div_ceil(SECTOR) {
            let bytes = &self.bytes[sector * SECTOR..(sector + 1) * SECTOR];
            self.in_leaf[sector] |= bytes.iter().any(|byte| *byte != 0);
            self.may_be_in_leaf[sector] = true;
        }
        self.bytes[offset..offset + length].fill(0);
        self.commands.push(format!("write -q -z {offset} {length}"));
    }

    /// Gives whole sectors up. What the leaf had reads as zeroes, never as what the parent has there, and a block that
    /// is given up as a whole does so as a whole; where the leaf had nothing, there is nothing to give up. Whoever cannot
    /// tell whether the leaf has any of a whole block cannot tell what becomes of it, and does not ask.
    pub(crate) fn discard(&mut self, offset: usize, length: usize) {
        let (first, end) = (offset / SECTOR, (offset + length) / SECTOR);
        let blocks = (first / PER_BLOCK..end.div_ceil(PER_BLOCK)).map(|block| block * PER_BLOCK);
        let is_open = |block: usize| {
            let all = block..block + PER_BLOCK;
            let is_whole = first <= all.start && all.end <= end;
            is_whole && !self.in_leaf[all.clone()].contains(&true) && self.may_be_in_leaf[all].contains(&true)
        };
        if blocks.clone().any(is_open) {
            return;
        }
        for block in blocks {
            let part = first.max(block)..end.min(block + PER_BLOCK);
            let is_whole = part.len() == PER_BLOCK && self.in_leaf[part.clone()].contains(&true);
            for sector in part {
                if is_whole || self.in_leaf[sector] {
                    self.bytes[sector * SECTOR..(sector + 1) * SECTOR].fill(0);
                    self.in_leaf[sector] = true;
                }
            }
        }
        self.commands.push(format!("discard -q {offset} {length}"));
    }

    /// A number in a range.
    pub(crate) fn pick(&mut self, range: Range<usize>) -> usize {
        // xorshift64: enough to scatter, and the seed repeats it.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let span = u64::try_from(range.end - range.start).unwrap();
        range.start + usize::try_from(self.random % span).unwrap()
    }

    /// A byte that is not zero.
    pub(crate) fn byte(&mut self) -> u8 {
        u8::try_from(self.pick(1..256)).unwrap()
    }

    /// The commands since the last call.
    pub(crate) fn take_commands(&mut self) -> Vec<String> {
        std::mem::take(&mut self.commands)
    }
}
