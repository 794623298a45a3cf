//! Larger disks: what `resize` and `revert` say, and what they leave.

use std::{
    fs::{self, File},
    io::Read,
    os::unix::fs::MetadataExt,
    process::Command,
};

use test_support::{LoopDevice, require_tool, target_program};

use super::place::{Place, change_footers, fill_blocks};

const HOOKS: [&str; 4] = ["BEGIN", "DATA_MOVED", "METADATA_MOVED", "END"];

/// 64 MiB with three whole blocks of 9 at its start.
fn image(place: &Place) -> Vec<u8> {
    place.make("create -n a.vhd -s 64");
    fill_blocks(place, "a.vhd", 3, 9);
    place.read("a.vhd")
}

/// As another implementation sees it: the first three blocks hold 9, and the others nothing.
fn check_disk(place: &Place, name: &str, bytes: u64) {
    let convert = ["convert", "-f", "vpc", "-O", "raw", name, "seen.raw"];
    let ended = place.command(require_tool("qemu-img")).args(convert).output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    let mut start = vec![0; 8 << 20];
    File::open(place.path("seen.raw")).unwrap().read_exact(&mut start).unwrap();
    let metadata = fs::metadata(place.path("seen.raw")).unwrap();
    fs::remove_file(place.path("seen.raw")).unwrap();
    assert_eq!(metadata.len(), bytes);
    assert!(start[..6 << 20].iter().all(|byte| *byte == 9) && start[6 << 20..].iter().all(|byte| *byte == 0));
    // It leaves holes where nothing is.
    assert!(metadata.blocks() * 512 < 7 << 20, "{} sectors", metadata.blocks());
}

/// Runs a resize that is made to fail at a place.
fn fail_at(place: &Place, hook: &str, line: &str) {
    let variable = format!("VHD_UTIL_TEST_FAIL_RESIZE_{hook}");
    let mut command = place.command(target_program("vhd-util"));
    let ended = command.args(line.split_whitespace()).env(&variable, "1").output().unwrap();
    assert_eq!(ended.status.code(), Some(22), "{hook}");
    assert_eq!(String::from_utf8(ended.stdout).unwrap(), format!("Failing at {variable}\n"));
}

#[test]
fn a_journalled_resize_moves_what_is_in_the_way() {
    let place = Place::new();
    image(&place);
    // SM asks for odd sizes too: they are rounded up.
    place.make("resize --debug -s 1999 -n a.vhd -j a.journal");
    assert_eq!(place.ask("query -n a.vhd -vaS"), "2000\n3\n2000\n");
    assert!(!place.path("a.journal").exists());
    check_disk(&place, "a.vhd", 2000 << 20);
    let told = place.command(require_tool("vhdiinfo")).arg("a.vhd").output().unwrap();
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    // It tells the size that the disk was made with.
    assert!(told.contains("Dynamic") && told.contains("(67108864 bytes)"), "{told}");
    let after = place.read("a.vhd");
    assert_eq!(after[..512], after[after.len() - 512..]);
    place.make("repair -n a.vhd");
    assert!(place.read("a.vhd") == after, "there is nothing to repair");
}

#[test]
fn what_is_said_of_sizes_that_cannot_be() {
    let place = Place::new();
    let before = image(&place);
    place.make("create -n f.vhd -s 2 -r");
    place.make("create -n r.vhd -s 64 -S 128");
    place.make("resize -n a.vhd -s 64 -j j");
    place.make("resize -n a.vhd -s 64 -f");
    let stories = [
        ("-n a.vhd -s 32 -j j", 38, "dynamic shrink not fully implemented\nresize failed: -38\n"),
        ("-n a.vhd -s 32 -f", 22, "a.vhd: size (65536) < curr size (131072)\nresize failed: -22\n"),
        ("-n a.vhd -s 66 -f", 22, "resize failed: -22\n"),
        ("-n r.vhd -s 130 -f", 22, "resize failed: -22\n"),
        ("-n f.vhd -s 4 -j j", 22, "creating journal failed: -22\n"),
        ("-n f.vhd -s 4 -f", 22, "resize failed: -22\n"),
        ("-n a.vhd -s 2097154 -j j", 27, ""),
        ("-n a.vhd -s 2097154 -f", 27, ""),
        ("-n none.vhd -s 4 -j j", 2, "error opening none.vhd: -2\n"),
        ("-n none.vhd -s 4 -f", 2, "error opening none.vhd: -2\n"),
        ("-n a.vhd -s 100 -j nowhere/j", 2, "creating journal failed: -2\n"),
        ("-n a.vhd -s 100 -j f.vhd", 17, "creating journal failed: -17\n"),
    ];
    let everything = place.everything();
    for (line, status, told) in stories {
        let (ended, stdout, _) = place.fail(&format!("resize {line}"));
        assert_eq!((ended, stdout.as_str()), (status, told), "{line}");
        assert!(place.everything() == everything, "{line}");
    }
    assert!(place.read("a.vhd") == before);
    place.make("resize -n r.vhd -s 128 -f");
    assert_eq!(place.ask("query -n r.vhd -vS"), "128\n128\n");
    let after = place.read("r.vhd");
    assert_eq!(after[..512], after[after.len() - 512..]);
    let ended = place.run("create -n big.vhd -s 2097154");
    assert_eq!((ended.status, ended.stdout.as_str()), (27, ""));
    assert!(ended.stderr.contains("failed to create: -27\n") && ended.stderr.contains("at most 2097152 MiB"));
    assert!(!place.path("big.vhd").exists());
}

