//! What runs on this host.

use std::process::Command;

use test_support::RunDirectory;

use crate::served::text;

/// Runs a program that must succeed; its first line.
fn first_line(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    text(&output).lines().next().unwrap_or_default().to_owned()
}

#[test]
fn every_disk_is_listed_with_its_state_until_it_is_gone() {
    let place = RunDirectory::new();
    let image = place.scratch().join("a.vhd");
    let name = format!("vhd:{}", image.display());
    first_line(place.program("vhd-util").args(["create", "-s", "64", "-n"]).arg(&image));
    let marker = first_line(place.program("tap-ctl").args(["create", "-a", &name]));
    assert!(marker.ends_with("tapdisk-0"), "{marker}");
    let listed = first_line(place.program("tap-ctl").arg("list"));
    let pid = listed.strip_prefix("pid=").and_then(|rest| rest.split(' ').next()).unwrap().to_owned();
    let table = |place: &RunDirectory| text(&place.program("oxtap").arg("ls").output().unwrap());
    let row = table(&place).lines().nth(1).unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(row, format!("{pid} 0 running 64 MiB 0 0/0/0/0 - {name}"));
    first_line(place.program("tap-ctl").args(["pause", "-m", "0", "-p", &pid]));
    assert!(table(&place).contains("paused"), "{}", table(&place));
    let json = text(&place.program("oxtap").args(["ls", "--json"]).output().unwrap());
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json[0]["bytes"], 64 << 20);
    assert_eq!(json[0]["state"], "paused");
    assert_eq!(json[0]["image"], name.as_str());
    assert!(json[0]["nbd_socket"].as_str().unwrap().ends_with(&format!("nbd{pid}.0")));
    first_line(place.program("tap-ctl").args(["destroy", "-m", "0", "-p", &pid]));
    assert_eq!(table(&place), "no disks\n");
    place.assert_nothing_left();
}

#[test]
fn a_reader_who_has_seen_enough_is_no_error() {
    let place = RunDirectory::new();
    let program = test_support::target_program("oxtap");
    // The reader is gone before anything is written.
    let line = format!("(sleep 0.1; {} metrics; echo $? >status) | true", program.display());
    let output = place.command("sh").args(["-c", &line]).current_dir(place.scratch()).output().unwrap();
    assert_eq!(text(&output), "");
    let status = std::fs::read_to_string(place.scratch().join("status")).unwrap();
    assert_eq!(status, "0\n");
}
