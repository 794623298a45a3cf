//! What can be done to a disk while it serves, by whatever name it is called.

use std::fs;

use test_support::RunDirectory;

use crate::tapdisk::{Tapdisk, json, oxtap, refused, run, succeed};

const WRITE: &str = "write -P 0x5a 1M 2M";
const READ: &str = "read -P 0x5a 1M 2M";

#[test]
fn a_disk_is_paused_and_goes_on_by_each_of_its_names() {
    let place = RunDirectory::new();
    let (disk, other) = (Tapdisk::start(&place, "a.vhd"), Tapdisk::start(&place, "b.vhd"));
    succeed(&mut disk.qemu_io(&[WRITE]));
    let image = disk.image.display().to_string();
    let names = [disk.minor.to_string(), disk.name(), image.clone(), format!("vhd:{image}"), "a.vhd".to_owned()];
    for name in names.iter().map(String::as_str).chain(disk.socket().to_str()) {
        let said = oxtap(&place, &["pause", name]);
        assert!(said.starts_with("paused: 0 requests ended in "), "{said}");
        assert_eq!(json(&place, &["ls"])[0]["state"], "paused");
        assert_eq!(oxtap(&place, &["resume", name]), "running: 64 MiB\n");
    }
    assert_eq!(json(&place, &["ls"])[1]["state"], "running", "the other one was left alone");
    succeed(&mut disk.qemu_io(&[READ]));
    disk.destroy();
    other.destroy();
    place.assert_nothing_left();
}

#[test]
fn results_are_json_where_that_is_asked_for() {
    let place = RunDirectory::new();
    let disk = Tapdisk::start(&place, "a.vhd");
    let name = disk.name();
    let paused = json(&place, &["pause", &name]);
    assert!(paused["flushed_us"].is_u64() && paused["requests"] == 0, "{paused}");
    assert_eq!(json(&place, &["resume", &name])["geometry"]["bytes"], 64 << 20);
    assert_eq!(json(&place, &["stats", &name])["state"], "running");
    let jobs = json(&place, &["jobs"]);
    let commands: Vec<&str> = jobs.as_array().unwrap().iter().map(|job| job["command"].as_str().unwrap()).collect();
    assert_eq!(commands, ["open", "pause", "resume"]);
    assert!(json(&place, &["dump", &name])["loops"][0]["turns"].is_array());
    disk.destroy();
}

#[test]
fn a_quiesced_disk_lets_others_write_and_sees_what_they_did() {
    let place = RunDirectory::new();
    let disk = Tapdisk::start(&place, "a.vhd");
    let said = oxtap(&place, &["quiesce", "a.vhd"]);
    assert!(said.starts_with("quiesced: 0 requests ended in "), "{said}");
    assert_eq!(json(&place, &["ls"])[0]["state"], "quiesced");
    let image = disk.image.to_str().unwrap();
    let qemu_io = test_support::require_tool("qemu-io");
    succeed(place.command(qemu_io).args(["-f", "vpc", "-c", WRITE, image]));
    oxtap(&place, &["resume", "a.vhd"]);
    succeed(&mut disk.qemu_io(&[READ]));
    disk.destroy();
}

#[test]
fn a_disk_goes_on_with_a_new_leaf() {
    let place = RunDirectory::new();
    let disk = Tapdisk::start(&place, "base.vhd");
    succeed(&mut disk.qemu_io(&[WRITE]));
    oxtap(&place, &["pause", "base.vhd"]);
    let in_scratch = |program: &str| {
        let mut command = place.program(program);
        command.current_dir(place.scratch());
        command
    };
    succeed(in_scratch("vhd-util").args(["snapshot", "-n", "leaf.vhd", "-p", "base.vhd"]));
    oxtap(&place, &["resume", "base.vhd", "--image", "vhd:leaf.vhd"]);
    succeed(&mut disk.qemu_io(&[READ]));
    let leaf = place.scratch().join("leaf.vhd");
    assert_eq!(json(&place, &["ls"])[0]["image"], format!("vhd:{}", leaf.display()));
    disk.destroy();
}

#[test]
fn a_raw_disk_grows_by_itself_or_with_its_file() {
    let place = RunDirectory::new();
    let image = place.scratch().join("a.raw");
    let file = fs::File::create_new(&image).unwrap();
    file.set_len(8 << 20).unwrap();
    let disk = Tapdisk::over(&place, image.clone(), &format!("aio:{}", image.display()));
    assert_eq!(oxtap(&place, &["resize", "a.raw"]), "unchanged: 8 MiB\n");
    assert_eq!(oxtap(&place, &["resize", "a.raw", "16M"]), "resized: 8 MiB -> 16 MiB\n");
    assert_eq!(file.metadata().unwrap().len(), 16 << 20);
    file.set_len(24 << 20).unwrap();
    assert_eq!(json(&place, &["resize", "a.raw"])["geometry"]["bytes"], 24 << 20);
    succeed(&mut disk.qemu_io(&["write -P 1 20M 4M", "read -P 1 20M 4M"]));
    let (status, said) = refused(&place, &["resize", "a.raw", "1M"]);
    assert_ne!(status, 0, "{said}");
    disk.destroy();
}

#[test]
fn a_disk_is_closed_for_good() {
    let place = RunDirectory::new();
    let disk = Tapdisk::start(&place, "a.vhd");
    let name = disk.name();
    assert_eq!(oxtap(&place, &["close", "a.vhd"]), "closed\n");
    assert_eq!(json(&place, &["ls"])[0]["state"], "closed");
    assert!(!disk.socket().exists());
    let (status, said) = refused(&place, &["resize", &name]);
    assert!(status > 1 && said.starts_with("oxtap: "), "{status}: {said}");
    disk.destroy();
    place.assert_nothing_left();
}

#[test]
fn errors_are_one_line_and_their_number_is_the_exit_status() {
    let place = RunDirectory::new();
    let expected = (2, "oxtap: 7: no such disk (oxtap ls shows all)\n".to_owned());
    assert_eq!(refused(&place, &["pause", "7"]), expected);
    let disk = Tapdisk::start(&place, "a.vhd");
    let (status, said) = refused(&place, &["resume", "a.vhd"]);
    assert_eq!(status, 22, "{said}");
    assert!(said.contains("is not paused") && said.lines().count() == 1, "{said}");
    let (status, said) = refused(&place, &["resume", "a.vhd", "--image", "a.vhd"]);
    assert!(status == 22 && said.contains("TYPE:PATH"), "{said}");
    let wrong = run(&place, &["limit", "a.vhd", "--iops", "lots"]);
    assert!(!wrong.status.success());
    disk.destroy();
}
