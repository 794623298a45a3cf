//! Choices that somebody else makes: a random generator, or a fuzzer that watches where they lead.

/// A string of bytes, read as choices. Whoever makes the bytes decides: the same bytes, the same choices. When they are
/// used up every choice is the first one, so what goes on until [`is_over`](Self::is_over) ends.
#[derive(Clone, Debug)]
pub struct Choices<'a> {
    bytes: &'a [u8],
}

impl<'a> Choices<'a> {
    /// The choices that these bytes make.
    pub fn new(bytes: &'a [u8]) -> Choices<'a> {
        Choices { bytes }
    }

    /// Whether there is nothing more to choose by.
    pub fn is_over(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Up to so many bytes, as they are.
    pub fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.bytes.split_at(count.min(self.bytes.len()));
        self.bytes = rest;
        taken
    }

    /// Everything that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.bytes)
    }

    /// So many bytes; those that are not there are zero.
    pub fn array<const COUNT: usize>(&mut self) -> [u8; COUNT] {
        let mut array = [0; COUNT];
        let taken = self.take(COUNT);
        array[..taken.len()].copy_from_slice(taken);
        array
    }

    /// One byte.
    pub fn byte(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    /// One of so many, counted from 0. It takes no more bytes than it must: a fuzzer learns faster what they do.
    ///
    /// # Panics
    /// If there is nothing to choose from.
    pub fn index(&mut self, count: usize) -> usize {
        assert!(count > 0, "there is something to choose from");
        let number = match count {
            1 => 0,
            2..=0x100 => u64::from(self.byte()),
            0x101..=0x1_0000 => u64::from(u16::from_le_bytes(self.array())),
            _ => self.number(),
        };
        usize::try_from(number % count as u64).expect("less than the count")
    }

    /// True once in so many times; the first choice is no.
    pub fn one_in(&mut self, count: usize) -> bool {
        self.index(count) == count - 1
    }

    /// One of these.
    pub fn pick<'b, T: ?Sized>(&mut self, all: &[&'b T]) -> &'b T {
        all[self.index(all.len())]
    }
}

/// An endless string of random bytes from a seed (splitmix64).
pub(crate) struct RandomBytes(u64);

impl RandomBytes {
    pub(crate) fn new(seed: u64) -> RandomBytes {
        RandomBytes(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound.max(1) as u64).expect("less than the bound")
    }

    /// So many bytes.
    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..count.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).collect();
        bytes.truncate(count);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_bytes_make_the_same_choices() {
        let mut choices = Choices::new(&[7, 0xff, 1, 2, 9]);
        assert_eq!((choices.index(5), choices.one_in(256), choices.index(0x101)), (2, true, 0x0201 % 0x101));
        assert_eq!((choices.index(1), choices.take(5), choices.is_over()), (0, [9].as_slice(), true));
    }

    #[test]
    fn who_has_no_more_bytes_chooses_the_first_of_all() {
        let mut choices = Choices::new(&[]);
        assert_eq!(
            (choices.index(9), choices.one_in(2), choices.number(), choices.pick(&["a", "b"])),
            (0, false, 0, "a")
        );
    }

    #[test]
    fn every_choice_is_made_by_random_bytes_sooner_or_later() {
        let bytes = RandomBytes::new(1).bytes(4096);
        let mut choices = Choices::new(&bytes);
        let mut made = [0; 40];
        while !choices.is_over() {
            made[choices.index(40)] += 1;
        }
        assert!(made.iter().all(|times| *times > 40), "{made:?}");
    }
}
