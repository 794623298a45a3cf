//! `oxtap bench`: the benchmarks are a program of their own, which is started in our place.

use std::{
    env, io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
};

use block_core::{Error, Result};

use super::arguments::Bench;

const PROGRAM: &str = "oxtap-bench";
/// Where packages put it.
const INSTALLED: &str = "/usr/libexec/oxtap-bench";

pub(super) fn run(arguments: &Bench) -> Result<()> {
    let mut command = command(&place(env::current_exe().ok().as_deref()), arguments);
    // It only comes back if it could not begin.
    let error: io::Error = command.exec();
    Err(Error::from_os(command.get_program().display().to_string(), error))
}

/// Beside this program, else where it is installed.
fn place(ours: Option<&Path>) -> PathBuf {
    let beside = ours.map(|ours| ours.with_file_name(PROGRAM));
    beside.filter(|path| path.is_file()).unwrap_or_else(|| INSTALLED.into())
}

fn command(program: &Path, arguments: &Bench) -> Command {
    let Bench { names, quick, rounds, seconds, json, plots, directory } = arguments;
    let mut command = Command::new(program);
    command.args(quick.then_some("--quick")).args(json.then_some("--json"));
    let number = |name: &str, value: Option<String>| value.map(|value| format!("--{name}={value}"));
    command.args(number("rounds", rounds.map(|rounds| rounds.to_string())));
    command.args(number("seconds", seconds.map(|seconds| seconds.to_string())));
    for (name, path) in [("--plots", plots), ("--directory", directory)] {
        if let Some(path) = path {
            command.arg(name).arg(path);
        }
    }
    command.args(names);
    command
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oxtap::arguments::{Arguments, Command as Commands};
    use clap::Parser;

    #[test]
    fn what_is_asked_is_handed_on() {
        let line =
            ["oxtap", "bench", "peers", "chains", "--rounds", "7", "--seconds", "0.5", "--plots", "/p", "--json"];
        let Commands::Bench(bench) = Arguments::parse_from(line).command else { panic!("another command") };
        let command = command(Path::new("/usr/libexec/oxtap-bench"), &bench);
        let words: Vec<_> = command.get_args().map(|word| word.to_str().unwrap()).collect();
        assert_eq!(words, ["--json", "--rounds=7", "--seconds=0.5", "--plots", "/p", "peers", "chains"]);
    }

    #[test]
    fn it_is_looked_for_beside_this_program_first() {
        let directory = tempfile::tempdir().unwrap();
        let ours = directory.path().join("oxtap");
        assert_eq!(place(Some(&ours)), Path::new(INSTALLED));
        std::fs::write(directory.path().join(PROGRAM), "").unwrap();
        assert_eq!(place(Some(&ours)), directory.path().join(PROGRAM));
    }
}
