//! The command line: `NAME -t TYPE [-D N] -- OPTIONS`, where a type may have another behind a further `--`.

use std::{
    collections::VecDeque,
    ffi::{OsStr, OsString},
    num::NonZeroU64,
    os::unix::ffi::OsStrExt,
    path::PathBuf,
    time::Duration,
};

use command_line::{Flag, HELP, Operand, Syntax, Value};

use super::{
    bucket::Bucket,
    limiter::{Limiter, Meminfo},
};

/// What to say to those who did not get it right.
pub(super) const USAGE: &str = "\
usage: td-rated NAME -t token [-D LEVEL] -- -r|--rate N [-c|--cap N]
       td-rated NAME -t meminfo [-D LEVEL] -- -H|--high PERCENT -L|--low PERCENT [-p|--period MS] -t TYPE -- OPTIONS
NAME is the path of a socket, or a name in the directory of rate limiters.
Numbers may end in K, M, G (powers of 1000) or Ki, Mi, Gi (powers of 1024).
";

/// The words in front of the first `--`.
pub(super) const SYNTAX: Syntax = Syntax {
    name: "",
    about: "A rate that several disks share",
    text: "",
    flags: &[
        Flag::letter(b't', "type").or_long("type").with(Value::one_of("type", &["token", "meminfo"])).required().explained(
            "How to limit: see below. Its own options follow behind `--`.",
        ),
        Flag::letter(b'D', "level").or_long("debug").with(Value::text("level")).explained(
            "Above 0: stay in the foreground and speak to stderr. From 2 on, each grant is told. Any byte on stdin prints \
             the status.",
        ),
        HELP.or_long("help"),
    ],
    operands: &[Operand::text("name")],
};

/// The words of a bucket.
pub(super) const TOKEN: Syntax = Syntax {
    name: "token",
    about: "A bucket that fills at a rate",
    text: "A bucket that fills at a rate. While it is not below empty, whoever waits is granted all that he asked for, also \
           if that is more than there is; the next one then waits until it has been made up for.",
    flags: &[
        Flag::letter(b'r', "bytes in a second").or_long("rate").with(Value::text("bytes")).required(),
        Flag::letter(b'c', "what is saved up at most").or_long("cap").with(Value::text("bytes")).explained(
            "What is saved up at most while nobody asks; what comes in a tenth of a second if not given. With 0, disks are \
             paced evenly, and what nobody asks for in time is lost.",
        ),
    ],
    operands: &[],
};

/// The words of a limiter by the host's memory.
pub(super) const MEMINFO: Syntax = Syntax {
    name: "meminfo",
    about: "A limiter that watches the host's memory",
    text: "Grants freely while the host keeps up with writing back; else another limiter decides.",
    flags: &[
        Flag::letter(b'H', "congested from this on").or_long("high").with(Value::text("percent")).required().explained(
            "The host is congested as soon as this much of its memory waits to be written to storage (Dirty and Writeback \
             in */proc/meminfo*),",
        ),
        Flag::letter(b'L', "congested until this")
            .or_long("low")
            .with(Value::text("percent"))
            .required()
            .explained("until it is less than this."),
        Flag::letter(b'p', "how often to look")
            .or_long("period")
            .with(Value::text("ms"))
            .explained("How often to look; 100 if not given."),
        Flag::letter(b't', "the limiter below it").or_long("type").with(Value::one_of("type", &["token"])).required().explained(
            "The limiter that decides then: `token`, whose options follow behind another `--`.",
        ),
    ],
    operands: &[],
};

/// What was asked for.
#[derive(Debug)]
pub(super) enum Command {
    /// Limit.
    Serve(Arguments),
    /// Say how to.
    Help,
}

/// How to limit.
#[derive(Debug)]
pub(super) struct Arguments {
    /// The socket.
    pub(super) name: PathBuf,
    /// Above 0: stay in the foreground and say more.
    pub(super) level: u64,
    pub(super) limiter: Limiter,
}

/// Reads the command line; the error says what is wrong with it.
pub(super) fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Command, String> {
    let mut words: VecDeque<OsString> = words.into_iter().collect();
    let (options, names) = options_before_dashes(&mut words, SYNTAX.flags)?;
    if options.iter().any(|(name, _)| *name == 'h') {
        return Ok(Command::Help);
    }
    let [name] = &names[..] else { return Err("expected the name of one socket".to_owned()) };
    if name.is_empty() {
        return Err("the name of the socket is empty".to_owned());
    }
    let level = value(&options, 'D').map(number).transpose()?.unwrap_or(0);
    let limiter = limiter(value(&options, 't'), &mut words)?;
    Ok(Command::Serve(Arguments { name: name.into(), level, limiter }))
}

