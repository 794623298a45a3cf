//! What a machine lacks that the lab needs is told by its name, before anything is begun.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::process::Command;

use test_support::{find_tool, skip};

/// `xen-lab --prepare` with nothing cached: its exit status, and what it says.
fn prepare(set: &[(&str, &str)]) -> (Option<i32>, String) {
    let cache = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_xen-lab"));
    command.arg("--prepare").env("OXTAP_CACHE", cache.path()).envs(set.iter().copied());
    let output = command.output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_machine_without_apt_is_told_what_it_lacks() {
    let nowhere = tempfile::tempdir().unwrap();
    let (status, words) = prepare(&[("PATH", nowhere.path().to_str().unwrap())]);
    assert_eq!(status, Some(126), "{words}");
    assert!(words.contains("needs apt-get"), "{words}");
}

#[test]
fn an_archive_that_cannot_be_reached_is_named() {
    if ["apt-get", "apt-cache", "dpkg-deb"].iter().any(|tool| find_tool(tool).is_none()) {
        return skip("an_archive_that_cannot_be_reached_is_named", "there is no apt-get");
    }
    if !std::path::Path::new("/usr/share/keyrings/debian-archive-keyring.gpg").exists() {
        return skip("an_archive_that_cannot_be_reached_is_named", "there are no keys of Debian");
    }
    // Nobody listens there.
    let archive = "http://127.0.0.1:1/debian";
    let (status, words) = prepare(&[("OXTAP_DEBIAN_ARCHIVE", archive)]);
    assert_eq!(status, Some(126), "{words}");
    assert!(words.contains(&format!("{archive} cannot be reached")), "{words}");
}
