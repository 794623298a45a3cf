//! Bytes with holes, cheap to copy: what is equal in two images is one memory.

use std::{collections::BTreeMap, sync::Arc};

const CHUNK: usize = 4096;

type Chunk = [u8; CHUNK];

/// The content of a storage. A chunk that is not there is zeroes; bytes behind the end are zeroes in every chunk.
#[derive(Clone, Default)]
pub(super) struct Image {
    chunks: BTreeMap<u64, Arc<Chunk>>,
    length: u64,
}

impl Image {
    pub(super) fn new(length: u64) -> Self {
        let chunks = BTreeMap::new();
        Image { chunks, length }
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Self {
        let mut image = Image::new(bytes.len() as u64);
        for (index, chunk) in (0..).zip(bytes.chunks(CHUNK)) {
            if chunk.iter().any(|byte| *byte != 0) {
                image.write(index * CHUNK as u64, chunk);
            }
        }
        image
    }

    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Cuts or extends it.
    pub(super) fn set_length(&mut self, length: u64) {
        if length < self.length {
            self.zero(length, self.length);
        }
        self.length = length;
    }

    /// Fills `out` from `offset`, which is inside with all that follows.
    pub(super) fn read(&self, offset: u64, out: &mut [u8]) {
        for (chunk, from, part) in pieces(offset, out.len()) {
            let out = &mut out[part.clone()];
            match self.chunks.get(&chunk) {
                Some(chunk) => out.copy_from_slice(&chunk[from..from + part.len()]),
                None => out.fill(0),
            }
        }
    }

    /// Writes what of `bytes` lies before the end.
    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) {
        let room = index(self.length.saturating_sub(offset).min(bytes.len() as u64));
        for (chunk, from, part) in pieces(offset, room) {
            let chunk = self.chunks.entry(chunk).or_insert_with(|| Arc::new([0; CHUNK]));
            Arc::make_mut(chunk)[from..from + part.len()].copy_from_slice(&bytes[part]);
        }
    }

    /// Makes the bytes from `start` to `end` zeroes.
    pub(super) fn zero(&mut self, start: u64, end: u64) {
        let end = end.min(self.length);
        let covered = start.div_ceil(CHUNK as u64)..end / CHUNK as u64;
        if covered.is_empty() {
            return self.zero_inside(start, end);
        }
        self.zero_inside(start, covered.start * CHUNK as u64);
        self.zero_inside(covered.end * CHUNK as u64, end);
        let gone: Vec<u64> = self.chunks.range(covered).map(|(chunk, _)| *chunk).collect();
        for chunk in gone {
            self.chunks.remove(&chunk);
        }
    }

    /// Zeroes a run that covers no whole chunk.
    fn zero_inside(&mut self, start: u64, end: u64) {
        for (chunk, from, part) in pieces(start, index(end.saturating_sub(start))) {
            if let Some(chunk) = self.chunks.get_mut(&chunk) {
                Arc::make_mut(chunk)[from..from + part.len()].fill(0);
            }
        }
    }

    pub(super) fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; index(self.length)];
        self.read(0, &mut bytes);
        bytes
    }
}

/// The parts of a run that lie in one chunk each: chunk, where in it, where in the run.
fn pieces(offset: u64, length: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == length {
            return None;
        }
        let position = offset + done as u64;
        let from = index(position % CHUNK as u64);
        let count = (CHUNK - from).min(length - done);
        done += count;
        Some((position / CHUNK as u64, from, done - count..done))
    })
}

fn index(position: u64) -> usize {
    usize::try_from(position).expect("images in memory are smaller than the address space")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_holds_what_an_array_would() {
        let mut image = Image::new(20_000);
        let mut array = vec![0_u8; 20_000];
        let mut random = 1_u64;
        for step in 0_u8..250 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let start = index(random >> 33) % 20_000;
            let end = (start + index(random >> 20) % 9000).min(array.len());
            match step % 5 {
                0 => {
                    image.zero(start as u64, end as u64);
                    array.iter_mut().take(end).skip(start).for_each(|byte| *byte = 0);
                }
                1 => {
                    let length = 10_000 + start / 2;
                    image.set_length(length as u64);
                    array.resize(length, 0);
                }
                _ if start < end => {
                    image.write(start as u64, &vec![step; end - start]);
                    array[start..end].fill(step);
                }
                _ => {}
            }
            assert_eq!(image.to_vec(), array);
            assert_eq!(Image::from_bytes(&array).to_vec(), array);
        }
    }

    #[test]
    fn a_copy_is_not_changed_with_the_original() {
        let mut image = Image::from_bytes(&[1; 8192]);
        let copy = image.clone();
        image.write(0, &[2; 512]);
        image.set_length(4096);
        assert_eq!(copy.to_vec(), [1; 8192]);
        assert_eq!(image.to_vec()[..512], [2; 512]);
    }
}
