//! The project's own commands: set up, test, check, demonstrate.
//!
//! Each command is one module; this one only finds it. Everything that CI does can be done here, by the same words.

#![forbid(unsafe_code)]

mod bench;
mod demo;
mod fuzz;
mod layers;
mod licences;
mod mutants;
mod process;
mod setup;
mod steps;
mod test;
mod tidy;
mod unpack;
mod workspace;
mod xen_lab;

use std::env;
use std::process::ExitCode;

use anyhow::{Result, bail};

use workspace::Workspace;

struct Command {
    name: &'static str,
    arguments: &'static str,
    summary: &'static str,
    run: fn(&Workspace, &[String]) -> Result<()>,
}

const COMMANDS: &[Command] = &[
    Command {
        name: "demo",
        arguments: "[ARGUMENT...]",
        summary: "build the programs and show them at work (no root needed); arguments go to `oxtap demo`",
        run: demo::run,
    },
    Command {
        name: "bench",
        arguments: "[NAME...] [--rounds N] [--seconds S] [--smoke] [--json] [--directory DIR]",
        summary: "build the programs and measure them (docs/performance.md); what goes on behind bench goes to `oxtap-bench`",
        run: bench::run,
    },
    Command {
        name: "test",
        arguments: "[--long] [FILTER...]",
        summary: "everything: set-up, formatting, lints, layers, tidy, build, all tests, mutants;\n\
                  with filters only the tests whose names contain one of them",
        run: test::run,
    },
    Command {
        name: "xen-lab",
        arguments: "[OPTION...] SCRIPT",
        summary: "run a script in the dom0 of a real Xen, emulated by QEMU (no root, no KVM); --usage tells the options",
        run: xen_lab::run,
    },
    Command {
        name: "setup",
        arguments: "[--check]",
        summary: "install the Debian packages that tests and demo use; --check only says what is missing",
        run: setup::run,
    },
    Command {
        name: "layers",
        arguments: "",
        summary: "check that each crate imports only what the table of layers allows",
        run: layers::run,
    },
    Command {
        name: "tidy",
        arguments: "[--shrink]",
        summary: "check the rules of style that a machine can check; --shrink lowers the length ratchet",
        run: tidy::run,
    },
    Command {
        name: "licences",
        arguments: "",
        summary: "check licences and origin of all dependencies against deny.toml",
        run: licences::run,
    },
    Command {
        name: "fuzz",
        arguments: "[TARGET...] [--seconds N]",
        summary: "let fuzzers look for what the doors to strangers do not survive, each for N seconds (10)",
        run: fuzz::run,
    },
    Command {
        name: "mutants",
        arguments: "[--ci] [NAME...]",
        summary: "apply each deliberate defect of tests/mutants to a copy, and see its test fail;\n\
                  --ci runs only those that `test` runs",
        run: mutants::run,
    },
];

const ENVIRONMENT: &str = "\
environment:
  OXTAP_SEED=N        repeat a random test with the seed that it printed
  OXTAP_FRESH_SEED=N  what random tests begin with that were given no seed
  OXTAP_LONG=1        long forms of the tests (what `test --long` sets)
  CI=true             a test that cannot run here is a failure, and Cargo.lock must be up to date
";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<()> {
    let Some((name, rest)) = arguments.split_first() else {
        print!("{}", help());
        bail!("which command?");
    };
    if matches!(name.as_str(), "help" | "--help" | "-h") || rest.iter().any(|argument| argument == "--help") {
        print!("{}", help());
        return Ok(());
    }
    match COMMANDS.iter().find(|command| command.name == name) {
        Some(command) => (command.run)(&Workspace::load()?, rest),
        None => bail!("no command named {name:?}; `cargo xtask help` lists them"),
    }
}

fn help() -> String {
    let mut text = String::from("usage: cargo xtask COMMAND\n\ncommands:\n");
    for command in COMMANDS {
        let usage = format!("{} {}", command.name, command.arguments);
        text.push_str(&format!("  {}\n", usage.trim_end()));
        for line in command.summary.lines() {
            text.push_str(&format!("      {line}\n"));
        }
    }
    text + "\n" + ENVIRONMENT
}

/// For commands that take no arguments.
fn expect_no_arguments(arguments: &[String]) -> Result<()> {
    match arguments.first() {
        Some(unexpected) => bail!("unexpected argument {unexpected:?}; see `cargo xtask help`"),
        None => Ok(()),
    }
}