#[test]
fn a_resize_that_was_stopped_is_reverted_to_the_last_byte() {
    let place = Place::new();
    let before = image(&place);
    for hook in HOOKS {
        fail_at(&place, hook, "resize -n a.vhd -s 1000 -j j");
        // Nobody uses such an image by mistake, but it can be looked at.
        assert_eq!(place.run("set -n a.vhd -f hidden -v 1").status, 22, "{hook}");
        assert_eq!(place.run("repair -n a.vhd").status, 22, "{hook}");
        place.ask("query -n a.vhd -v");
        place.ask("read -n a.vhd -p");
        place.make("revert --debug -n a.vhd -j j");
        assert!(place.read("a.vhd") == before, "{hook}");
        assert!(!place.path("j").exists(), "{hook}");
        let (status, stdout, _) = place.fail("revert -n a.vhd -j j");
        assert_eq!((status, stdout.as_str()), (2, "opening journal failed: -2\n"));
    }
}

#[test]
fn a_resize_that_was_stopped_can_be_asked_for_again() {
    let place = Place::new();
    image(&place);
    for (index, hook) in (0..).zip(HOOKS) {
        let size: u64 = 1000 + index * 200;
        fail_at(&place, hook, &format!("resize -n a.vhd -s {size} -j j"));
        place.make(&format!("resize -n a.vhd -s {size} -j j"));
        assert!(!place.path("j").exists(), "{hook}");
        assert_eq!(place.ask("query -n a.vhd -v"), format!("{size}\n"));
        check_disk(&place, "a.vhd", size << 20);
    }
}

#[test]
fn a_journal_that_is_none_or_anothers_is_refused() {
    let place = Place::new();
    image(&place);
    place.make("create -n b.vhd -s 64");
    fail_at(&place, "BEGIN", "resize -n b.vhd -s 1000 -j jb");
    fail_at(&place, "DATA_MOVED", "resize -n a.vhd -s 1000 -j ja");
    place.write("text", &[b'x'; 2000]);
    place.write("short", b"x");
    let mut torn = place.read("ja");
    let last = torn.len() - 3000;
    torn[last] ^= 1;
    place.write("torn", &torn);
    let everything = place.everything();
    for journal in ["jb", "text", "short", "torn", "b.vhd"] {
        let (status, stdout, _) = place.fail(&format!("revert -n a.vhd -j {journal}"));
        assert_eq!((status, stdout.as_str()), (22, "opening journal failed: -22\n"), "{journal}");
        let (status, ..) = place.fail(&format!("resize -n a.vhd -s 1000 -j {journal}"));
        assert!([17, 22].contains(&status), "{journal}");
        assert!(place.everything() == everything, "{journal}");
    }
    place.make("revert -n a.vhd -j ja");
    // A journal that nobody got to write, of an image that nobody got to touch.
    place.write("empty", b"");
    let before = place.read("a.vhd");
    place.make("revert -n a.vhd -j empty");
    assert!(!place.path("empty").exists() && place.read("a.vhd") == before);
}

#[test]
fn marks_and_completeness_of_blocks_survive_a_resize() {
    let place = Place::new();
    image(&place);
    place.make("set -n a.vhd -f marker -v 7");
    place.make("set -n a.vhd -f hidden -v 1");
    place.patch("a.vhd", 2560, &[0xe0]);
    place.patch("a.vhd", 2048 + 24, &(!0xe0_u32).to_be_bytes());
    place.make("resize -n a.vhd -s 20000 -j j");
    assert_eq!(place.ask("query -n a.vhd -vfma"), "20000\nhidden: 1\nmarker: 7\n3\n");
    let map = place.command(target_program("vhd-util")).args(["read", "-n", "a.vhd", "-a"]).output().unwrap().stdout;
    assert_eq!((map.len(), map[0], &map[1..4]), (1536, 0xe0, &[0; 3][..]));
}

