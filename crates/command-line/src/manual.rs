//! Manual pages: what is written by hand, with what the table says in its places.
//!
//! ```text
//!   .TH ... .SH NAME      from the table
//!   .\" SYNOPSIS          here: one line for each command
//!   .SH DESCRIPTION ...   by hand
//!   .\" COMMANDS          here: .SS for each command, what it does, its flags
//!   .\" FLAGS             here: the flags of a command without a name; .\" COMMON: those that all commands have
//!   .SH EXIT STATUS ...   by hand
//! ```

use std::fmt::Write;

use crate::{Flag, HELP, Operand, Program, Syntax};

/// The names of sections, as everybody writes them.
const SECTIONS: [(u8, &str); 2] = [(1, "User commands"), (8, "System administration")];

impl Program {
    /// The manual page: [`Program::page`] with a head, and with the table's words where a line says `.\" SYNOPSIS`,
    /// `.\" COMMANDS`, `.\" FLAGS` or `.\" COMMON`.
    pub fn manual(&self) -> String {
        let section = SECTIONS.iter().find(|(number, _)| *number == self.section).map_or("", |(_, name)| name);
        let mut page = format!(".TH {} {} \"\" oxtap \"{section}\"\n", self.name.to_uppercase(), self.section);
        let _ = writeln!(page, ".SH NAME\n{} \\- {}", escaped(self.name), marked_up(&lower_first(self.about)));
        let named = self.commands.iter().filter(|command| !command.name.is_empty());
        let nameless = self.commands.iter().filter(|command| command.name.is_empty());
        for line in self.page.lines() {
            match line {
                ".\\\" SYNOPSIS" => page += &self.synopsis(),
                ".\\\" COMMANDS" => named.clone().for_each(|command| page += &command_section(command)),
                ".\\\" FLAGS" => nameless.clone().for_each(|command| page += &flags(command.flags)),
                ".\\\" COMMON" => page += &(flags(self.common) + &flag(&HELP)),
                line => page.extend([line, "\n"]),
            }
        }
        page
    }

    /// The file of the page: `vhd-util.1`.
    pub fn manual_name(&self) -> String {
        format!("{}.{}", self.name, self.section)
    }

    fn synopsis(&self) -> String {
        let lines = self.commands.iter().map(|command| {
            let name = [self.name, command.name].join(" ");
            let mut line = format!(".B {}\n", escaped(name.trim_end()));
            for group in command.flags.chunk_by(|_, next| next.is_alternative) {
                line += &synopsis_of_group(group);
            }
            for Operand { name, is_repeated, .. } in command.operands {
                let _ = match is_repeated {
                    true => writeln!(line, ".RI [ {} ...]", quoted(name)),
                    false => writeln!(line, ".I {}", escaped(name)),
                };
            }
            line
        });
        lines.collect::<Vec<_>>().join(".br\n")
    }
}

/// `.RB [ -s\ \fIMiB\fR ]`
fn synopsis_of_group(group: &[Flag]) -> String {
    let members: Vec<String> = group.iter().map(|flag| named(flag, &flag.name())).collect();
    let members = members.join("|");
    if group[0].is_required { format!("{members}\n") } else { format!("[{members}]\n") }
}

/// A flag and the name of its value, in bold and slanted.
fn named(flag: &Flag, name: &str) -> String {
    let joint = if name.starts_with("--") { "=" } else { "\\ " };
    let value = flag.value.map(|value| format!("{joint}\\fI{}\\fR", escaped(value.name).replace(' ', "\\ ")));
    format!("\\fB{}\\fR{}", escaped(name), value.unwrap_or_default())
}

fn command_section(command: &Syntax) -> String {
    format!(".SS {}\n{}{}", escaped(command.name), paragraphs(command.text, ".PP"), flags(command.flags))
}

fn flags(flags: &[Flag]) -> String {
    flags.iter().map(flag).collect()
}

fn flag(flag: &Flag) -> String {
    let names =
        [flag.letter.map(|letter| format!("-{}", char::from(letter))), flag.long.map(|long| format!("--{long}"))];
    let names: Vec<String> = names.into_iter().flatten().map(|name| named(flag, &name)).collect();
    let text = if flag.text.is_empty() { format!("{}.", upper_first(flag.words)) } else { flag.text.to_owned() };
    format!(".TP\n{}\n{}", names.join(", "), paragraphs(&text, ".IP"))
}

