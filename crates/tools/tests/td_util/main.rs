//! `td-util` as storage managers call it: what it prints, how it ends, and what it leaves on disk.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::PathBuf,
    process::{Command, Stdio},
};

use test_support::target_program;

/// A private directory; commands run in it, so images have short names.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        Place(tempfile::Builder::new().prefix("oxtap-td-").tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().canonicalize().unwrap().join(name)
    }

    /// Status, stdout, stderr.
    fn run_program(&self, program: &str, line: &str) -> (i32, String, String) {
        let mut command = Command::new(target_program(program));
        command.args(line.split_whitespace()).current_dir(self.0.path()).stdin(Stdio::null());
        let output = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }

    fn run(&self, line: &str) -> (i32, String, String) {
        self.run_program("td-util", line)
    }

    /// Runs what must work; what it says.
    fn ask(&self, line: &str) -> String {
        let (status, stdout, stderr) = self.run(line);
        assert_eq!((status, stderr.as_str()), (0, ""), "{line}");
        stdout
    }
}

#[test]
fn a_vhd_is_what_vhd_util_would_have_made() {
    let place = Place::new();
    assert_eq!(place.ask("create vhd 64 a.vhd"), "");
    assert_eq!(fs::metadata(place.path("a.vhd")).unwrap().len(), 3584);
    assert_eq!(place.run_program("vhd-util", "query -n a.vhd -v").1, "64\n");
    assert_eq!(place.ask("create vhd -r 2 fixed.vhd"), "");
    assert_eq!(fs::metadata(place.path("fixed.vhd")).unwrap().len(), (2 << 20) + 512);
}

#[test]
fn a_snapshot_names_its_parent_and_each_answer_is_a_line() {
    let place = Place::new();
    place.ask("create vhd 64 a.vhd");
    place.ask("snapshot vhd b.vhd a.vhd");
    // An image without a block is passed over.
    place.ask("create aio -r 64 base.raw");
    place.ask("snapshot vhd -m c.vhd base.raw");
    let parent = place.path("base.raw");
    assert_eq!(place.ask("query vhd -vpf c.vhd"), format!("64\n{}\nhidden: 0\n", parent.display()));
    assert_eq!(place.ask("query vhd -vpfb c.vhd"), format!("64\n{}\nhidden: 0\n", parent.display()));
    assert_eq!(place.ask("query vhd -d c.vhd"), "chain depth: 2\n");
    assert_eq!(place.ask("query vhd -f -p -v a.vhd"), "64\na.vhd has no parent\nhidden: 0\n");
    assert_eq!(place.ask("query vhd a.vhd"), "");
    place.ask("create vhd -r 2 fixed.vhd");
    let (status, stdout, _) = place.run("snapshot vhd -l 1 d.vhd fixed.vhd");
    assert_eq!((status, stdout.as_str()), (28, "snapshot depth exceeded: current depth: 1, limit: 1\n"));
    assert!(!place.path("d.vhd").exists());
}

#[test]
fn an_image_is_hidden() {
    let place = Place::new();
    place.ask("create vhd 64 a.vhd");
    assert_eq!(place.ask("set vhd a.vhd hidden 1"), "");
    assert_eq!(place.ask("query vhd -f a.vhd"), "hidden: 1\n");
}

#[test]
fn a_raw_image_has_all_its_room_and_no_secrets() {
    let place = Place::new();
    assert_eq!(place.ask("create aio -r 3 a.raw"), "");
    let told = fs::metadata(place.path("a.raw")).unwrap();
    assert!(told.blocks() * 512 >= 3 << 20, "{} blocks", told.blocks());
    assert_eq!(fs::read(place.path("a.raw")).unwrap(), vec![0; 3 << 20]);
    assert_eq!(place.ask("query aio -vpfd a.raw"), "3\na.raw has no parent\nhidden: 0\nchain depth: 1\n");
    assert_eq!(place.ask("query aio a.raw"), "");
    // What was there before is gone, also where the new one is smaller.
    fs::write(place.path("a.raw"), vec![7; 3 << 20]).unwrap();
    place.ask("create aio -r 2 a.raw");
    assert_eq!(fs::read(place.path("a.raw")).unwrap(), vec![0; 2 << 20]);
}

#[test]
fn what_cannot_be_had_is_named_with_its_number() {
    let place = Place::new();
    assert_eq!(place.run("query vhd -v none").0, 2);
    assert_eq!(place.run("query vhd -v none").1, "failed opening none: -2\n");
    assert_eq!(place.run("query aio -v none"), (2, "failed opening none: 2\n".into(), String::new()));
    let (status, stdout, stderr) = place.run("create aio -r 1 no/where");
    assert_eq!(
        (status, stdout.as_str(), stderr.as_str()),
        (2, "", "td-util create: no/where: No such file or directory\n")
    );
    let (status, _, stderr) = place.run("create vhd 64 no/where");
    assert_eq!((status, stderr.lines().count()), (2, 2), "{stderr}");
    assert_eq!(place.run("create aio -r 1 /dev/full").0, 28);
    assert_eq!(place.run(&format!("create aio -r {} a.raw", u64::MAX >> 20)).0, 22);
    assert_ne!(place.run("create aio -r 8000000000000 a.raw").0, 0);
    assert!(!place.path("a.raw").exists(), "what was begun has gone");
}

#[test]
fn mistakes_in_the_command_line_are_told_on_stderr() {
    let place = Place::new();
    place.ask("create vhd 64 a.vhd");
    for line in ["", "vhd", "creat vhd 64 x", "create", "create qcow 64 x", "-h"] {
        let (status, stdout, stderr) = place.run(line);
        assert_eq!((status, stdout.as_str()), (255, ""), "{line}");
        assert!(stderr.starts_with("usage: td-util COMMAND"), "{line}: {stderr}");
    }
    let wrong = [
        "create vhd",
        "create vhd 64",
        "create vhd 64 x y",
        "create vhd -b 64 x",
        "create vhd -x 64 x",
        "create aio 64 x",
        "create aio -r none x",
        "create aio -r 0 x",
        "create vhd -h",
        "snapshot vhd x",
        "snapshot vhd -b x a.vhd",
        "snapshot aio x a.vhd",
        "query vhd",
        "query vhd -s a.vhd",
        "query vhd a.vhd b.vhd",
        "set vhd a.vhd hidden",
        "set vhd a.vhd marker 1",
        "set aio a.vhd hidden 1",
    ];
    for line in wrong {
        let (status, stdout, stderr) = place.run(line);
        assert_eq!((status, stdout.as_str()), (22, ""), "{line}");
        assert!(stderr.starts_with("usage: td-util "), "{line}: {stderr}");
    }
    assert!(!place.path("x").exists());
}
