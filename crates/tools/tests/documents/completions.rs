//! Completions of all programs for bash, zsh and fish.

use std::collections::BTreeMap;

use clap::{Arg, ArgAction, Command, CommandFactory, ValueHint, builder::PossibleValuesParser};
use clap_complete::{Shell, generate};
use command_line::{Completes, Flag, HELP, Program, Syntax};

use super::{check, programs};

const DIRECTORY: &str = "packaging/completions";

#[test]
fn completions_are_made_from_the_tables() {
    let commands = commands();
    assert_eq!(commands.len(), 9);
    let shells = [Shell::Bash, Shell::Zsh, Shell::Fish];
    let all = shells.into_iter().flat_map(|shell| commands.iter().map(move |command| (shell, command)));
    let documents: BTreeMap<String, String> =
        all.map(|(shell, command)| (place(shell, command.get_name()), text(shell, command))).collect();
    check(DIRECTORY, &documents);
}

/// Where shells look for the completions of a program, below a directory for each shell.
fn place(shell: Shell, program: &str) -> String {
    match shell {
        Shell::Zsh => format!("zsh/_{program}"),
        Shell::Fish => format!("fish/{program}.fish"),
        other => format!("{other}/{program}"),
    }
}

fn text(shell: Shell, command: &Command) -> String {
    let name = command.get_name();
    if shell != Shell::Bash {
        return generated(shell, command, name);
    }
    // The library writes a dash in two ways there, so that no command behind a name with one is found: it is written
    // without, but where bash is told whose completions these are.
    let plain = name.replace('-', "_");
    generated(shell, command, &plain).replace(&format!(" {plain}\n"), &format!(" {name}\n"))
}

fn generated(shell: Shell, command: &Command, name: &str) -> String {
    let mut text = Vec::new();
    generate(shell, &mut command.clone(), name, &mut text);
    String::from_utf8(text).unwrap()
}

/// All programs, in the words of the library that writes completions.
fn commands() -> Vec<Command> {
    let others = [
        tools::oxtap::arguments::Arguments::command(),
        tapback::Arguments::command(),
        tapback::ScriptArguments::command(),
    ];
    programs().iter().map(command).chain(others).collect()
}

fn command(program: &Program) -> Command {
    let command = bare(program.name).about(program.about);
    match program.commands.iter().find(|syntax| syntax.name.is_empty()) {
        Some(itself) => {
            // What follows `--` has flags of its own; a shell offers them all.
            let rest = program.commands.iter().filter(|syntax| !syntax.name.is_empty());
            let flags = itself.flags.iter().chain(rest.flat_map(|syntax| syntax.flags));
            let flags: BTreeMap<String, Flag> = flags.rev_by_name();
            operands(command.args(flags.values().map(flag)), itself)
        }
        None => command.subcommands(program.commands.iter().map(|syntax| {
            let subcommand = bare(syntax.name).about(syntax.about);
            operands(subcommand.args(syntax.flags.iter().chain(program.common).chain([&HELP]).map(flag)), syntax)
        })),
    }
}

/// A command that has only what it is given.
fn bare(name: &'static str) -> Command {
    Command::new(name).disable_help_flag(true).disable_version_flag(true).disable_help_subcommand(true)
}

trait ByName {
    /// Each flag once; the first of a name counts.
    fn rev_by_name(self) -> BTreeMap<String, Flag>;
}

impl<'a, I: DoubleEndedIterator<Item = &'a Flag>> ByName for I {
    fn rev_by_name(self) -> BTreeMap<String, Flag> {
        self.rev().map(|flag| (flag.name(), *flag)).collect()
    }
}

// Names of arguments are 'static there, and few here.
fn flag(flag: &Flag) -> Arg {
    let mut arg = Arg::new(&*flag.name().leak()).help(flag.words);
    if let Some(letter) = flag.letter {
        arg = arg.short(char::from(letter));
    }
    if let Some(long) = flag.long {
        arg = arg.long(long);
    }
    match flag.value {
        Some(value) => completing(arg.action(ArgAction::Set).value_name(value.name), value.completes),
        None => arg.action(ArgAction::SetTrue),
    }
}

fn operands(command: Command, syntax: &Syntax) -> Command {
    syntax.operands.iter().enumerate().fold(command, |command, (index, operand)| {
        let arg = Arg::new(&*format!("operand{index}").leak()).value_name(operand.name).action(ArgAction::Set);
        let arg = if operand.is_repeated { arg.action(ArgAction::Append).num_args(0..) } else { arg };
        command.arg(completing(arg, operand.completes))
    })
}

fn completing(arg: Arg, completes: Completes) -> Arg {
    match completes {
        Completes::Nothing => arg.value_hint(ValueHint::Other),
        Completes::File => arg.value_hint(ValueHint::FilePath),
        Completes::OneOf(words) => arg.value_parser(PossibleValuesParser::new(words)),
    }
}
