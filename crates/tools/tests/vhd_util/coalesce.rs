//! What an image holds goes into its parent.

use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt,
    process::{Command, Stdio},
    time::Duration,
};

use rustix::fs::{FlockOperation, flock};
use test_support::{LoopDevice, cycles, require_tool, target_program};

use super::{
    disks::{disk, give},
    place::{Ended, Place, change_header},
};

/// Sectors of a block.
const SPB: usize = 4096;

/// A disk of 16 MiB: a base, a middle that will go, and a leaf over it.
fn chain() -> Place {
    let place = Place::new();
    place.make("create -n base.vhd -s 16");
    give(&place, "base.vhd", &[(0, 9, 1), (SPB, SPB, 2), (4 * SPB - 2, 3, 3)]);
    place.make("snapshot -e -n mid.vhd -p base.vhd");
    give(&place, "mid.vhd", &[(3, 2, 4), (SPB + 8, 100, 5), (2 * SPB, SPB, 6), (5 * SPB - 1, 2, 7)]);
    place.make("snapshot -e -n leaf.vhd -p mid.vhd");
    give(&place, "leaf.vhd", &[(4, 1, 8), (7 * SPB, 1, 9)]);
    place
}

/// Sectors that the middle holds.
const HELD: usize = 2 + 100 + SPB + 2;

fn coalesced(stdout: &str, status: i32) -> Ended {
    Ended { status, stdout: stdout.to_owned(), stderr: String::new() }
}

#[test]
fn the_parent_reads_like_both_and_the_child_is_not_touched() {
    let place = chain();
    let (before, child) = (disk(&place, &["mid.vhd", "base.vhd"]), place.read("mid.vhd"));
    assert_eq!(place.run("coalesce -n mid.vhd"), coalesced(&format!("Coalesced {HELD} sectors"), 0));
    assert!(disk(&place, &["base.vhd"]) == before && place.read("mid.vhd") == child);
    assert_eq!(place.ask("check -b -n base.vhd"), "base.vhd is valid\n");
    assert_eq!(place.ask("check -p -n leaf.vhd").lines().count(), 3);
    // Again: the same.
    let after = place.read("base.vhd");
    assert_eq!(place.ask("coalesce -n mid.vhd"), format!("Coalesced {HELD} sectors"));
    assert!(place.read("base.vhd") == after);
    place.make("snapshot -e -n empty.vhd -p leaf.vhd");
    assert_eq!(place.ask("coalesce -n empty.vhd"), "Coalesced 0 sectors");
}

#[test]
fn what_is_said_on_the_way_is_what_storage_managers_read() {
    let place = chain();
    let told = place.ask("coalesce -p -n mid.vhd");
    let (percents, end) = told.rsplit_once('\n').unwrap();
    assert_eq!(end, format!("Coalesced {HELD} sectors"));
    let percents: Vec<&str> = percents.split('\r').skip(1).collect();
    assert!(percents.iter().all(|percent| percent.len() == 7 && percent.ends_with('%')), "{told:?}");
    assert_eq!((percents[0], percents.last()), (" 20.00%", Some(&"100.00%")));
    let told = place.ask("coalesce -s -n mid.vhd");
    assert_eq!(told, format!("opening for sparse writes\nCoalesced {HELD} sectors"));
    for line in ["coalesce", "coalesce -n mid.vhd -a", "coalesce -n mid.vhd -o", "coalesce -n mid.vhd -x"] {
        let ended = place.run(line);
        assert!(ended.status == 22 && ended.stdout.starts_with("options: <-n name>"), "{line}");
    }
}

#[test]
fn what_has_no_parent_or_a_wrong_one_is_refused() {
    let place = chain();
    let before = place.everything();
    let (status, stdout, _) = place.fail("coalesce -n base.vhd");
    let words = "coalescing of non-differencing disks is not supported\nerror coalescing: -22\n";
    assert_eq!((status, stdout.as_str()), (22, words));
    assert_eq!(place.fail("coalesce -n no.vhd").1, "error opening no.vhd: -2\n");
    let header = place.read("mid.vhd")[512..1536].to_vec();
    change_header(&place, "mid.vhd", |header| header[40] ^= 1);
    let (status, stdout, stderr) = place.fail("coalesce -n mid.vhd");
    assert_eq!((status, stdout.as_str()), (22, "error coalescing: -22\n"));
    assert!(stderr.ends_with("base.vhd: is not the image that the child was made from"), "{stderr}");
    place.patch("mid.vhd", 512, &header);
    assert!(place.everything() == before);
    fs::rename(place.path("base.vhd"), place.path("gone.vhd")).unwrap();
    let (status, stdout, _) = place.fail("coalesce -n mid.vhd");
    assert_eq!((status, stdout.as_str()), (2, "error coalescing: -2\n"));
}

