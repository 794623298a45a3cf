//! Rules as text, as people and image names write them.
//!
//! ```text
//!   RULES  = RULE[,RULE...]
//!   RULE   = KIND[@OFFSET[+LENGTH]][/SKIP][xTIMES]=EFFECT
//!   KIND   = any | read | write | sync | allocate | discard | write-zeroes | set-length | lock | unlock | open
//!   EFFECT = ERRNO | torn(ERRNO) | done(ERRNO) | hang | delay(TIME)
//! ```
//!
//! Positions are decimal or `0x` hexadecimal and may end in K, M, G or T; counts are decimal; a time is a number and `us`,
//! `ms` or `s`.

use std::{fmt, time::Duration};

use block_core::{Error, ErrorKind, FileOffset, FileRange, Result};

use super::{Effect, Fault, FaultRule, OperationKind};

const KINDS: [(&str, OperationKind); 10] = [
    ("read", OperationKind::Read),
    ("write", OperationKind::Write),
    ("sync", OperationKind::Sync),
    ("allocate", OperationKind::Allocate),
    ("discard", OperationKind::Discard),
    ("write-zeroes", OperationKind::WriteZeroes),
    ("set-length", OperationKind::SetLength),
    ("lock", OperationKind::Lock),
    ("unlock", OperationKind::Unlock),
    ("open", OperationKind::Open),
];

/// What a rule about every kind calls itself.
const ANY: &str = "any";

/// Errors that storage is known to give. Any other can be written as its number.
const ERRORS: [(&str, i32); 34] = [
    ("EACCES", libc::EACCES),
    ("EAGAIN", libc::EAGAIN),
    ("EBADF", libc::EBADF),
    ("EBUSY", libc::EBUSY),
    ("ECANCELED", libc::ECANCELED),
    ("ECONNREFUSED", libc::ECONNREFUSED),
    ("ECONNRESET", libc::ECONNRESET),
    ("EDQUOT", libc::EDQUOT),
    ("EFBIG", libc::EFBIG),
    ("EHOSTDOWN", libc::EHOSTDOWN),
    ("EHOSTUNREACH", libc::EHOSTUNREACH),
    ("EILSEQ", libc::EILSEQ),
    ("EINTR", libc::EINTR),
    ("EINVAL", libc::EINVAL),
    ("EIO", libc::EIO),
    ("ENETDOWN", libc::ENETDOWN),
    ("ENETUNREACH", libc::ENETUNREACH),
    ("ENOBUFS", libc::ENOBUFS),
    ("ENODATA", libc::ENODATA),
    ("ENODEV", libc::ENODEV),
    ("ENOENT", libc::ENOENT),
    ("ENOLINK", libc::ENOLINK),
    ("ENOMEDIUM", libc::ENOMEDIUM),
    ("ENOMEM", libc::ENOMEM),
    ("ENOSPC", libc::ENOSPC),
    ("ENOTCONN", libc::ENOTCONN),
    ("ENXIO", libc::ENXIO),
    ("EOPNOTSUPP", libc::EOPNOTSUPP),
    ("EPERM", libc::EPERM),
    ("EPIPE", libc::EPIPE),
    ("EREMOTEIO", libc::EREMOTEIO),
    ("EROFS", libc::EROFS),
    ("ESTALE", libc::ESTALE),
    ("ETIMEDOUT", libc::ETIMEDOUT),
];

/// The largest number of an error that the kernel has.
const ERRNO_MAX: u64 = 4095;

/// A day: what is held back longer hangs.
const DELAY_MAX: Duration = Duration::from_secs(86_400);

/// All rules of a text; none of an empty one.
pub(super) fn parse(rules: &str) -> Result<Vec<FaultRule>> {
    if rules.is_empty() {
        return Ok(Vec::new());
    }
    rules
        .split(',')
        .map(|rule| rule.parse().map_err(|error: Error| error.context(format_args!("fault rule {rule:?}"))))
        .collect()
}

impl std::str::FromStr for FaultRule {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (which, effect) =
            text.split_once('=').ok_or_else(|| invalid("there is no \"=\" with an effect behind it"))?;
        let fault = parse_effect(effect)?;
        let end = which.find(|letter: char| !(letter.is_ascii_lowercase() || letter == '-')).unwrap_or(which.len());
        // The x of "xTIMES" is a letter, too.
        let end = if which[..end].ends_with('x') { end - 1 } else { end };
        let (kind, rest) = which.split_at(end);
        let mut rule = FaultRule { kind: parse_kind(kind)?, ..FaultRule::every(fault) };
        let mut rest = Cursor(rest);
        if rest.skip('@') {
            let start = rest.position()?;
            let length = if rest.skip('+') { rest.position()? } else { 1 };
            start
                .checked_add(length)
                .filter(|_| length > 0)
                .ok_or_else(|| invalid("the range is empty or too long"))?;
            rule.range = Some(FileRange::new(FileOffset::new(start), length));
        }
        if rest.skip('/') {
            rule.skip = rest.count()?;
        }
        if rest.skip('x') {
            rule.times = rest.count()?;
        }
        if rest.0.is_empty() { Ok(rule) } else { Err(invalid(format!("{:?} is not understood", rest.0))) }
    }
}