fn limiter(kind: Option<&OsStr>, words: &mut VecDeque<OsString>) -> Result<Limiter, String> {
    match kind.map(OsStr::as_bytes) {
        Some(b"token") => Ok(Limiter::Token(token(words)?)),
        Some(b"meminfo") => Ok(Limiter::Meminfo(meminfo(words)?)),
        Some(_) => Err("the type must be token or meminfo".to_owned()),
        None => Err("-t is missing".to_owned()),
    }
}

fn token(words: &mut VecDeque<OsString>) -> Result<Bucket, String> {
    let (options, names) = options_before_dashes(words, TOKEN.flags)?;
    none_left(&names, words)?;
    let rate = value(&options, 'r').map(number).transpose()?.and_then(NonZeroU64::new);
    let rate = rate.ok_or("token: --rate must be given, and more than 0")?;
    // As much as makes up for a moment in which nobody asked in time.
    let cap = value(&options, 'c').map(number).transpose()?.unwrap_or(rate.get() / 10);
    Ok(Bucket::new(rate, cap))
}

fn meminfo(words: &mut VecDeque<OsString>) -> Result<Meminfo, String> {
    let (options, names) = options_before_dashes(words, MEMINFO.flags)?;
    none_left(&names, &VecDeque::new())?;
    let percent = |letter, name| {
        let percent = value(&options, letter).map(number).transpose()?.filter(|percent| *percent <= 100);
        percent.ok_or(format!("meminfo: --{name} must be given, from 0 to 100"))
    };
    let (high, low) = (percent('H', "high")?, percent('L', "low")?);
    if low > high {
        return Err("meminfo: --low must not be above --high".to_owned());
    }
    let period = value(&options, 'p').map(number).transpose()?.unwrap_or(100);
    if period == 0 {
        return Err("meminfo: --period must be more than 0".to_owned());
    }
    let inner = match value(&options, 't').map(OsStr::as_bytes) {
        Some(b"token") => token(words)?,
        _ => return Err("meminfo: the limiter below it must be -t token".to_owned()),
    };
    Ok(Meminfo::new(high, low, Duration::from_millis(period), inner))
}

fn none_left(names: &[OsString], words: &VecDeque<OsString>) -> Result<(), String> {
    match names.first().or(words.front()) {
        None => Ok(()),
        Some(word) => Err(format!("{}: nothing is expected there", word.display())),
    }
}

type Options = Vec<(char, OsString)>;

/// The last value of an option counts.
fn value(options: &Options, letter: char) -> Option<&OsStr> {
    options.iter().rev().find(|(name, _)| *name == letter).map(|(_, value)| value.as_os_str())
}

/// Takes the words up to the next `--`, that included: options with their values, and names. `known` holds what
/// may be given.
fn options_before_dashes(words: &mut VecDeque<OsString>, known: &[Flag]) -> Result<(Options, Vec<OsString>), String> {
    let (mut options, mut names) = (Options::new(), Vec::new());
    while let Some(word) = words.pop_front() {
        let (letter, attached) = match word.as_bytes() {
            b"--" => break,
            [b'-', b'-', long @ ..] => long_option(long, known),
            [b'-', letter, rest @ ..] => short_option(*letter, rest, known),
            _ => {
                names.push(word);
                continue;
            }
        }
        .ok_or_else(|| format!("{}: no such option", word.display()))?;
        let value = match attached {
            Some(value) => value,
            None if letter == 'h' => OsString::new(),
            None => words.pop_front().ok_or_else(|| format!("{}: a value is missing", word.display()))?,
        };
        options.push((letter, value));
    }
    Ok((options, names))
}

fn long_option(text: &[u8], known: &[Flag]) -> Option<(char, Option<OsString>)> {
    let (name, value) = match text.iter().position(|byte| *byte == b'=') {
        Some(at) => (&text[..at], Some(OsStr::from_bytes(&text[at + 1..]).to_owned())),
        None => (text, None),
    };
    let found = known.iter().find(|known| known.long.is_some_and(|long| long.as_bytes() == name))?;
    Some((char::from(found.letter?), value))
}