#[test]
fn an_encrypted_child_goes_into_a_parent_with_the_same_key_only() {
    let place = chain();
    place.patch("mid.vhd", 2048 + 29, &[&[1][..], &[7; 32], &[9; 32]].concat());
    let before = place.everything();
    let (status, _, stderr) = place.fail("coalesce -n mid.vhd");
    assert!(status == 22 && stderr.ends_with("base.vhd: is not encrypted with the key of the child"), "{stderr}");
    assert!(place.everything() == before);
    let expected = disk(&place, &["mid.vhd", "base.vhd"]);
    place.patch("base.vhd", 2048 + 29, &[&[1][..], &[7; 32], &[9; 32]].concat());
    place.ask("coalesce -n mid.vhd");
    assert!(disk(&place, &["base.vhd"]) == expected);
    assert_eq!(place.read("base.vhd")[2048 + 29..2048 + 94], [&[1][..], &[7; 32], &[9; 32]].concat());
}

#[test]
fn an_image_that_somebody_writes_is_neither_read_nor_written() {
    let place = chain();
    for busy in ["mid.vhd", "base.vhd"] {
        let file = File::open(place.path(busy)).unwrap();
        flock(&file, FlockOperation::LockExclusive).unwrap();
        let before = place.everything();
        assert_eq!(place.run("coalesce -n mid.vhd").status, 16, "{busy}");
        assert!(place.everything() == before);
    }
    // Who only reads takes no lock, and hinders nobody.
    let _reader = File::open(place.path("base.vhd")).unwrap();
    place.ask("coalesce -n mid.vhd");
}

#[test]
fn raw_and_fixed_parents_take_what_the_child_has() {
    let place = Place::new();
    place.write("raw", &[5; 3 << 20]);
    place.make("snapshot -m -n c.vhd -p raw");
    give(&place, "c.vhd", &[(10, 3, 6), (SPB, 2, 7)]);
    assert_eq!(place.ask("coalesce -n c.vhd"), "Coalesced 5 sectors");
    let mut expected = vec![5; 3 << 20];
    expected[10 * 512..13 * 512].fill(6);
    expected[SPB * 512..(SPB + 2) * 512].fill(7);
    assert!(place.read("raw") == expected);
    // A raw file that is shorter than the disk becomes as long.
    place.truncate("raw", 1 << 20);
    place.ask("coalesce -n c.vhd");
    expected[1 << 20..SPB * 512].fill(0);
    expected[(SPB + 2) * 512..].fill(0);
    assert!(place.read("raw") == expected);
    place.make("create -n f.vhd -s 4 -r");
    place.make("snapshot -e -n d.vhd -p f.vhd");
    give(&place, "d.vhd", &[(10, 3, 6)]);
    let footer = place.read("f.vhd")[4 << 20..].to_vec();
    place.ask("coalesce -n d.vhd");
    let after = place.read("f.vhd");
    assert!(
        after[4 << 20..] == footer
            && after[5120..6656] == [6; 1536]
            && after[6656..4 << 20].iter().all(|byte| *byte == 0)
    );
}

#[test]
fn a_hole_stays_a_hole() {
    let place = Place::new();
    place.make("create -n base.vhd -s 16");
    // What a hole hides goes, too.
    give(&place, "base.vhd", &[(SPB, SPB, 5)]);
    place.make("snapshot -e -n c.vhd -p base.vhd");
    give(&place, "c.vhd", &[(0, SPB, 0), (SPB, SPB, 0), (2 * SPB, SPB, 8)]);
    let file = fs::OpenOptions::new().write(true).open(place.path("c.vhd")).unwrap();
    for block in 0..2 {
        let entry = u32::from_be_bytes(place.read("c.vhd")[1536 + block * 4..][..4].try_into().unwrap());
        let mode = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
        if rustix::fs::fallocate(&file, mode, u64::from(entry) * 512 + 512, 2 << 20).is_err() {
            test_support::skip("coalesce::a_hole_stays_a_hole", "this file system has no holes");
            return;
        }
    }
    assert_eq!(place.ask("coalesce -n c.vhd"), format!("Coalesced {} sectors", 3 * SPB));
    assert!(disk(&place, &["base.vhd"]) == disk(&place, &["c.vhd", "base.vhd"]));
    let room = fs::metadata(place.path("base.vhd")).unwrap().blocks() * 512;
    assert!(room < 3 << 20, "{room} bytes for one block of data");
}

