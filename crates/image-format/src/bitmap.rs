//! Bitmaps as VHD stores them: bit 0 is the most significant bit of byte 0. Kept in 64-bit words in the same order, so
//! that ranges are set and runs are found a word at a time.

use std::ops::Range;

const WORD_BITS: usize = 64;

/// A row of bits that knows its length; bits behind the end read as clear and stay so.
#[derive(Clone, PartialEq, Eq)]
pub struct Bitmap {
    words: Vec<u64>,
    bits: usize,
}

impl Bitmap {
    /// `bits` clear bits.
    pub fn new(bits: usize) -> Self {
        Self { words: vec![0; bits.div_ceil(WORD_BITS)], bits }
    }

    /// The first `bits` bits of `bytes`.
    ///
    /// # Panics
    /// When `bytes` has fewer bits.
    pub fn from_bytes(bytes: &[u8], bits: usize) -> Self {
        assert!(bytes.len() >= bits.div_ceil(8), "a bitmap of {bits} bits was given {} bytes", bytes.len());
        let mut bitmap = Self::new(bits);
        for (word, chunk) in bitmap.words.iter_mut().zip(bytes.chunks(8)) {
            let mut eight = [0; 8];
            eight[..chunk.len()].copy_from_slice(chunk);
            *word = u64::from_be_bytes(eight);
        }
        bitmap.trim();
        bitmap
    }

    /// The bits as bytes, followed by zero bytes up to `length`.
    ///
    /// # Panics
    /// When `length` bytes do not hold all bits.
    pub fn to_bytes(&self, length: usize) -> Vec<u8> {
        assert!(length >= self.bits.div_ceil(8), "{length} bytes do not hold {} bits", self.bits);
        let mut bytes = Vec::with_capacity(self.words.len() * 8);
        for word in &self.words {
            bytes.extend_from_slice(&word.to_be_bytes());
        }
        bytes.resize(length, 0);
        bytes
    }

    /// How many bits it has.
    pub fn bits(&self) -> usize {
        self.bits
    }

    /// Whether bit `index` is set.
    pub fn get(&self, index: usize) -> bool {
        assert!(index < self.bits, "bit {index} of {}", self.bits);
        self.words[index / WORD_BITS] & bit_mask(index) != 0
    }

    /// Sets bit `index`.
    pub fn set(&mut self, index: usize) {
        assert!(index < self.bits, "bit {index} of {}", self.bits);
        self.words[index / WORD_BITS] |= bit_mask(index);
    }

    /// Clears bit `index`.
    pub fn clear(&mut self, index: usize) {
        assert!(index < self.bits, "bit {index} of {}", self.bits);
        self.words[index / WORD_BITS] &= !bit_mask(index);
    }

    /// Sets every bit of `range`.
    pub fn set_range(&mut self, range: Range<usize>) {
        self.for_words(range, |word, mask| *word |= mask);
    }

    /// Clears every bit of `range`.
    pub fn clear_range(&mut self, range: Range<usize>) {
        self.for_words(range, |word, mask| *word &= !mask);
    }

    /// Sets every bit that is set in `other`, which is as long.
    pub fn merge(&mut self, other: &Bitmap) {
        assert_eq!(self.bits, other.bits, "bitmaps of different lengths do not merge");
        for (word, more) in self.words.iter_mut().zip(&other.words) {
            *word |= more;
        }
    }

    /// How many bits are set.
    pub fn count(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether every bit is set.
    pub fn is_full(&self) -> bool {
        self.run_from(0, self.bits) == (self.bits > 0, self.bits)
    }

    /// Whether no bit is set.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|&word| word == 0)
    }

    /// Whether every bit of `range` is set. An empty range has no clear bit.
    pub fn has_all(&self, range: Range<usize>) -> bool {
        range.is_empty() || self.run_from(range.start, range.end) == (true, range.end)
    }

    /// The run of equal bits that begins at `start`: whether they are set, and the index behind the last of them, at
    /// most `end`. From the end itself: a run of no bits.
    pub fn run_from(&self, start: usize, end: usize) -> (bool, usize) {
        assert!(start <= end && end <= self.bits, "bits {start}..{end} of {}", self.bits);
        if start == end {
            return (false, end);
        }
        let is_set = self.get(start);
        let flip = if is_set { !0 } else { 0 };
        let mut index = start / WORD_BITS;
        // What differs from the run is 1 now; bits before the start are none of its business.
        let mut differs = (self.words[index] ^ flip) & (!0 >> (start % WORD_BITS));
        while differs == 0 {
            index += 1;
            if index * WORD_BITS >= end {
                return (is_set, end);
            }
            differs = self.words[index] ^ flip;
        }
        (is_set, end.min(index * WORD_BITS + differs.leading_zeros() as usize))
    }

