//! `cbt-util` as storage managers call it: what it prints, how it ends, and what it leaves on disk.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use test_support::target_program;

const NIL: &str = "00000000-0000-0000-0000-000000000000";
const UUID: &str = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9";
const BLOCK: u64 = 64 << 10;

/// A private directory with logs.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        Place(tempfile::Builder::new().prefix("oxtap-cbt-").tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(target_program("cbt-util"));
        command.args(line.split_whitespace()).current_dir(self.0.path()).stdin(Stdio::null());
        command
    }

    /// Status, stdout, stderr.
    fn run(&self, line: &str) -> (i32, Vec<u8>, String) {
        let output = self.command(line).output().unwrap();
        (output.status.code().unwrap(), output.stdout, String::from_utf8(output.stderr).unwrap())
    }

    /// Runs what must work and complain of nothing.
    fn ask(&self, line: &str) -> Vec<u8> {
        let (status, stdout, stderr) = self.run(line);
        assert_eq!((status, stderr.as_str()), (0, ""), "{line}");
        stdout
    }

    fn told(&self, line: &str) -> String {
        String::from_utf8(self.ask(line)).unwrap()
    }

    /// A log of so many blocks, with these bytes for a bitmap.
    fn log(&self, name: &str, blocks: u64, bitmap: &[u8]) {
        assert_eq!(self.told(&format!("create -n {name} -s {}", blocks * BLOCK)), "");
        let mut bytes = fs::read(self.path(name)).unwrap();
        assert_eq!(bytes.len(), 48 + bitmap.len());
        bytes[48..].copy_from_slice(bitmap);
        fs::write(self.path(name), bytes).unwrap();
    }

    fn bitmap(&self, name: &str) -> Vec<u8> {
        self.ask(&format!("get -n {name} -b"))
    }
}

#[test]
fn a_new_log_knows_its_size_and_nothing_else() {
    let place = Place::new();
    assert_eq!(place.told("create -n log -s 655361"), "");
    let mut expected = vec![0; 40];
    expected.extend(655_361_u64.to_le_bytes());
    // Eleven blocks.
    expected.extend([0; 2]);
    assert_eq!(fs::read(place.path("log")).unwrap(), expected);
    let told = ["-p", "-c", "-f", "-s"].map(|what| place.told(&format!("get -n log {what}")));
    assert_eq!(told, [format!("{NIL}\n"), format!("{NIL}\n"), "0\n".into(), "655361\n".into()]);
    assert_eq!(place.bitmap("log"), [0; 2]);
}

#[test]
fn a_log_that_is_made_again_is_empty_again() {
    let place = Place::new();
    place.log("log", 80, &[0xff; 10]);
    place.ask(&format!("set -n log -p {UUID} -f 1"));
    place.ask("create -n log -s 65536");
    assert_eq!(place.told("get -n log -p"), format!("{NIL}\n"));
    assert_eq!(place.bitmap("log"), [0]);
    assert_eq!(fs::metadata(place.path("log")).unwrap().len(), 49);
}

#[test]
fn what_is_set_is_what_is_got() {
    let place = Place::new();
    place.log("log", 8, &[0x5a]);
    place.ask(&format!("set -n log -p {UUID}"));
    place.ask(&format!("set -n log -f -3 -c {}", UUID.to_uppercase()));
    let told = ["-p", "-c", "-f"].map(|what| place.told(&format!("get -n log {what}")));
    assert_eq!(told, [format!("{UUID}\n"), format!("{UUID}\n"), "-3\n".into()]);
    assert_eq!(place.bitmap("log"), [0x5a]);
}

#[test]
fn what_is_no_uuid_changes_nothing_and_is_no_failure() {
    let place = Place::new();
    place.log("log", 8, &[0]);
    place.ask(&format!("set -n log -p {UUID}"));
    for wrong in ["x", "0a1b2c3d4e5f60718293a4b5c6d7e8f9", "{0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9}"] {
        place.ask(&format!("set -n log -p {wrong} -f 1"));
    }
    assert_eq!(place.told("get -n log -p"), format!("{UUID}\n"));
}

#[test]
fn a_disk_grows_and_its_new_blocks_are_not_marked() {
    let place = Place::new();
    // Bits that stand for nothing are set, and bytes lie behind the map.
    place.log("log", 11, &[0xff, 0xff]);
    let mut bytes = fs::read(place.path("log")).unwrap();
    bytes.extend([0xee; 30]);
    fs::write(place.path("log"), bytes).unwrap();
    place.ask(&format!("set -n log -s {}", 40 * BLOCK));
    assert_eq!(place.bitmap("log"), [0xff, 0x07, 0, 0, 0]);
    let (status, stdout, stderr) = place.run(&format!("set -n log -s {}", 39 * BLOCK));
    assert_eq!((status, stdout, stderr.as_str()), (22, vec![], "Size smaller than current file size (2621440)\n"));
    assert_eq!(place.told("get -n log -s"), "2621440\n");
}

