//! Completions as shells take them: each file is sourced by its own shell, and asked.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use test_support::require_tool;

fn completions(shell: &str) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging/completions").join(shell);
    let mut files: Vec<PathBuf> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert_eq!(files.len(), 9, "{shell}");
    files
}

/// What a script prints; it is to have nothing to complain about.
fn output(shell: &str, options: &[&str], script: &str) -> String {
    let mut command = Command::new(require_tool(shell));
    let output = command.args(options).arg("-c").arg(script).output().unwrap();
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && complaints.is_empty(), "{shell}: {complaints}\n{script}");
    String::from_utf8(output.stdout).unwrap()
}

/// What bash offers behind these words, the last of which is being written.
fn bash_offers(words: &[&str]) -> Vec<String> {
    let file = &completions("bash").into_iter().find(|file| file.ends_with(words[0])).unwrap();
    let (list, last) = (words.join(" "), words.len() - 1);
    // The file says which function completes the program; it is called as bash does it.
    let script = format!(
        "source {file}\n\
         COMP_WORDS=({list}) COMP_CWORD={last} COMPREPLY=()\n\
         [ {last} -lt ${{#COMP_WORDS[@]}} ] || COMP_WORDS+=('')\n\
         function=$(complete -p {program} | sed 's/.* -F \\([^ ]*\\) .*/\\1/')\n\
         $function {program} \"${{COMP_WORDS[{last}]}}\" \"${{COMP_WORDS[{last} - 1]}}\"\n\
         printf '%s\\n' \"${{COMPREPLY[@]}}\"\n",
        file = file.display(),
        program = words[0],
    );
    output("bash", &["--norc"], &script).lines().map(str::to_owned).collect()
}

#[test]
fn bash_offers_commands_flags_and_values() {
    let commands = bash_offers(&["vhd-util", "''"]);
    for command in ["create", "snapshot", "query", "set", "repair"] {
        assert!(commands.iter().any(|offer| offer == command), "{command}: {commands:?}");
    }
    assert_eq!(bash_offers(&["vhd-util", "snap"]), ["snapshot"]);
    let flags = bash_offers(&["vhd-util", "snapshot", "-"]);
    for flag in ["-n", "-p", "-m", "-e", "-l", "-S", "-h", "--debug"] {
        assert!(flags.iter().any(|offer| offer == flag), "{flag}: {flags:?}");
    }
    assert!(!flags.iter().any(|offer| offer == "-v"), "{flags:?}");
    assert_eq!(bash_offers(&["vhd-util", "set", "-f", "m"]), ["marker"]);
    assert_eq!(bash_offers(&["tapdisk", "--engine", "lib"]), ["libaio"]);
    assert_eq!(bash_offers(&["td-rated", "-t", "mem"]), ["meminfo"]);
    assert_eq!(bash_offers(&["oxtap", "ser"]), ["serve"]);
}

#[test]
fn every_shell_takes_every_file() {
    for file in completions("bash") {
        output("bash", &["--norc"], &format!("source {}", file.display()));
    }
    for file in completions("fish") {
        output("fish", &["--no-config"], &format!("source {}", file.display()));
    }
    let directory = completions("zsh")[0].parent().unwrap().to_owned();
    for file in completions("zsh") {
        let name = file.file_name().unwrap().to_str().unwrap();
        let program = name.strip_prefix('_').unwrap();
        let script = format!(
            "fpath=({} $fpath); autoload -Uz compinit; compinit -u -D; print $_comps[{program}]; autoload +X {name}",
            directory.display()
        );
        assert_eq!(output("zsh", &["-f"], &script).trim_end(), name);
    }
}

#[test]
fn fish_offers_commands_flags_and_values() {
    let offers = |line: &str| {
        let file =
            completions("fish").into_iter().find(|file| file.file_stem().unwrap().to_str() == line.split(' ').next());
        let script = format!("source {}; complete -C '{line}'", file.unwrap().display());
        output("fish", &["--no-config"], &script)
    };
    assert!(offers("vhd-util snap").starts_with("snapshot\t"), "{}", offers("vhd-util snap"));
    let flags = offers("vhd-util snapshot -");
    for flag in ["-n", "-p", "-S", "--debug"] {
        assert!(flags.lines().any(|line| line.split('\t').next() == Some(flag)), "{flag}: {flags}");
    }
    assert!(offers("vhd-util set -f m").starts_with("marker"), "{}", offers("vhd-util set -f m"));
}