fn parse_kind(name: &str) -> Result<Option<OperationKind>> {
    if name == ANY {
        return Ok(None);
    }
    let known = KINDS.iter().find(|(known, _)| *known == name);
    known.map(|(_, kind)| Some(*kind)).ok_or_else(|| invalid(format!("{name:?} is no kind of operation")))
}

fn parse_effect(text: &str) -> Result<Fault> {
    if text == "hang" {
        return Ok(Fault::Hang);
    }
    let Some((name, argument)) = text.strip_suffix(')').and_then(|text| text.split_once('(')) else {
        return Ok(Fault::error(parse_errno(text)?));
    };
    match name {
        "delay" => Ok(Fault::Delay(parse_time(argument)?)),
        "torn" => Ok(Fault::Fail { errno: parse_errno(argument)?, effect: Effect::Torn }),
        "done" => Ok(Fault::Fail { errno: parse_errno(argument)?, effect: Effect::All }),
        _ => Err(invalid(format!("{name:?} is no effect"))),
    }
}

fn parse_errno(text: &str) -> Result<i32> {
    if let Some((_, number)) = ERRORS.iter().find(|(name, _)| *name == text) {
        return Ok(*number);
    }
    let number = text.parse().ok().filter(|number| (1..=ERRNO_MAX).contains(number));
    let number = number.and_then(|number| i32::try_from(number).ok());
    number.ok_or_else(|| invalid(format!("{text:?} is no error of storage")))
}

fn parse_time(text: &str) -> Result<Duration> {
    let mut rest = Cursor(text);
    let number = rest.number()?;
    let time = match rest.0 {
        "us" => Some(Duration::from_micros(number)),
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        _ => None,
    };
    time.filter(|time| *time <= DELAY_MAX)
        .ok_or_else(|| invalid(format!("{text:?} is no time of at most a day (us, ms, s)")))
}

/// What is left of a rule.
struct Cursor<'a>(&'a str);

impl<'a> Cursor<'a> {
    fn skip(&mut self, letter: char) -> bool {
        let rest = self.0.strip_prefix(letter);
        self.0 = rest.unwrap_or(self.0);
        rest.is_some()
    }

    /// How many. Never hexadecimal: what is behind the 0 of `/0x1` is how often.
    fn count(&mut self) -> Result<u64> {
        self.digits(self.0, 10)
    }

    fn number(&mut self) -> Result<u64> {
        match self.0.strip_prefix("0x") {
            Some(digits) => self.digits(digits, 16),
            None => self.digits(self.0, 10),
        }
    }

    /// Takes the digits at the start of what is left.
    fn digits(&mut self, digits: &'a str, radix: u32) -> Result<u64> {
        let end = digits.find(|letter: char| !letter.is_digit(radix)).unwrap_or(digits.len());
        let number = u64::from_str_radix(&digits[..end], radix);
        let number = number.map_err(|_| invalid(format!("{:?} does not begin with a number", self.0)))?;
        self.0 = &digits[end..];
        Ok(number)
    }

    /// A number of bytes.
    fn position(&mut self) -> Result<u64> {
        let number = self.number()?;
        let shift = [('K', 10), ('M', 20), ('G', 30), ('T', 40)].into_iter().find(|(letter, _)| self.skip(*letter));
        let bytes = shift.map_or(Some(number), |(_, bits)| number.checked_mul(1 << bits));
        bytes.ok_or_else(|| invalid("the position is too large"))
    }
}

fn invalid(words: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Invalid, words)
}