    /// The runs of equal bits in `range`, in ascending order.
    pub fn runs(&self, range: Range<usize>) -> impl Iterator<Item = (bool, Range<usize>)> + '_ {
        let mut start = range.start;
        std::iter::from_fn(move || {
            (start < range.end).then(|| {
                let (is_set, end) = self.run_from(start, range.end);
                (is_set, std::mem::replace(&mut start, end)..end)
            })
        })
    }

    fn for_words(&mut self, range: Range<usize>, change: impl Fn(&mut u64, u64)) {
        assert!(range.start <= range.end && range.end <= self.bits, "bits {range:?} of {}", self.bits);
        let mut start = range.start;
        while start < range.end {
            let index = start / WORD_BITS;
            let end = range.end.min((index + 1) * WORD_BITS);
            let before_end = match end % WORD_BITS {
                0 => !0,
                bits => !(!0 >> bits),
            };
            change(&mut self.words[index], (!0 >> (start % WORD_BITS)) & before_end);
            start = end;
        }
    }

    /// Clears the bits behind the end, which bytes from elsewhere may have set.
    fn trim(&mut self) {
        let rest = self.bits % WORD_BITS;
        if rest != 0 {
            *self.words.last_mut().expect("a bitmap with a partial word has a word") &= !(!0 >> rest);
        }
    }
}

impl std::fmt::Debug for Bitmap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let set = self.runs(0..self.bits).filter(|(is_set, _)| *is_set).map(|(_, range)| range);
        write!(f, "Bitmap({} bits, set: ", self.bits)?;
        f.debug_list().entries(set).finish()?;
        f.write_str(")")
    }
}

fn bit_mask(index: usize) -> u64 {
    1 << (WORD_BITS - 1 - index % WORD_BITS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bit_zero_is_the_most_significant_of_the_first_byte() {
        let mut bitmap = Bitmap::new(12);
        bitmap.set(0);
        bitmap.set(9);
        assert_eq!(bitmap.to_bytes(4), [0x80, 0x40, 0, 0]);
    }

    #[test]
    fn bits_behind_the_end_are_dropped() {
        let bitmap = Bitmap::from_bytes(&[0xff, 0xff], 9);
        assert_eq!((bitmap.count(), bitmap.to_bytes(2)), (9, vec![0xff, 0x80]));
        assert!(bitmap.is_full());
    }

    #[test]
    fn an_empty_bitmap_is_neither_full_nor_has_a_run() {
        let bitmap = Bitmap::new(0);
        assert!(bitmap.is_empty());
        assert_eq!(bitmap.runs(0..0).count(), 0);
    }

    #[derive(Clone, Debug)]
    enum Change {
        Set(Range<usize>),
        Clear(Range<usize>),
        Flip(usize),
    }

    fn changes(bits: usize) -> impl Strategy<Value = Vec<Change>> {
        let range = (0..=bits, 0..=bits).prop_map(|(a, b)| a.min(b)..a.max(b));
        let change = prop_oneof![
            range.clone().prop_map(Change::Set),
            range.prop_map(Change::Clear),
            (0..bits).prop_map(Change::Flip)
        ];
        prop::collection::vec(change, 0..12)
    }

    fn naive_run(bits: &[bool], start: usize, end: usize) -> (bool, usize) {
        match bits.get(start) {
            Some(&first) if start < end => (first, (start..end).find(|&index| bits[index] != first).unwrap_or(end)),
            _ => (false, end),
        }
    }

    proptest! {
        #[test]
        fn agrees_with_a_plain_vector_of_booleans(
            (bits, changes) in (1_usize..300).prop_flat_map(|bits| (Just(bits), changes(bits))),
            window in (any::<prop::sample::Index>(), any::<prop::sample::Index>()),
        ) {
            let mut bitmap = Bitmap::new(bits);
            let mut naive = vec![false; bits];
            for change in changes {
                match change {
                    Change::Set(range) => { bitmap.set_range(range.clone()); naive[range].fill(true); }
                    Change::Clear(range) => { bitmap.clear_range(range.clone()); naive[range].fill(false); }
                    Change::Flip(index) if naive[index] => { bitmap.clear(index); naive[index] = false; }
                    Change::Flip(index) => { bitmap.set(index); naive[index] = true; }
                }
            }
            prop_assert_eq!((0..bits).map(|index| bitmap.get(index)).collect::<Vec<_>>(), &naive[..]);
            prop_assert_eq!(bitmap.count(), naive.iter().filter(|&&bit| bit).count());
            prop_assert_eq!(bitmap.is_full(), naive.iter().all(|&bit| bit));
            prop_assert_eq!(bitmap.is_empty(), !naive.contains(&true));
            let (a, b) = (window.0.index(bits + 1), window.1.index(bits + 1));
            let (start, end) = (a.min(b), a.max(b));
            prop_assert_eq!(bitmap.run_from(start, end), naive_run(&naive, start, end));
            prop_assert_eq!(bitmap.has_all(start..end), naive[start..end].iter().all(|&bit| bit));
            let spread: Vec<bool> = bitmap.runs(start..end).flat_map(|(is_set, run)| run.map(move |_| is_set)).collect();
            prop_assert_eq!(spread, &naive[start..end]);
            let bytes = bitmap.to_bytes(bits.div_ceil(8) + 3);
            prop_assert_eq!(Bitmap::from_bytes(&bytes, bits), bitmap);
        }
    }
}
