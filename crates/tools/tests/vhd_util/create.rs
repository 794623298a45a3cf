//! New images without a parent.

use std::fs;

use super::place::{Ended, Place, exists, fill_blocks};

#[test]
fn an_empty_disk_of_64_mebibytes_has_3584_bytes() {
    let place = Place::new();
    place.make("create -n a.vhd -s 64");
    assert_eq!(place.size("a.vhd"), 3584);
    let image = place.read("a.vhd");
    assert_eq!(image[..512], image[3072..]);
    assert_eq!(image[..8], *b"conectix");
    assert_eq!(image[28..40], *b"tap\0\0\x01\0\x03\0\0\0\0");
    assert_eq!(image[512..520], *b"cxsparse");
    assert_eq!(image[1536..1536 + 32 * 4], [0xff; 128]);
    assert_eq!(image[2048..2056], *b"tdbatmap");
    assert_eq!(place.ask("query -n a.vhd -v"), "64\n");
}

#[test]
fn sizes_are_rounded_up_to_two_mebibytes() {
    let place = Place::new();
    place.make("create -n a.vhd -s 7");
    assert_eq!(place.ask("query -n a.vhd -v"), "8\n");
}

#[test]
fn a_disk_may_have_no_bytes() {
    let place = Place::new();
    // What is no number is 0.
    for size in ["0", "none"] {
        place.make(&format!("create -n a.vhd -s {size}"));
        assert_eq!((place.size("a.vhd"), place.ask("query -n a.vhd -vsS")), (3584, "0\n3584\n0\n".to_owned()));
    }
}

#[test]
fn a_fixed_disk_has_all_its_room_and_one_footer() {
    let place = Place::new();
    place.make("create -n a.vhd -s 4 -r");
    let image = place.read("a.vhd");
    assert_eq!(image.len(), (4 << 20) + 512);
    assert!(image[..4 << 20].iter().all(|byte| *byte == 0));
    assert_eq!(image[4 << 20..][16..24], [0xff; 8]);
    assert_eq!(image[4 << 20..][60..64], [0, 0, 0, 2]);
    assert_eq!(place.ask("query -n a.vhd -vsp"), "4\n4194816\na.vhd has no parent\n");
}

#[test]
fn tables_may_have_room_for_a_larger_disk() {
    let place = Place::new();
    place.make("create -n a.vhd -s 64 -S 2097152");
    // A table of a million entries, 4 MiB, and a map of 128 KiB.
    assert_eq!(place.ask("query -n a.vhd -vS"), "64\n2097152\n");
    assert_eq!(place.size("a.vhd"), 1536 + (4 << 20) + 512 + (128 << 10) + 512);
    // Without a size there is room for one.
    place.make("create -n b.vhd -S 64");
    assert_eq!(place.ask("query -n b.vhd -vS"), "0\n64\n");
}

#[test]
fn room_for_less_than_the_disk_is_refused() {
    let place = Place::new();
    let ended = place.run("create -n a.vhd -s 64 -S 32");
    assert_eq!(ended.status, 22);
    assert_eq!(ended.stdout, "Error: <-S size> must be greater than <-s size>\n");
    assert!(!exists(&place.path("a.vhd")));
    place.make("create -n a.vhd -s 64 -S 64");
}

#[test]
fn an_existing_file_is_replaced() {
    let place = Place::new();
    place.make("create -n a.vhd -s 64");
    fill_blocks(&place, "a.vhd", 2, 7);
    let before = place.read("a.vhd");
    place.make("create -n a.vhd -s 64");
    assert_eq!(place.size("a.vhd"), 3584);
    assert_ne!(place.read("a.vhd")[68..84], before[68..84], "a new disk has a new identity");
}

#[test]
fn every_image_has_an_identity_of_its_own() {
    let place = Place::new();
    place.make("create -n a.vhd -s 2");
    place.make("create -n b.vhd -s 2");
    assert_ne!(place.read("a.vhd")[68..84], place.read("b.vhd")[68..84]);
}

#[test]
fn a_failure_names_file_and_number_as_ever_and_then_the_cause() {
    let place = Place::new();
    let ended = place.run("create -n none/a.vhd -s 2");
    let stderr =
        "none/a.vhd: failed to create: -2\nvhd-util create: none/a.vhd: No such file or directory\n".to_owned();
    assert_eq!(ended, Ended { status: 2, stdout: String::new(), stderr });
}

#[test]
fn a_failed_create_leaves_what_is_no_file_alone() {
    let place = Place::new();
    fs::create_dir(place.path("d")).unwrap();
    let ended = place.run("create -n d -s 2");
    assert_eq!((ended.status, ended.stderr.lines().next()), (22, Some("d: failed to create: -22")));
    assert!(place.path("d").is_dir());
}

#[test]
fn an_image_that_somebody_writes_is_not_replaced() {
    let place = Place::new();
    place.make("create -n a.vhd -s 2");
    let before = place.everything();
    let held = fs::File::open(place.path("a.vhd")).unwrap();
    rustix::fs::flock(&held, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
    let ended = place.run("create -n a.vhd -s 4");
    assert_eq!((ended.status, ended.stdout.as_str()), (16, ""));
    assert!(ended.stderr.ends_with("a.vhd: is in use by another process\n"), "{}", ended.stderr);
    assert_eq!(place.everything(), before);
}

#[test]
fn a_size_that_no_disk_has_changes_nothing() {
    let place = Place::new();
    place.write("a.vhd", b"something");
    for size in ["-1", "99999999999999999999", "17592186044416"] {
        let ended = place.run(&format!("create -n a.vhd -s {size}"));
        assert_ne!(ended.status, 0, "{size}");
        assert_eq!(place.read("a.vhd"), b"something", "{size}");
    }
}

#[test]
fn a_file_that_was_made_for_an_image_goes_when_the_image_cannot_be_made() {
    let place = Place::new();
    // No file system has files of 2^63 bytes.
    let ended = place.run("create -n a.vhd -s 8796093022208 -r");
    assert_ne!(ended.status, 0);
    assert!(ended.stderr.starts_with("a.vhd: failed to create: -"), "{}", ended.stderr);
    assert!(!exists(&place.path("a.vhd")));
    // What was there before is not ours to remove.
    place.write("b.vhd", b"something");
    assert_ne!(place.run("create -n b.vhd -s 8796093022208 -r").status, 0);
    assert!(exists(&place.path("b.vhd")));
}
