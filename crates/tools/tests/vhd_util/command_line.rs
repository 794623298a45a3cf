//! Commands and options that are not understood.

use super::place::{Ended, Place};

const COMMANDS: [&str; 12] =
    ["create", "snapshot", "query", "read", "set", "repair", "check", "scan", "resize", "fill", "modify", "revert"];

#[test]
fn whoever_knows_no_command_is_told_them_all() {
    let place = Place::new();
    let overview = place.ask("");
    let names = overview.strip_prefix("usage: vhd-util COMMAND [OPTIONS]\nCOMMAND := { ");
    let names: Vec<&str> = names.and_then(|names| names.strip_suffix(" }\n")).unwrap().split(" | ").collect();
    assert!(COMMANDS.iter().all(|command| names.contains(command)), "{names:?}");
    let ended = place.run("mince -n a.vhd");
    let stderr = "invalid COMMAND mince\n".to_owned();
    assert_eq!(ended, Ended { status: 0, stdout: overview, stderr });
}

#[test]
fn option_errors_print_the_usage_on_stdout_and_end_with_22() {
    let place = Place::new();
    place.make("create -n a.vhd -s 2");
    let before = place.everything();
    let lines = [
        "create",
        "create -n b.vhd",
        "create -s 2",
        "create -n",
        "create -n b.vhd -s 2 -x",
        "create -n b.vhd -s 2 surplus",
        "snapshot -n b.vhd",
        "snapshot -p a.vhd",
        "snapshot -n b.vhd -p a.vhd surplus",
        "query",
        "query -v",
        "query -n a.vhd -v surplus",
        "query -n a.vhd -x",
        "read -p",
        "read -n a.vhd -q",
        "resize -n a.vhd -s 4",
        "resize -n a.vhd -j j",
        "revert -n a.vhd",
        "set -n a.vhd -f hidden",
        "set -n a.vhd -v 1",
        "set -f hidden -v 1",
    ];
    for line in lines {
        let ended = place.run(line);
        assert_eq!((ended.status, ended.stderr.as_str()), (22, ""), "{line}");
        assert!(ended.stdout.starts_with("options: <-n name> ") && ended.stdout.ends_with(" [-h help]\n"), "{line}");
        assert_eq!(ended.stdout.lines().count(), 1, "{line}");
    }
    assert_eq!(place.everything(), before);
}

#[test]
fn help_ends_with_22_where_it_always_has() {
    let place = Place::new();
    for (command, status) in [("create", 22), ("snapshot", 0), ("query", 0), ("read", 22), ("set", 22)] {
        let ended = place.run(&format!("{command} -h"));
        assert_eq!((ended.status, ended.stderr.as_str()), (status, ""), "{command}");
        assert!(ended.stdout.starts_with("options: <-n name> "), "{command}");
    }
}

#[test]
fn debug_is_taken_anywhere_behind_the_command() {
    let place = Place::new();
    place.make("create --debug -n a.vhd -s 2");
    assert_eq!(place.ask("query -n a.vhd --debug -v"), "2\n");
    assert_eq!(place.ask("query -n a.vhd -v --debug"), "2\n");
}
