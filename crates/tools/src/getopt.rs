//! Options as `getopt` reads them, and numbers as `atoi` does: storage managers have relied on both for years.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt, OsStringExt},
};

/// The options of one command line, in order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    given: Vec<(u8, OsString)>,
    /// Words that are no options.
    operands: Vec<OsString>,
}

impl Options {
    /// Reads options; in `letters`, a colon behind a letter says that it has a value. None: an unknown letter, or a value
    /// is missing. Words that are no options may stand anywhere.
    pub(crate) fn parse(letters: &str, arguments: &[OsString]) -> Option<Options> {
        let mut options = Options::default();
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            match argument.as_bytes() {
                b"--" => break,
                [b'-', group @ ..] if !group.is_empty() => options.take_group(letters, group, &mut arguments)?,
                _ => options.operands.push(argument.clone()),
            }
        }
        options.operands.extend(arguments.cloned());
        Some(options)
    }

    /// Letters behind one dash: the first with a value takes the rest of the word, or the next word.
    fn take_group<'a>(
        &mut self,
        letters: &str,
        group: &[u8],
        arguments: &mut impl Iterator<Item = &'a OsString>,
    ) -> Option<()> {
        for (index, letter) in group.iter().enumerate() {
            if !has_value(letters, *letter)? {
                self.given.push((*letter, OsString::new()));
                continue;
            }
            let rest = &group[index + 1..];
            let value = if rest.is_empty() { arguments.next()?.clone() } else { OsString::from_vec(rest.to_vec()) };
            self.given.push((*letter, value));
            break;
        }
        Some(())
    }

    pub(crate) fn count(&self, letter: u8) -> usize {
        self.given.iter().filter(|(name, _)| *name == letter).count()
    }

    pub(crate) fn has(&self, letter: u8) -> bool {
        self.count(letter) > 0
    }

    /// The value of an option; the last one counts.
    pub(crate) fn value(&self, letter: u8) -> Option<&OsStr> {
        self.given.iter().rev().find(|(name, _)| *name == letter).map(|(_, value)| value.as_os_str())
    }

    pub(crate) fn bytes(&self, letter: u8) -> Option<&[u8]> {
        self.value(letter).map(OsStr::as_bytes)
    }

    pub(crate) fn number(&self, letter: u8) -> Option<i32> {
        let wide = self.wide_number(letter)?;
        Some(wide.clamp(i32::MIN.into(), i32::MAX.into()).try_into().expect("clamped to 32 bits"))
    }

    pub(crate) fn wide_number(&self, letter: u8) -> Option<i64> {
        self.bytes(letter).map(leading_number)
    }

    /// Whether there were words that are no options.
    pub(crate) fn has_operands(&self) -> bool {
        !self.operands.is_empty()
    }

    /// Words that are no options, in order.
    pub(crate) fn operands(&self) -> &[OsString] {
        &self.operands
    }
}

/// Whether a letter has a value; none if it is no option.
fn has_value(letters: &str, letter: u8) -> Option<bool> {
    let at = letters.bytes().position(|known| known == letter && letter != b':')?;
    Some(letters.as_bytes().get(at + 1) == Some(&b':'))
}

/// Blanks, a sign, digits; whatever follows is passed over, and no digits at all are 0.
pub(crate) fn leading_number(text: &[u8]) -> i64 {
    let text = text.trim_ascii_start();
    let (is_negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    let digits = digits.iter().take_while(|digit| digit.is_ascii_digit());
    let size = digits.fold(0i64, |number, digit| number.saturating_mul(10).saturating_add(i64::from(digit - b'0')));
    if is_negative { -size } else { size }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(letters: &str, line: &str) -> Option<Options> {
        let words: Vec<OsString> = line.split(' ').filter(|word| !word.is_empty()).map(OsString::from).collect();
        Options::parse(letters, &words)
    }

    #[test]
    fn options_come_in_all_the_shapes_that_getopt_knows() {
        let options = parse("a:m:RD", "-m3 -RD ignored -a vhd:/x -D").unwrap();
        assert_eq!((options.number(b'm'), options.bytes(b'a')), (Some(3), Some(&b"vhd:/x"[..])));
        assert_eq!((options.count(b'D'), options.has(b'R'), options.has(b'x')), (2, true, false));
        assert_eq!(parse("Ra:", "-Rafoo").unwrap().bytes(b'a'), Some(&b"foo"[..]));
    }

    #[test]
    fn the_last_value_counts_and_a_value_may_look_like_an_option() {
        assert_eq!(parse("p:", "-p 1 -p 2").unwrap().number(b'p'), Some(2));
        assert_eq!(parse("p:", "-p -1").unwrap().number(b'p'), Some(-1));
    }

    #[test]
    fn unknown_letters_and_missing_values_are_refused() {
        assert_eq!(parse("p:", "-x"), None);
        assert_eq!(parse("p:", "-p"), None);
        assert_eq!(parse("p:", "-:"), None);
        assert_eq!(parse("p:", "--pid"), None);
    }

    #[test]
    fn nothing_is_an_option_behind_two_dashes() {
        assert_eq!(parse("p:", "-- -x").unwrap().count(b'x'), 0);
        assert_eq!(parse("p:", "-p 1 --").unwrap().number(b'p'), Some(1));
    }

    #[test]
    fn words_that_are_no_options_are_kept() {
        assert!(!parse("p:", "-p x").unwrap().has_operands());
        for line in ["x -p 1", "-p 1 x", "-", "-- x"] {
            assert!(parse("p:", line).unwrap().has_operands(), "{line}");
        }
        assert_eq!(parse("p:", "a -p 1 b -- -c").unwrap().operands(), ["a", "b", "-c"]);
    }

    #[test]
    fn numbers_are_read_as_atoi_reads_them() {
        let numbers = ["12", " 7x", "-4", "+4", "x", ""].map(|text| leading_number(text.as_bytes()));
        assert_eq!(numbers, [12, 7, -4, 4, 0, 0]);
        let large = parse("p:", "-p 99999999999").unwrap();
        assert_eq!((large.number(b'p'), large.wide_number(b'p')), (Some(i32::MAX), Some(99_999_999_999)));
    }
}
