//! One image in the foreground.

use std::{
    fs,
    process::{Command, Stdio},
};

use test_support::{RunDirectory, require_tool};

use crate::served::{Served, text};

const WRITE: &str = "write -P 0x5a 1M 2M";
const READ: &str = "read -P 0x5a 1M 2M";

fn is_fine(output: &std::process::Output) -> bool {
    output.status.success() && !text(output).contains("verification failed")
}

/// Whether a standalone image holds what `WRITE` writes, by qemu's reading.
fn holds_the_pattern(place: &RunDirectory, format: &str, image: &str) -> bool {
    let mut command = Command::new(require_tool("qemu-io"));
    let output = command.args(["-r", "-f", format, "-c", READ, image]).current_dir(place.scratch()).output().unwrap();
    is_fine(&output)
}

#[test]
fn a_new_vhd_is_served_and_ctrl_c_leaves_all_of_it_on_storage() {
    let place = RunDirectory::new();
    let served = Served::start(&place, &["--create", "64M", "disk.vhd"]);
    assert!(served.said.starts_with("serving vhd:disk.vhd, 64 MiB;"), "{}", served.said);
    assert!(is_fine(&served.qemu_io(&[], &[WRITE, READ])));
    assert!(served.end().contains("everything is on storage"));
    assert!(holds_the_pattern(&place, "vpc", "disk.vhd"));
    place.assert_nothing_left();
}

#[test]
fn a_raw_image_is_served_at_a_socket_of_choice() {
    let place = RunDirectory::new();
    let served = Served::start(&place, &["--create", "8M", "--socket", "here", "disk.raw"]);
    let socket = place.scratch().join("here");
    assert_eq!(served.uri, format!("nbd+unix:///?socket={}", socket.display()));
    assert!(is_fine(&served.qemu_io(&[], &[WRITE])));
    served.end();
    assert!(!socket.exists(), "the socket goes with the server");
    assert!(holds_the_pattern(&place, "raw", "disk.raw"));
}

#[test]
fn a_tcp_port_is_chosen_if_none_is_told() {
    let place = RunDirectory::new();
    let served = Served::start(&place, &["--create", "8M", "--listen", "127.0.0.1:0", "disk.img"]);
    assert!(served.uri.starts_with("nbd://127.0.0.1:") && !served.uri.ends_with(":0"), "{}", served.uri);
    let size = Command::new(require_tool("nbdinfo")).args(["--size", &served.uri]).output().unwrap();
    assert_eq!(text(&size).trim(), "8388608");
    served.end();
}

#[test]
fn a_snapshot_takes_the_writes_and_its_parent_none() {
    let place = RunDirectory::new();
    let base = Served::start(&place, &["--create", "64M", "base.vhd"]);
    assert!(is_fine(&base.qemu_io(&[], &[WRITE])));
    base.end();
    let before = fs::read(place.scratch().join("base.vhd")).unwrap();
    let leaf = Served::start(&place, &["--parent", "base.vhd", "leaf.vhd"]);
    assert!(is_fine(&leaf.qemu_io(&[], &[READ, "write -P 0x66 0 2M", "read -P 0x66 0 2M", "read -P 0x5a 2M 1M"])));
    leaf.end();
    assert!(fs::read(place.scratch().join("base.vhd")).unwrap() == before);
    let again = Served::start(&place, &["leaf.vhd"]);
    assert!(is_fine(&again.qemu_io(&["-r"], &["read -P 0x66 0 2M", "read -P 0x5a 2M 1M"])));
    again.end();
}

#[test]
fn a_snapshot_may_be_larger_than_its_parent_and_not_smaller() {
    let place = RunDirectory::new();
    Served::start(&place, &["--create", "64M", "base.vhd"]).end();
    let leaf = Served::start(&place, &["--create", "96M", "--parent", "base.vhd", "leaf.vhd"]);
    assert!(leaf.said.contains("96 MiB"), "{}", leaf.said);
    leaf.end();
    let refused = oxtap(&place, &["serve", "--create", "32M", "--parent", "base.vhd", "small.vhd"]);
    assert!(refused.contains("is smaller than its parent's"), "{refused}");
    assert!(!place.scratch().join("small.vhd").exists());
}

#[test]
fn a_read_only_disk_refuses_writes() {
    let place = RunDirectory::new();
    Served::start(&place, &["--create", "8M", "disk.vhd"]).end();
    let before = fs::read(place.scratch().join("disk.vhd")).unwrap();
    let served = Served::start(&place, &["--read-only", "disk.vhd"]);
    assert!(served.said.contains("read-only"), "{}", served.said);
    assert!(!served.qemu_io(&[], &[WRITE]).status.success());
    assert!(is_fine(&served.qemu_io(&["-r"], &["read -P 0 0 8M"])));
    served.end();
    assert!(fs::read(place.scratch().join("disk.vhd")).unwrap() == before);
}

#[test]
fn an_image_that_exists_is_not_made_anew() {
    let place = RunDirectory::new();
    fs::write(place.scratch().join("disk.vhd"), "mine").unwrap();
    let refused = oxtap(&place, &["serve", "--create", "8M", "disk.vhd"]);
    assert_eq!(refused, "oxtap: disk.vhd: exists already\n");
    assert_eq!(fs::read(place.scratch().join("disk.vhd")).unwrap(), b"mine");
}

#[test]
fn what_cannot_be_served_is_one_line_that_names_it() {
    let place = RunDirectory::new();
    let missing = oxtap(&place, &["serve", "none.vhd"]);
    assert!(missing.contains("none.vhd") && missing.lines().count() == 1, "{missing}");
    let unclear = oxtap(&place, &["serve", "disk"]);
    assert_eq!(unclear, "oxtap: disk: its name does not tell the format; say --format vhd or raw\n");
}

#[test]
fn a_terminal_shows_the_throughput() {
    let place = RunDirectory::new();
    let program = test_support::target_program("oxtap");
    let line = format!("timeout -s INT 4 {} serve --create 8M disk.raw", program.display());
    let mut script = place.command(require_tool("script"));
    script.args(["-q", "-e", "-c", &line, "/dev/null"]).current_dir(place.scratch());
    let output = script.stdin(Stdio::null()).output().unwrap();
    let shown = text(&output);
    assert!(shown.contains("reading 0 B/s, writing 0 B/s, 0 requests in flight"), "{shown}");
    assert!(shown.contains("everything is on storage"), "{shown}");
}

/// Runs `oxtap` where it must fail; what it printed.
fn oxtap(place: &RunDirectory, arguments: &[&str]) -> String {
    let output = place.program("oxtap").args(arguments).current_dir(place.scratch()).output().unwrap();
    assert!(!output.status.success());
    text(&output)
}