#[test]
fn others_read_the_result() {
    let place = chain();
    let expected = disk(&place, &["mid.vhd", "base.vhd"]);
    place.ask("coalesce -n mid.vhd");
    let qemu = |words: &[&str]| {
        let output = place.command(require_tool("qemu-img")).args(words).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(qemu(&["info", "-f", "vpc", "base.vhd"]).contains("virtual size: 16"));
    qemu(&["convert", "-f", "vpc", "-O", "raw", "-o", "preallocation=off", "base.vhd", "out.raw"]);
    // QEMU ends the disk where its cylinders end.
    let out = place.read("out.raw");
    assert!(out.len() > 15 << 20 && out[..] == expected[..out.len()]);
    let told = place.command(require_tool("vhdiinfo")).arg("base.vhd").output().unwrap();
    assert!(told.status.success() && String::from_utf8_lossy(&told.stdout).contains("Dynamic"));
}

#[test]
fn images_on_devices_are_coalesced_too() {
    let place = Place::new();
    for name in ["one", "two"] {
        place.write(name, &[]);
        place.truncate(name, 24 << 20);
    }
    let test = "coalesce::images_on_devices";
    let Some(base) = LoopDevice::attach(test, &place.path("one")) else { return };
    let Some(child) = LoopDevice::attach(test, &place.path("two")) else { return };
    let [base, child] = [&base, &child].map(|device| device.path().display().to_string());
    place.make(&format!("create -n {base} -s 16"));
    place.make(&format!("snapshot -e -n {child} -p {base}"));
    // Written through a file, then copied to the device.
    place.write("child.vhd", &fs::read(&child).unwrap()[..5120]);
    give(&place, "child.vhd", &[(3, 2, 4), (2 * SPB, SPB, 6)]);
    let mut bytes = place.read("child.vhd");
    let footer = bytes.split_off(bytes.len() - 512);
    bytes.resize((24 << 20) - 512, 0);
    bytes.extend(footer);
    fs::write(&child, &bytes).unwrap();
    assert_eq!(place.ask(&format!("coalesce -n {child}")), format!("Coalesced {} sectors", 2 + SPB));
    assert_eq!(place.ask(&format!("check -b -n {base}")), format!("{base} is valid\n"));
    place.write("result.vhd", &fs::read(&base).unwrap());
    assert!(disk(&place, &["result.vhd"]) == disk(&place, &["child.vhd", "result.vhd"]));
}

#[test]
fn killed_at_random_times_it_leaves_all_disks_as_they_were_and_ends_well_in_the_end() {
    let place = chain();
    let disks = || [disk(&place, &["leaf.vhd", "mid.vhd", "base.vhd"]), disk(&place, &["mid.vhd", "base.vhd"])];
    let (before, base) = (disks(), place.read("base.vhd"));
    for round in 0..cycles(6, 400) {
        place.write("base.vhd", &base);
        let mut command = Command::new(target_program("vhd-util"));
        command
            .current_dir(place.path(""))
            .args(["coalesce", "-n", "mid.vhd"])
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut running = command.spawn().unwrap();
        // From before its first write to after its end, wherever that is on this machine.
        std::thread::sleep(Duration::from_micros(1000 * round));
        let _ = running.kill();
        running.wait().unwrap();
        if place.run("check -n base.vhd").status != 0 {
            // Not while the last writes of the dead are still on their way.
            place.make("repair -n base.vhd");
        }
        assert_eq!(place.ask("check -n base.vhd"), "base.vhd is valid\n", "round {round}");
        assert!(disks() == before, "round {round}");
        assert_eq!(place.ask("coalesce -n mid.vhd"), format!("Coalesced {HELD} sectors"), "round {round}");
        assert!(disks() == before && disk(&place, &["base.vhd"]) == before[1], "round {round}");
    }
}
