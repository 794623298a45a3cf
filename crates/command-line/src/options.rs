//! What a command line says, as `getopt` reads it, and numbers as `atoi` does: storage managers have relied on both for
//! years.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt, OsStringExt},
};

use crate::{Flag, Key, Syntax};

/// The options of one command line, in order.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Options {
    given: Vec<(Flag, OsString)>,
    /// Words that are no options.
    operands: Vec<OsString>,
}

impl Syntax {
    /// Reads a command line. None: an unknown flag, or a value is missing, or there is one where none is expected. Words
    /// that are no flags may stand anywhere.
    pub fn parse(&self, words: &[OsString]) -> Option<Options> {
        let mut options = Options::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            match word.as_bytes() {
                b"--" => break,
                [b'-', b'-', long @ ..] => options.take_long(self, long, &mut words)?,
                [b'-', group @ ..] if !group.is_empty() => options.take_group(self, group, &mut words)?,
                _ => options.operands.push(word.clone()),
            }
        }
        options.operands.extend(words.cloned());
        Some(options)
    }
}

impl Options {
    /// `--name`, `--name value` or `--name=value`.
    fn take_long<'a>(
        &mut self,
        syntax: &Syntax,
        word: &[u8],
        words: &mut impl Iterator<Item = &'a OsString>,
    ) -> Option<()> {
        let mut parts = word.splitn(2, |byte| *byte == b'=');
        let (name, attached) = (parts.next()?, parts.next());
        let flag = syntax.flags.iter().find(|flag| flag.long.is_some_and(|long| long.as_bytes() == name))?;
        let value = match (flag.value, attached) {
            (Some(_), Some(value)) => OsStr::from_bytes(value).to_owned(),
            (Some(_), None) => words.next()?.clone(),
            (None, None) => OsString::new(),
            (None, Some(_)) => return None,
        };
        self.given.push((*flag, value));
        Some(())
    }

    /// Letters behind one dash: the first with a value takes the rest of the word, or the next word.
    fn take_group<'a>(
        &mut self,
        syntax: &Syntax,
        group: &[u8],
        words: &mut impl Iterator<Item = &'a OsString>,
    ) -> Option<()> {
        for (index, letter) in group.iter().enumerate() {
            let flag = syntax.flag(Key::Letter(*letter))?;
            if flag.value.is_none() {
                self.given.push((*flag, OsString::new()));
                continue;
            }
            let rest = &group[index + 1..];
            let value = if rest.is_empty() { words.next()?.clone() } else { OsString::from_vec(rest.to_vec()) };
            self.given.push((*flag, value));
            break;
        }
        Some(())
    }

    /// How often a flag is given.
    pub fn count(&self, key: impl Into<Key>) -> usize {
        let key = key.into();
        self.given.iter().filter(|(flag, _)| flag.is(key)).count()
    }

    /// Whether a flag is given.
    pub fn has(&self, key: impl Into<Key>) -> bool {
        self.count(key) > 0
    }

    /// The value of a flag; the last one counts.
    pub fn value(&self, key: impl Into<Key>) -> Option<&OsStr> {
        let key = key.into();
        self.given.iter().rev().find(|(flag, _)| flag.is(key)).map(|(_, value)| value.as_os_str())
    }

    /// The bytes of a value.
    pub fn bytes(&self, key: impl Into<Key>) -> Option<&[u8]> {
        self.value(key).map(OsStr::as_bytes)
    }

    /// A value as a number; one that is out of range is the nearest that is not.
    pub fn number(&self, key: impl Into<Key>) -> Option<i32> {
        let wide = self.wide_number(key)?;
        Some(wide.clamp(i32::MIN.into(), i32::MAX.into()).try_into().expect("clamped to 32 bits"))
    }

    /// A value as a number of 64 bits.
    pub fn wide_number(&self, key: impl Into<Key>) -> Option<i64> {
        self.bytes(key).map(leading_number)
    }

    /// Whether there were words that are no flags.
    pub fn has_operands(&self) -> bool {
        !self.operands.is_empty()
    }

    /// Words that are no flags, in order.
    pub fn operands(&self) -> &[OsString] {
        &self.operands
    }
}