#[test]
fn a_child_takes_over_what_its_parent_has_marked() {
    let place = Place::new();
    place.log("parent", 16, &[0x01, 0x80]);
    place.log("child", 24, &[0x10, 0x00, 0x42]);
    place.ask(&format!("set -n child -p {UUID} -f 1"));
    let before = fs::read(place.path("parent")).unwrap();
    place.ask("coalesce -p parent -c child");
    assert_eq!(place.bitmap("child"), [0x11, 0x80, 0x42]);
    assert_eq!(place.told("get -n child -p"), format!("{UUID}\n"));
    assert_eq!(place.told("get -n child -f"), "1\n");
    assert_eq!(fs::read(place.path("parent")).unwrap(), before);
    let (status, stdout, stderr) = place.run("coalesce -p child -c parent");
    let words = "Parent bitmap larger than child bitmap,can't coalesce";
    assert_eq!((status, stdout, stderr.as_str()), (22, vec![], words));
}

#[test]
fn large_logs_go_in_pieces_and_their_holes_stay_holes() {
    use std::os::unix::fs::{FileExt, MetadataExt};
    let place = Place::new();
    // 16 TiB: a map of 32 MiB, in which three bits are set.
    let size = (16_u64 << 40).to_string();
    for (name, at) in [("parent", 48 + (20 << 20)), ("child", 48)] {
        place.ask(&format!("create -n {name} -s {size}"));
        let file = fs::OpenOptions::new().write(true).open(place.path(name)).unwrap();
        file.write_all_at(&[1], at).unwrap();
    }
    place.ask("coalesce -p parent -c child");
    let map = place.bitmap("child");
    let marked: Vec<usize> = (0..map.len()).filter(|index| map[*index] != 0).collect();
    assert_eq!((map.len(), marked), (32 << 20, vec![0, 20 << 20]));
    assert!(fs::metadata(place.path("child")).unwrap().blocks() * 512 < 4 << 20);
}

#[test]
fn a_reader_of_the_map_may_have_seen_enough() {
    let place = Place::new();
    place.ask(&format!("create -n log -s {}", 16_u64 << 40));
    let mut child = place.command("get -n log -b").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr), (Some(0), vec![]));
}

#[test]
fn mistakes_in_the_command_line_end_with_22_and_the_usage() {
    let place = Place::new();
    place.log("log", 8, &[0]);
    let wrong = [
        "create -n x",
        "create -s 5",
        "create -n x -s 0",
        "create -n x -s five",
        "create -n x -s -5",
        "create -h",
        "set -n log",
        "set -p x",
        "set -n log -s none",
        "set -h",
        "get -n log",
        "get -n log -p -c",
        "get -p",
        "get -n log -x",
        "get -h",
        "coalesce -p log",
        "coalesce -c log",
        "coalesce -h",
    ];
    for line in wrong {
        let (status, stdout, stderr) = place.run(line);
        assert_eq!((status, stderr.as_str()), (22, ""), "{line}");
        assert!(stdout.starts_with(b"usage: cbt-util "), "{line}");
    }
    assert!(!place.path("x").exists());
    let (status, overview, _) = place.run("");
    assert_eq!(status, 22);
    let (status, stdout, stderr) = place.run("gte -n log");
    assert_eq!((status, stdout, stderr.as_str()), (0, overview, "Invalid COMMAND gte\n"));
}

#[test]
fn what_cannot_be_read_is_named() {
    let place = Place::new();
    let (status, _, stderr) = place.run("get -n none -p");
    assert_eq!((status, stderr.as_str()), (2, "Failed to open log file none. No such file or directory\n"));
    fs::write(place.path("short"), [0; 47]).unwrap();
    for line in ["get -n short -s", "set -n short -f 1", "coalesce -p short -c short"] {
        let (status, _, stderr) = place.run(line);
        assert_eq!((status, stderr.as_str()), (5, "Failed to read CBT metadata from file short\n"), "{line}");
    }
    // A header that promises more than there is: no bytes are made up, and nothing is allocated for it.
    let mut header = [0; 60];
    header[40..48].fill(0xff);
    fs::write(place.path("liar"), header).unwrap();
    let (status, stdout, stderr) = place.run("get -n liar -b");
    assert_eq!((status, stdout.len()), (5, 0), "{stderr}");
    place.log("child", 8, &[0]);
    assert_eq!(place.run("coalesce -p liar -c child").0, 22);
    let (status, _, stderr) = place.run("create -n no/where -s 5");
    assert_eq!((status, stderr.as_str()), (2, "Failed to create log file no/where. No such file or directory\n"));
    assert_eq!(place.run("create -n /dev/full -s 5").0, 28);
}

/// Whoever kills it finds a log that can be read, with the old state or the new one.
#[test]
fn a_kill_at_any_time_leaves_a_log() {
    let place = Place::new();
    place.log("log", 8, &[0xa5]);
    for round in 1..test_support::cycles(40, 1000) {
        let size = (8 + 4096 * round) * BLOCK;
        let mut child = place.command(&format!("set -n log -p {UUID} -s {size}")).spawn().unwrap();
        thread::sleep(Duration::from_micros(97 * (round % 20)));
        let _ = child.kill();
        child.wait().unwrap();
        let parent = place.told("get -n log -p");
        assert!(parent == format!("{UUID}\n") || parent == format!("{NIL}\n"), "{parent}");
        let size: u64 = place.told("get -n log -s").trim().parse().unwrap();
        let map = place.bitmap("log");
        assert_eq!(map.len() as u64, size.div_ceil(BLOCK).div_ceil(8));
        assert!(map[0] == 0xa5 && map[1..].iter().all(|byte| *byte == 0), "round {round}");
    }
}
