//! The table: programs, their commands, and the flags of these.

/// A program.
#[derive(Clone, Debug)]
pub struct Program {
    /// Its name.
    pub name: &'static str,
    /// The section of the manual that has its page.
    pub section: u8,
    /// What it is for, in one line.
    pub about: &'static str,
    /// Its commands. One without a name is the program itself.
    pub commands: Vec<Syntax>,
    /// Flags that all commands have, and that each one's table leaves out.
    pub common: &'static [Flag],
    /// Its manual page, with places for what comes from the table; see [`Program::manual`].
    pub page: &'static str,
}

/// What a command understands.
#[derive(Clone, Copy, Debug)]
pub struct Syntax {
    /// Its name.
    pub name: &'static str,
    /// What it is for, in one line.
    pub about: &'static str,
    /// What the manual says of it: paragraphs with an empty line between them, `bold` in backquotes, *slanted* in stars.
    pub text: &'static str,
    /// Its flags, in the order in which they are shown. All commands have `-h` besides.
    pub flags: &'static [Flag],
    /// Its words that are no flags; they may stand anywhere between these.
    pub operands: &'static [Operand],
}

/// One flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flag {
    /// `-n`.
    pub letter: Option<u8>,
    /// `--name`.
    pub long: Option<&'static str>,
    /// What follows it, if anything does.
    pub value: Option<Value>,
    /// What it is or does, in few words.
    pub words: &'static str,
    /// The same in sentences, for the manual; empty if the words say it all. Markup as in [`Syntax::text`].
    pub text: &'static str,
    /// Whether the command makes sense without it. The command sees to that, not the parser.
    pub is_required: bool,
    /// It is an alternative to the flag before it: usage and manual show them so.
    pub is_alternative: bool,
}

/// What follows a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value {
    /// What to call it: `MiB`.
    pub name: &'static str,
    /// What it can be.
    pub completes: Completes,
}

/// A word of a command that is no flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operand {
    /// What to call it.
    pub name: &'static str,
    /// What it can be.
    pub completes: Completes,
    /// Any number of them.
    pub is_repeated: bool,
}

/// What a shell can offer for a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completes {
    /// Nothing: a number, a UUID.
    Nothing,
    /// The name of a file.
    File,
    /// One of these.
    OneOf(&'static [&'static str]),
}

/// How a command asks for a flag: by its letter, or by its long name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// `-n`.
    Letter(u8),
    /// `--name`.
    Long(&'static str),
}

impl From<u8> for Key {
    fn from(letter: u8) -> Key {
        Key::Letter(letter)
    }
}

impl From<&'static str> for Key {
    fn from(name: &'static str) -> Key {
        Key::Long(name)
    }
}

/// `-h`, which every command has.
pub const HELP: Flag = Flag::letter(b'h', "help").explained("Print the options.");

impl Flag {
    /// `-n`, and what it is or does in few words.
    pub const fn letter(letter: u8, words: &'static str) -> Flag {
        Flag { letter: Some(letter), long: None, ..Flag::long("", words) }
    }

    /// `--name`, and what it is or does in few words.
    pub const fn long(name: &'static str, words: &'static str) -> Flag {
        Flag { letter: None, long: Some(name), value: None, words, text: "", is_required: false, is_alternative: false }
    }

    /// It has a long name as well.
    pub const fn or_long(self, name: &'static str) -> Flag {
        Flag { long: Some(name), ..self }
    }

    /// It has a value.
    pub const fn with(self, value: Value) -> Flag {
        Flag { value: Some(value), ..self }
    }

    /// The command makes no sense without it.
    pub const fn required(self) -> Flag {
        Flag { is_required: true, ..self }
    }

    /// It is an alternative to the flag before it.
    pub const fn or_the_last(self) -> Flag {
        Flag { is_alternative: true, ..self }
    }

    /// What the manual says of it.
    pub const fn explained(self, text: &'static str) -> Flag {
        Flag { text, ..self }
    }

    /// As it is written: by its letter if it has one.
    pub fn name(&self) -> String {
        match (self.letter, self.long) {
            (Some(letter), _) => format!("-{}", char::from(letter)),
            (None, Some(long)) => format!("--{long}"),
            (None, None) => unreachable!("a flag has a letter or a name"),
        }
    }

    pub(crate) fn is(&self, key: Key) -> bool {
        match key {
            Key::Letter(letter) => self.letter == Some(letter),
            Key::Long(name) => self.long == Some(name),
        }
    }
}

impl Value {
    /// Something that a shell knows nothing about.
    pub const fn text(name: &'static str) -> Value {
        Value { name, completes: Completes::Nothing }
    }

    /// A file.
    pub const fn file(name: &'static str) -> Value {
        Value { name, completes: Completes::File }
    }

    /// One of several words.
    pub const fn one_of(name: &'static str, words: &'static [&'static str]) -> Value {
        Value { name, completes: Completes::OneOf(words) }
    }
}

impl Operand {
    /// Something that a shell knows nothing about.
    pub const fn text(name: &'static str) -> Operand {
        Operand { name, completes: Completes::Nothing, is_repeated: false }
    }

    /// A file.
    pub const fn file(name: &'static str) -> Operand {
        Operand { name, completes: Completes::File, is_repeated: false }
    }

    /// One of several words.
    pub const fn one_of(name: &'static str, words: &'static [&'static str]) -> Operand {
        Operand { name, completes: Completes::OneOf(words), is_repeated: false }
    }

    /// Any number of them.
    pub const fn repeated(self) -> Operand {
        Operand { is_repeated: true, ..self }
    }
}

impl Syntax {
    /// The flag of this key; `-h` is every command's.
    pub(crate) fn flag(&self, key: Key) -> Option<&'static Flag> {
        self.flags.iter().find(|flag| flag.is(key)).or((key == Key::Letter(b'h')).then_some(&HELP))
    }

    /// All flags and operands in one line: `<-n name> [-v virtual size in MiB]`, without `-h`.
    pub fn usage(&self) -> String {
        let groups = self.flags.chunk_by(|_, next| next.is_alternative).map(usage_of_group);
        let operands = self.operands.iter().map(|operand| match operand.is_repeated {
            true => format!("[{}...]", operand.name),
            false => format!("<{}>", operand.name),
        });
        groups.chain(operands).collect::<Vec<_>>().join(" ")
    }
}

fn usage_of_group(group: &[Flag]) -> String {
    let members: Vec<String> = group.iter().map(|flag| format!("{} {}", flag.name(), flag.words)).collect();
    let members = members.join(" | ");
    if group[0].is_required { format!("<{members}>") } else { format!("[{members}]") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_shows_what_is_needed_and_what_may_be_left_out() {
        const SYNTAX: Syntax = Syntax {
            name: "get",
            about: "",
            text: "",
            flags: &[
                Flag::letter(b'n', "name").with(Value::file("log")).required(),
                Flag::letter(b'p', "parent").required(),
                Flag::letter(b'c', "child").or_the_last(),
                Flag::letter(b'r', "rate").or_long("rate").with(Value::text("N")),
                Flag::long("json", "as JSON"),
            ],
            operands: &[Operand::text("size"), Operand::file("image").repeated()],
        };
        let expected = "<-n name> <-p parent | -c child> [-r rate] [--json as JSON] <size> [image...]";
        assert_eq!(SYNTAX.usage(), expected);
    }
}
