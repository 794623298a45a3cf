//! What a request costs in instructions, counted by callgrind: it is not to become dearer unnoticed.
//!
//! `OXTAP_WRITE_INSTRUCTIONS=1 cargo xtask test a_request_is_not_dearer` writes down what it costs now.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../src/callgrind.rs"]
mod callgrind;

use std::{env, fs, os::unix::fs::symlink, path::Path, process::Command};

use test_support::{require_tool, skip, target_program};

/// How much dearer a request may be than what is written down, in per cent.
const TOLERANCE: u64 = 5;
/// What a request costs is the difference between a run with few and one with many.
const REQUESTS: [u64; 2] = [500, 2500];
const MIB: u64 = 4;
/// Storage whose bytes are at hand, and storage behind an engine.
const STORAGES: [(&str, &str); 2] = [("memory", "/dev/shm"), ("disk", env!("CARGO_TARGET_TMPDIR"))];
const WORKS: [(&str, &str); 4] = [("raw", "read"), ("raw", "write"), ("vhd", "read"), ("vhd", "write")];

/// Instructions of a program that does so many requests to an image in a directory. Program and image have short names: what
/// an allocation costs depends on what lies beside it, and that on the length of names.
fn instructions(valgrind: &Path, directory: &Path, (format, work): (&str, &str), requests: u64) -> u64 {
    let words = ["./bench", "count", &name(format, work), format, work, &requests.to_string()];
    callgrind::count(valgrind, directory, &words).unwrap()
}

fn name(format: &str, work: &str) -> String {
    format!("{work}.{format}")
}

/// An image of 4 MiB with data everywhere.
fn fill(directory: &Path, (format, work): (&str, &str)) {
    let image = directory.join(name(format, work));
    if format == "raw" {
        fs::File::create(&image).unwrap().set_len(MIB << 20).unwrap();
    } else {
        let mut create = Command::new(target_program("vhd-util"));
        create.arg("create").arg("-n").arg(&image).arg("-s").arg(MIB.to_string());
        assert!(create.status().unwrap().success());
    }
    // The first filling makes the blocks, which later ones find.
    let mut fill = Command::new(target_program("oxtap-bench"));
    assert!(fill.arg("count").arg(&image).args([format, work, "1"]).status().unwrap().success());
}

/// What is written down: a name and a number in each line.
fn written(path: &Path) -> Vec<(String, u64)> {
    let text = fs::read_to_string(path).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    lines
        .map(|line| {
            let (name, number) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), number.parse().unwrap())
        })
        .collect()
}

#[test]
fn a_request_is_not_dearer_than_what_is_written_down() {
    const NAME: &str = "a_request_is_not_dearer_than_what_is_written_down";
    if env::var_os("OXTAP_PROGRAMS").is_none() {
        // Programs that are not optimised cost something else; `cargo xtask test` builds them as users get them.
        skip(NAME, "counts programs as users get them, which cargo xtask test builds");
        return;
    }
    let valgrind = require_tool("valgrind");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("instructions.txt");
    let mut found = Vec::new();
    for (storage, parent) in STORAGES {
        let directory = tempfile::tempdir_in(parent).unwrap();
        symlink(target_program("oxtap-bench"), directory.path().join("bench")).unwrap();
        for work in WORKS {
            fill(directory.path(), work);
            let [few, many] = REQUESTS.map(|requests| instructions(&valgrind, directory.path(), work, requests));
            let name = format!("{storage} {} {}", work.0, work.1);
            found.push((name, (many - few) / (REQUESTS[1] - REQUESTS[0])));
        }
    }
    if env::var_os("OXTAP_WRITE_INSTRUCTIONS").is_some() {
        let lines: String = found.iter().map(|(name, number)| format!("{name} {number}\n")).collect();
        fs::write(&path, format!("# Instructions of a request; see tests/instructions.rs.\n{lines}")).unwrap();
    }
    let written = written(&path);
    let names = |list: &[(String, u64)]| list.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&written), names(&found));
    for ((name, was), (_, is)) in written.iter().zip(&found) {
        println!("{name}: {is} instructions, {was} written down");
        assert!(
            is * 100 <= was * (100 + TOLERANCE),
            "{name}: {is} instructions, {was} written down: all are {found:?}"
        );
    }
}