fn short_option(letter: u8, rest: &[u8], known: &[Flag]) -> Option<(char, Option<OsString>)> {
    known.iter().find(|known| known.letter == Some(letter))?;
    Some((char::from(letter), (!rest.is_empty()).then(|| OsStr::from_bytes(rest).to_owned())))
}

/// A number with a suffix.
fn number(text: &OsStr) -> Result<u64, String> {
    let words = text.to_str().unwrap_or_default();
    let digits = words.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let factor = match &words[digits.len()..] {
        "" => Some(1),
        "K" => Some(1000),
        "M" => Some(1_000_000),
        "G" => Some(1_000_000_000),
        "Ki" => Some(1 << 10),
        "Mi" => Some(1 << 20),
        "Gi" => Some(1 << 30),
        _ => None,
    };
    let size = factor.zip(digits.parse::<u64>().ok()).and_then(|(factor, count)| count.checked_mul(factor));
    size.ok_or_else(|| format!("{}: not a number", text.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Command, String> {
        parse(line.split_whitespace().map(OsString::from))
    }

    fn arguments(line: &str) -> Arguments {
        match parsed(line) {
            Ok(Command::Serve(arguments)) => arguments,
            other => panic!("{line}: {other:?}"),
        }
    }

    fn rate_and_cap(line: &str) -> (u64, u64) {
        match arguments(line).limiter {
            Limiter::Token(bucket) => (bucket.rate(), bucket.cap()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn numbers_have_suffixes() {
        let values = ["7", "7K", "7M", "7G", "7Ki", "7Mi", "7Gi"].map(|text| number(OsStr::new(text)).unwrap());
        assert_eq!(values, [7, 7000, 7_000_000, 7_000_000_000, 7 << 10, 7 << 20, 7 << 30]);
        for text in ["", "K", "7k", "7KB", "-7", "7.5M", "99999999999G", "0x10"] {
            assert!(number(OsStr::new(text)).is_err(), "{text:?}");
        }
    }

    #[test]
    fn options_come_in_all_usual_shapes() {
        for line in ["gold -t token -- -r 10M -c 2Mi", "-ttoken gold -D0 -- --rate 10M --cap=2Mi"] {
            assert_eq!(rate_and_cap(line), (10_000_000, 2 << 20), "{line}");
        }
        assert_eq!(rate_and_cap("gold -t token -- -r 10M"), (10_000_000, 1_000_000));
        assert_eq!(rate_and_cap("gold -t token -- -r 10M -c 0"), (10_000_000, 0));
        let arguments = arguments("/run/x -D 2 --type=token -- -r1");
        assert_eq!((arguments.name, arguments.level), (PathBuf::from("/run/x"), 2));
    }

    #[test]
    fn a_limiter_may_have_another_below_it() {
        match arguments("gold -t meminfo -- -H 20 -L 10 -t token -- -r 5K").limiter {
            Limiter::Meminfo(meminfo) => assert_eq!(meminfo.describe(), "high=20% low=10% period=100ms congested=no"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (line, reason) in [
            ("-t token -- -r 1", "one socket"),
            ("a b -t token -- -r 1", "one socket"),
            ("a", "-t is missing"),
            ("a -t leaky -- -r 1", "token or meminfo"),
            ("a -t token", "--rate"),
            ("a -t token -- -r 0", "more than 0"),
            ("a -t token -- -r", "a value is missing"),
            ("a -t token -- -x 1", "no such option"),
            ("a -t token -- -r 1 more", "nothing is expected"),
            ("a -t meminfo -- -L 1 -t token -- -r 1", "--high"),
            ("a -t meminfo -- -H 101 -L 1 -t token -- -r 1", "0 to 100"),
            ("a -t meminfo -- -H 10 -L 11 -t token -- -r 1", "must not be above"),
            ("a -t meminfo -- -H 10 -L 1 -p 0 -t token -- -r 1", "--period"),
            ("a -t meminfo -- -H 10 -L 1", "-t token"),
            ("a -t meminfo -- -H 10 -L 1 -t token -- -r 1 -- x", "nothing is expected"),
        ] {
            let said = parsed(line).unwrap_err();
            assert!(said.contains(reason), "{line}: {said}");
        }
        assert!(matches!(parsed("-h"), Ok(Command::Help)));
    }
}