#[test]
fn an_image_that_was_not_closed_is_put_in_order_first() {
    let place = Place::new();
    let before = image(&place);
    let mut killed = before[..before.len() - 512].to_vec();
    killed.extend(vec![0xc7; 3 << 20]);
    place.write("a.vhd", &killed);
    fail_at(&place, "END", "resize -n a.vhd -s 1000 -j j");
    place.make("revert -n a.vhd -j j");
    assert!(place.read("a.vhd") == before);
    // And one whose copy at the start is gone.
    place.patch("a.vhd", 0, &[0; 512]);
    place.make("resize -n a.vhd -s 1000 -j j");
    check_disk(&place, "a.vhd", 1000 << 20);
}

#[test]
fn children_keep_their_parents() {
    let place = Place::new();
    place.make("create -n p.vhd -s 64");
    fill_blocks(&place, "p.vhd", 1, 5);
    fs::create_dir(place.path("d")).unwrap();
    place.make("snapshot -n d/c.vhd -p p.vhd");
    fill_blocks(&place, "d/c.vhd", 0, 0);
    place.make("resize -n d/c.vhd -s 9000 -j j");
    let parent = place.path("p.vhd");
    assert_eq!(place.ask("query -n d/c.vhd -vpd"), format!("9000\n{}\nchain depth: 2\n", parent.display()));
    let read = ["read", "-n", "d/c.vhd", "-r", "4095", "-c", "2"];
    let sectors = place.command(target_program("vhd-util")).args(read).output().unwrap().stdout;
    assert_eq!(sectors, [[5; 512], [0; 512]].concat());
}

#[test]
fn no_room_for_the_journal_or_the_blocks_damages_nothing() {
    let test = "no_room_for_the_journal_or_the_blocks_damages_nothing";
    let place = Place::new();
    let before = image(&place);
    place.write("small", &vec![0; 1 << 20]);
    let Some(device) = LoopDevice::attach(test, &place.path("small")) else { return };
    let name = device.path().to_str().unwrap().to_owned();
    // The journal must hold a block, which this device does not.
    let (status, stdout, _) = place.fail(&format!("resize -n a.vhd -s 1000 -j {name}"));
    assert_eq!((status, stdout.as_str()), (28, "creating journal failed: -28\n"));
    assert!(place.read("a.vhd") == before);
    drop(device);
    // A device as long as its image has no room for a block that has to move.
    let mut disk = before.clone();
    disk.resize(7 << 20, 0);
    let end = disk.len() - 512;
    disk[before.len() - 512..].fill(0);
    disk[end..].copy_from_slice(&before[..512]);
    place.write("disk", &disk);
    let Some(device) = LoopDevice::attach(test, &place.path("disk")) else { return };
    let name = device.path().to_str().unwrap().to_owned();
    let (status, stdout, _) = place.fail(&format!("resize -n {name} -s 1000 -j j"));
    assert_eq!((status, stdout.as_str()), (28, "resize failed: -28\n"));
    drop(device);
    assert!(place.read("disk") == disk && !place.path("j").exists());
}

/// As on LVM: the image and its journal are devices.
#[test]
fn devices_hold_image_and_journal() {
    let test = "devices_hold_image_and_journal";
    let place = Place::new();
    let mut disk = image(&place);
    let footer = disk.split_off(disk.len() - 512);
    let used = disk.len();
    disk.resize((12 << 20) - 512, 0);
    disk.extend(&footer);
    place.write("disk", &disk);
    place.write("journal", &vec![0x55; 6 << 20]);
    let Some(device) = LoopDevice::attach(test, &place.path("disk")) else { return };
    let Some(journal) = LoopDevice::attach(test, &place.path("journal")) else { return };
    let (name, undo) = (device.path().to_str().unwrap(), journal.path().to_str().unwrap());
    for hook in HOOKS {
        fail_at(&place, hook, &format!("resize -n {name} -s 1000 -j {undo}"));
        place.make(&format!("revert -n {name} -j {undo}"));
        // Behind the last block is nothing but room.
        let (now, end) = (place.read("disk"), disk.len() - 512);
        assert!(now[..used] == disk[..used] && now[end..] == disk[end..], "{hook}");
        place.make(&format!("revert -n {name} -j {undo}"));
    }
    place.make(&format!("resize -n {name} -s 1000 -j {undo}"));
    assert_eq!(place.ask(&format!("query -n {name} -va")), "1000\n3\n");
    let after = place.read("disk");
    assert_eq!(after[..512], after[after.len() - 512..]);
    assert!(
        Command::new(target_program("vhd-util")).args(["revert", "-n", name, "-j", undo]).status().unwrap().success()
    );
    assert!(place.read("disk") == after, "what is done stays done");
}

#[test]
fn an_old_disk_of_other_tools_is_left_alone() {
    let place = Place::new();
    image(&place);
    change_footers(&place, "a.vhd", |footer| footer[28..32].copy_from_slice(b"qemu"));
    let before = place.everything();
    let (status, stdout, _) = place.fail("resize -n a.vhd -s 1000 -j j");
    assert_eq!((status, stdout.as_str()), (22, "creating journal failed: -22\n"));
    assert!(place.everything() == before);
}
