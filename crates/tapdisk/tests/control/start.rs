//! Starting: what the program says, and that nobody believes it is there when it is not.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    process::Command,
};

use crate::host::{Host, Said, eventually, names, said};
use test_support::program_directory;

fn tapdisk(host: &Host, words: &[&str]) -> Said {
    said(host.place.program("tapdisk").args(words).output().unwrap())
}

/// A program in the search path of the test.
fn script(host: &Host, name: &str, text: &str) -> Command {
    let directory = host.place.scratch().join("bin");
    fs::create_dir_all(&directory).unwrap();
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o755).open(directory.join(name)).unwrap();
    file.write_all(format!("#!/bin/sh\n{text}\n").as_bytes()).unwrap();
    let mut command = host.command(&["spawn"]);
    let path = [directory, program_directory(), "/usr/bin".into(), "/bin".into()];
    command.env("PATH", std::env::join_paths(path).unwrap()).env("TAPDISK", name);
    command
}

#[test]
fn the_command_line_knows_two_letters() {
    let host = Host::new();
    let help = tapdisk(&host, &["-h"]);
    assert_eq!((help.status, help.stdout.as_str()), (0, ""));
    assert!(help.stderr.starts_with("usage: tapdisk "), "{}", help.stderr);
    assert!(["  -D ", "  -h "].iter().all(|letter| help.stderr.contains(letter)), "{}", help.stderr);
    for words in [&["-x"][..], &["image.vhd"], &["--engine", "steam"]] {
        let Said { status, stdout, stderr } = tapdisk(&host, words);
        assert_eq!((status, stdout.as_str(), stderr), (22, "", help.stderr.clone()));
    }
}

#[test]
fn the_line_comes_when_it_serves() {
    let host = Host::new();
    let started = tapdisk(&host, &[]);
    assert_eq!((started.status, started.stderr.as_str()), (0, ""));
    let socket = started.stdout.trim_end();
    let pid = socket.rsplit_once("/ctl").unwrap().1.parse().unwrap();
    assert_eq!(socket, host.run.control_socket(pid).display().to_string());
    assert_eq!(host.client(pid).pid().unwrap(), pid);
    assert_eq!(names(host.run.path()), [format!("ctl{pid}"), format!("nbdclient{pid}"), format!("oxtap{pid}")]);
    let command_line = fs::read(format!("/proc/{pid}/cmdline")).unwrap();
    assert!(!command_line.is_empty());
}

#[test]
fn a_spawned_tapdisk_is_called_so() {
    let host = Host::new();
    let pid = host.spawn();
    assert_eq!(fs::read(format!("/proc/{pid}/cmdline")).unwrap(), b"tapdisk\0");
    let status = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let session = status.rsplit_once(')').unwrap().1.split_whitespace().nth(3).unwrap();
    assert_eq!(session, pid.to_string(), "it leads a session of its own");
}

#[test]
fn only_its_owner_may_connect() {
    let host = Host::new();
    let output = said(script(&host, "careless", "umask 0; exec tapdisk \"$@\"").output().unwrap());
    let pid = output.stdout.trim().parse().unwrap();
    let mode = fs::metadata(host.run.control_socket(pid)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o755);
}

#[test]
fn an_engine_that_does_not_work_is_the_reason() {
    let host = Host::new();
    let text = "ulimit -n 4\nexec tapdisk \"$@\"";
    let Said { status, stdout, stderr } = said(script(&host, "starved", text).output().unwrap());
    assert_ne!(status, 0);
    assert_eq!((stdout.as_str(), stderr.lines().count()), ("", 1));
    assert!(stderr.starts_with("starved: tapdisk: "), "{stderr}");
    host.place.assert_nothing_left();
}

#[test]
fn a_statistics_directory_of_others_is_the_reason() {
    let host = Host::new();
    let root = host.run.shared_memory_root();
    fs::create_dir_all(root).unwrap();
    let text = format!("d={}/td3-$$; mkdir $d; chmod 777 $d; echo >$d/vdi-0; exec tapdisk -D \"$@\"", root.display());
    let Said { status, stdout, stderr } = said(script(&host, "squatter", &text).output().unwrap());
    assert_eq!((status, stdout.as_str(), stderr.lines().count()), (1, "", 1), "{stderr}");
    assert!(stderr.contains("/td3-") && stderr.contains("belongs to somebody else"), "{stderr}");
    let [left] = &names(root)[..] else { panic!("nothing else is there") };
    assert!(root.join(left).join("vdi-0").exists());
    fs::remove_dir_all(root.join(left)).unwrap();
}

#[test]
fn a_script_that_forks_may_stand_in_for_it() {
    let host = Host::new();
    let output = said(script(&host, "wrapper", "tapdisk -D 2>/dev/null &").output().unwrap());
    assert_eq!((output.status, output.stderr.as_str()), (0, ""));
    let pid = output.stdout.trim().parse().unwrap();
    assert_eq!(host.client(pid).pid().unwrap(), pid);
}

#[test]
fn one_that_dies_behind_its_line_was_not_spawned() {
    let host = Host::new();
    let text = "echo $OXTAP_RUN_DIR/ctl$$; echo out of luck >&2; exit 12";
    let Said { status, stdout, stderr } = said(script(&host, "mayfly", text).output().unwrap());
    assert_eq!((status, stdout.as_str()), (12, ""));
    assert_eq!(stderr, "mayfly: out of luck: Cannot allocate memory\n");
}

#[test]
fn each_engine_can_be_chosen() {
    for engine in ["io_uring", "libaio", "threads"] {
        let host = Host::new();
        let image = crate::host::aio(&host.raw_image("a.img", 1 << 20));
        let output = host.command(&["create", "-a", &image]).env("OXTAP_ENGINE", engine).output().unwrap();
        assert!(output.status.success(), "{engine}: {output:?}");
    }
}

#[test]
fn a_tapdisk_that_was_started_for_use_ends_if_nobody_uses_it() {
    let host = Host::new();
    let spawn = |seconds| -> u32 {
        let started = said(host.command(&["spawn"]).env("OXTAP_UNUSED_SECONDS", seconds).output().unwrap());
        assert_eq!((started.status, started.stderr.as_str()), (0, ""));
        started.stdout.trim().parse().unwrap()
    };
    let used = spawn("5");
    let slot = host.attach(used);
    let unused = spawn("6");
    // By then the time of the first is over.
    eventually("nobody has used it", || host.run.tapdisks().unwrap() == [used]);
    assert_ne!(used, unused);
    assert_eq!(host.client(used).pid().unwrap(), used);
    host.ok(&["destroy", "-p", &used.to_string(), "-m", &slot]);
    host.place.assert_nothing_left();
}