/// Text as roff has it: each sentence a line, paragraphs behind `between`.
fn paragraphs(text: &str, between: &str) -> String {
    let paragraphs = text.split("\n\n").filter(|paragraph| !paragraph.is_empty());
    let paragraphs = paragraphs.map(|paragraph| {
        let sentences = paragraph.replace(". ", ".\n").replace(": \n", ":\n");
        sentences.lines().map(|line| format!("{}\n", protected(&marked_up(line.trim())))).collect::<String>()
    });
    paragraphs.collect::<Vec<_>>().join(&format!("{between}\n"))
}

/// Backquotes to bold, stars to slanted.
fn marked_up(text: &str) -> String {
    let mut roff = String::new();
    let mut open: Option<char> = None;
    for letter in text.chars() {
        match (letter, open) {
            ('`' | '*', Some(mark)) if mark == letter => {
                roff += "\\fR";
                open = None;
            }
            ('`' | '*', None) => {
                roff += if letter == '`' { "\\fB" } else { "\\fI" };
                open = Some(letter);
            }
            _ => roff += &escaped(&letter.to_string()),
        }
    }
    assert!(open.is_none(), "a mark is left open: {text}");
    roff
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-")
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", escaped(text))
}

/// A line that begins like a request is none.
fn protected(line: &str) -> String {
    if line.starts_with(['.', '\'']) { format!("\\&{line}") } else { line.to_owned() }
}

fn lower_first(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default()
}

fn upper_first(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Value;

    const CREATE: Syntax = Syntax {
        name: "create",
        about: "Make one",
        text: "Makes an image. It is durable when `create` ends.\n\n.profile is no request.",
        flags: &[
            Flag::letter(b'n', "name").with(Value::file("image")).required().explained("Where to make it."),
            Flag::letter(b's', "size in MiB").with(Value::text("MiB")),
            Flag::letter(b'r', "rate").or_long("rate").with(Value::text("N")),
            Flag::letter(b'a', "all").required(),
            Flag::letter(b'b', "some").or_the_last(),
        ],
        operands: &[Operand::file("parent"), Operand::text("word").repeated()],
    };

    const COMMON: &[Flag] = &[Flag::long("debug", "to the log, too")];

    fn program() -> Program {
        Program {
            name: "vhd-util",
            section: 1,
            about: "Make images",
            commands: vec![CREATE],
            common: COMMON,
            page: ".SH SYNOPSIS\n.\\\" SYNOPSIS\n.SH COMMANDS\n.\\\" COMMANDS\n.SH COMMON\n.\\\" COMMON\n.SH FILES\n",
        }
    }

    #[test]
    fn a_page_is_what_is_written_and_what_the_table_says() {
        let expected = "\
.TH VHD-UTIL 1 \"\" oxtap \"User commands\"
.SH NAME
vhd\\-util \\- make images
.SH SYNOPSIS
.B vhd\\-util create
\\fB\\-n\\fR\\ \\fIimage\\fR
[\\fB\\-s\\fR\\ \\fIMiB\\fR]
[\\fB\\-r\\fR\\ \\fIN\\fR]
\\fB\\-a\\fR|\\fB\\-b\\fR
.I parent
.RI [ \"word\" ...]
.SH COMMANDS
.SS create
Makes an image.
It is durable when \\fBcreate\\fR ends.
.PP
\\&.profile is no request.
.TP
\\fB\\-n\\fR\\ \\fIimage\\fR
Where to make it.
.TP
\\fB\\-s\\fR\\ \\fIMiB\\fR
Size in MiB.
.TP
\\fB\\-r\\fR\\ \\fIN\\fR, \\fB\\-\\-rate\\fR=\\fIN\\fR
Rate.
.TP
\\fB\\-a\\fR
All.
.TP
\\fB\\-b\\fR
Some.
.SH COMMON
.TP
\\fB\\-\\-debug\\fR
To the log, too.
.TP
\\fB\\-h\\fR
Print the options.
.SH FILES
";
        assert_eq!(program().manual(), expected);
        assert_eq!(program().manual_name(), "vhd-util.1");
    }
}