impl fmt::Display for FaultRule {
    /// As it would be written.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = KINDS.iter().find(|(_, kind)| Some(*kind) == self.kind);
        f.write_str(kind.map_or(ANY, |(name, _)| name))?;
        if let Some(range) = self.range {
            write!(f, "@{:#x}+{:#x}", range.start().get(), range.length())?;
        }
        if self.skip > 0 {
            write!(f, "/{}", self.skip)?;
        }
        if self.times < u64::MAX {
            write!(f, "x{}", self.times)?;
        }
        match self.fault {
            Fault::Hang => f.write_str("=hang"),
            Fault::Delay(time) => write!(f, "=delay({}us)", time.as_micros()),
            Fault::Fail { errno, effect } => {
                let name = ERRORS.iter().find(|(_, number)| *number == errno);
                let name = name.map_or_else(|| errno.to_string(), |(name, _)| (*name).to_string());
                match effect {
                    Effect::None => write!(f, "={name}"),
                    Effect::Torn => write!(f, "=torn({name})"),
                    Effect::All => write!(f, "=done({name})"),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> FaultRule {
        text.parse().unwrap()
    }

    fn range(start: u64, length: u64) -> FileRange {
        FileRange::new(FileOffset::new(start), length)
    }

    #[test]
    fn each_part_of_a_rule_is_understood() {
        let every = rule("any=EIO");
        assert_eq!((every.kind, every.range, every.skip, every.times), (None, None, 0, u64::MAX));
        assert_eq!(every.fault, Fault::error(libc::EIO));
        let all = rule("write@1M+4K/3x2=ENOSPC");
        assert_eq!((all.kind, all.range), (Some(OperationKind::Write), Some(range(1 << 20, 4096))));
        assert_eq!((all.skip, all.times, all.fault), (3, 2, Fault::error(libc::ENOSPC)));
        assert_eq!(rule("read@0x10x3=hang").range, Some(range(16, 1)));
        assert_eq!(rule("read@0x10x3=hang").times, 3);
        assert_eq!((rule("any/0x1=EIO").skip, rule("any/0x1=EIO").times), (0, 1));
        assert_eq!(rule("syncx1=done(EIO)").fault, Fault::Fail { errno: libc::EIO, effect: Effect::All });
        assert_eq!(rule("writex1=torn(121)").fault, Fault::Fail { errno: 121, effect: Effect::Torn });
        assert_eq!(rule("write-zeroes/7=delay(20ms)").fault, Fault::Delay(Duration::from_millis(20)));
        assert_eq!(rule("openx1=delay(2s)").kind, Some(OperationKind::Open));
    }

    #[test]
    fn a_rule_is_written_as_it_is_read() {
        for text in [
            "any=EIO",
            "read@0x200+0x1/2x3=hang",
            "sync/1=torn(ENOSPC)",
            "set-lengthx1=done(133)",
            "lock=delay(1500us)",
        ] {
            assert_eq!(rule(text).to_string(), text);
        }
        for (name, _) in KINDS {
            assert_eq!(rule(&format!("{name}=EIO")).to_string(), format!("{name}=EIO"));
        }
        for (name, number) in ERRORS {
            assert_eq!(rule(&format!("any={name}")).fault, Fault::error(number));
        }
    }

    /// Whatever is written, it is understood or refused; what is understood means what it says.
    #[test]
    fn any_text_is_a_rule_or_an_error() {
        const WORDS: [&str; 24] = [
            "any",
            "read",
            "write-zeroes",
            "sync",
            "@",
            "+",
            "/",
            "x",
            "=",
            ",",
            "0",
            "7",
            "0x",
            "1f",
            "K",
            "T",
            "18446744073709551615",
            "EIO",
            "hang",
            "delay(",
            "torn(",
            "ms",
            ")",
            "\u{e9}",
        ];
        let mut state = test_support::seed() | 1;
        let mut draw = |count: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from((state >> 8) % count).unwrap()
        };
        let mut understood = 0;
        for _ in 0..test_support::cycles(100_000, 10_000_000) {
            let text: String = (0..1 + draw(9)).map(|_| WORDS[draw(24)]).collect();
            for rule in parse(&text).unwrap_or_default() {
                understood += 1;
                let again = rule.to_string().parse::<FaultRule>().unwrap();
                assert_eq!(format!("{again:?}"), format!("{rule:?}"), "{text}");
            }
        }
        assert!(understood > 0);
    }

    #[test]
    fn what_is_no_rule_is_refused_by_name() {
        for (text, words) in [
            ("", "there is no \"=\" with an effect behind it"),
            ("EIO", "there is no \"=\" with an effect behind it"),
            ("wrote=EIO", "\"wrote\" is no kind of operation"),
            ("write=EWHAT", "\"EWHAT\" is no error of storage"),
            ("write=0", "\"0\" is no error of storage"),
            ("write=4096", "\"4096\" is no error of storage"),
            ("write=burn(EIO)", "\"burn\" is no effect"),
            ("write=delay(5)", "\"5\" is no time of at most a day (us, ms, s)"),
            ("write=delay(86401s)", "\"86401s\" is no time of at most a day (us, ms, s)"),
            ("write@=EIO", "\"\" does not begin with a number"),
            ("write@0+0=EIO", "the range is empty or too long"),
            ("write@1+0xffffffffffffffff=EIO", "the range is empty or too long"),
            ("write@0xfffffffffT=EIO", "the position is too large"),
            ("writex3/2=EIO", "\"/2\" is not understood"),
            ("write@99999999999999999999=EIO", "\"99999999999999999999\" does not begin with a number"),
        ] {
            assert_eq!(text.parse::<FaultRule>().unwrap_err().to_string(), words, "{text}");
        }
        let error = parse("read=EIO,write=x").unwrap_err();
        assert_eq!(error.to_string(), "fault rule \"write=x\": \"x\" is no error of storage");
    }
}