/// Blanks, a sign, digits; whatever follows is passed over, and no digits at all are 0.
pub fn leading_number(text: &[u8]) -> i64 {
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
    use crate::Value;

    const SYNTAX: Syntax = Syntax {
        name: "open",
        about: "",
        text: "",
        flags: &[
            Flag::letter(b'a', "image").with(Value::text("type:path")),
            Flag::letter(b'm', "minor").with(Value::text("minor")),
            Flag::letter(b'p', "pid").with(Value::text("pid")),
            Flag::letter(b'R', "read only"),
            Flag::letter(b'D', "no O_DIRECT"),
            Flag::letter(b'r', "rate").or_long("rate").with(Value::text("N")),
            Flag::long("json", "as JSON"),
        ],
        operands: &[],
    };

    fn parse(line: &str) -> Option<Options> {
        let words: Vec<OsString> = line.split(' ').filter(|word| !word.is_empty()).map(OsString::from).collect();
        SYNTAX.parse(&words)
    }

    #[test]
    fn options_come_in_all_the_shapes_that_getopt_knows() {
        let options = parse("-m3 -RD ignored -a vhd:/x -D").unwrap();
        assert_eq!((options.number(b'm'), options.bytes(b'a')), (Some(3), Some(&b"vhd:/x"[..])));
        assert_eq!((options.count(b'D'), options.has(b'R'), options.has(b'x')), (2, true, false));
        assert_eq!(parse("-Rafoo").unwrap().bytes(b'a'), Some(&b"foo"[..]));
    }

    #[test]
    fn long_names_stand_beside_letters() {
        for line in ["--json --rate 5", "--rate=5 --json", "-r 5 --json", "-r5 x --json"] {
            let options = parse(line).unwrap();
            assert!(options.has("json"), "{line}");
            assert_eq!((options.number("rate"), options.number(b'r')), (Some(5), Some(5)), "{line}");
        }
        assert_eq!(parse("--rate=").unwrap().bytes("rate"), Some(&b""[..]));
        for line in ["--json=yes", "--rate", "--js", "--jsonx", "--=", "---"] {
            assert_eq!(parse(line), None, "{line}");
        }
    }

    #[test]
    fn everybody_may_ask_for_help() {
        assert!(parse("-Rh").unwrap().has(b'h'));
    }

    #[test]
    fn the_last_value_counts_and_a_value_may_look_like_an_option() {
        assert_eq!(parse("-p 1 -p 2").unwrap().number(b'p'), Some(2));
        assert_eq!(parse("-p -1").unwrap().number(b'p'), Some(-1));
        assert!(!parse("-p --json").unwrap().has("json"));
    }

    #[test]
    fn unknown_letters_and_missing_values_are_refused() {
        for line in ["-x", "-p", "-:", "--pid", "--"] {
            assert_eq!(parse(line).is_none(), line != "--", "{line}");
        }
    }

    #[test]
    fn nothing_is_an_option_behind_two_dashes() {
        assert_eq!(parse("-- -R").unwrap().count(b'R'), 0);
        assert_eq!(parse("-p 1 --").unwrap().number(b'p'), Some(1));
    }

    #[test]
    fn words_that_are_no_options_are_kept() {
        assert!(!parse("-p x").unwrap().has_operands());
        for line in ["x -p 1", "-p 1 x", "-", "-- x"] {
            assert!(parse(line).unwrap().has_operands(), "{line}");
        }
        assert_eq!(parse("a -p 1 b -- -c").unwrap().operands(), ["a", "b", "-c"]);
    }

    #[test]
    fn numbers_are_read_as_atoi_reads_them() {
        let numbers = ["12", " 7x", "-4", "+4", "x", ""].map(|text| leading_number(text.as_bytes()));
        assert_eq!(numbers, [12, 7, -4, 4, 0, 0]);
        let large = parse("-p 99999999999").unwrap();
        assert_eq!((large.number(b'p'), large.wide_number(b'p')), (Some(i32::MAX), Some(99_999_999_999)));
    }
}
