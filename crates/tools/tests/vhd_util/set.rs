//! The marks on an image.

use std::{fs::File, os::fd::AsFd};

use rustix::fs::{FlockOperation, flock, getxattr};

use super::place::{Place, change_footers, fill_blocks};

fn differences(before: &[u8], after: &[u8]) -> Vec<usize> {
    assert_eq!(before.len(), after.len());
    (0..before.len()).filter(|index| before[*index] != after[*index]).collect()
}

#[test]
fn hidden_is_a_byte_of_both_footers() {
    let place = Place::new();
    place.make("create -n a.vhd -s 64");
    let before = place.read("a.vhd");
    place.make("set -n a.vhd -f hidden -v 1");
    assert_eq!(place.ask("query -n a.vhd -f"), "hidden: 1\n");
    // The byte, and the sum, which is one less.
    assert_eq!(differences(&before, &place.read("a.vhd")), [67, 85, 3072 + 67, 3072 + 85]);
    place.make("set -n a.vhd -f hidden -v 0");
    assert_eq!(place.read("a.vhd"), before);
    place.make("set -n a.vhd -f hidden -v 255");
    assert_eq!(place.ask("query -n a.vhd -f"), "hidden: 255\n");
}

#[test]
fn a_fixed_image_is_hidden_in_its_only_footer() {
    let place = Place::new();
    place.make("create -n a.vhd -s 2 -r");
    let before = place.read("a.vhd");
    place.make("set -n a.vhd -f hidden -v 1");
    assert_eq!(place.ask("query -n a.vhd -f"), "hidden: 1\n");
    assert_eq!(differences(&before, &place.read("a.vhd")), [(2 << 20) + 67, (2 << 20) + 85]);
}

#[test]
fn hiding_gives_a_lost_footer_back_and_touches_no_block() {
    let place = Place::new();
    place.make("create -n a.vhd -s 64");
    fill_blocks(&place, "a.vhd", 2, 9);
    let end = place.size("a.vhd") - 512;
    let before = place.read("a.vhd");
    place.truncate("a.vhd", end);
    place.make("set -n a.vhd -f hidden -v 1");
    let after = place.read("a.vhd");
    assert_eq!(differences(&before, &after), [67, 85, before.len() - 512 + 67, before.len() - 512 + 85]);
}

#[test]
fn a_block_that_is_just_being_made_keeps_its_bytes() {
    let place = Place::new();
    place.make("create -n a.vhd -s 64");
    fill_blocks(&place, "a.vhd", 1, 9);
    // Behind the last block that the table knows there is one that it will know soon, and no footer.
    let mut image = place.read("a.vhd");
    image.truncate(image.len() - 512);
    image.extend(vec![8; 3 << 20]);
    place.write("a.vhd", &image);
    place.make("set -n a.vhd -f hidden -v 1");
    let after = place.read("a.vhd");
    assert_eq!(after[3584..image.len()], image[3584..]);
    assert_eq!(after.len(), image.len() + 512);
    assert_eq!(place.ask("query -n a.vhd -fa"), "hidden: 1\n1\n");
}

#[test]
fn a_marker_is_a_byte_of_the_batmaps_header() {
    let place = Place::new();
    place.make("create -n a.vhd -s 64");
    fill_blocks(&place, "a.vhd", 1, 9);
    // The block is complete, and the map says so.
    place.patch("a.vhd", 2560, &[0x80]);
    place.patch("a.vhd", 2048 + 24, &(!0x80_u32).to_be_bytes());
    let before = place.read("a.vhd");
    assert_eq!(place.ask("query -n a.vhd -m"), "marker: 0\n");
    place.make("set -n a.vhd -f marker -v 7");
    assert_eq!(place.ask("query -n a.vhd -m"), "marker: 7\n");
    assert_eq!(differences(&before, &place.read("a.vhd")), [2048 + 28]);
    place.make("set -n a.vhd -f hidden -v 1");
    assert_eq!(place.ask("query -n a.vhd -fm"), "hidden: 1\nmarker: 7\n");
}

#[test]
fn a_damaged_batmap_stops_neither_mark() {
    let place = Place::new();
    place.make("create -n a.vhd -s 64");
    place.patch("a.vhd", 2048 + 24, &[1, 2, 3, 4]);
    place.make("set -n a.vhd -f marker -v 3");
    place.make("set -n a.vhd -f hidden -v 1");
    assert_eq!(place.ask("query -n a.vhd -fm"), "hidden: 1\nmarker: 3\n");
    assert_eq!(place.read("a.vhd")[2048 + 24..2048 + 28], [1, 2, 3, 4], "the map's sum is not ours to change");
}

#[test]
fn the_marker_of_an_image_without_a_batmap_is_an_attribute_of_its_file() {
    let place = Place::new();
    place.make("create -n a.vhd -s 2 -r");
    let before = place.read("a.vhd");
    place.make("set -n a.vhd -f marker -v 200");
    assert_eq!(place.ask("query -n a.vhd -m"), "marker: 200\n");
    assert_eq!(place.read("a.vhd"), before);
    let mut value = [0; 8];
    let length = getxattr(place.path("a.vhd"), "user.com.citrix.xenclient.backend.marker", &mut value).unwrap();
    assert_eq!(value[..length], [200]);
}

#[test]
fn fields_and_values_that_there_are_not_come_with_the_usage() {
    let place = Place::new();
    place.make("create -n a.vhd -s 2");
    let before = place.everything();
    let stories = [
        ("set -n a.vhd -f bogus -v 1", "invalid field bogus\n"),
        ("set -n a.vhd -f hidden -v 256", "invalid value 256\n"),
        ("set -n a.vhd -f marker -v -1", "invalid value -1\n"),
    ];
    for (line, words) in stories {
        let ended = place.run(line);
        assert_eq!((ended.status, ended.stderr.as_str()), (22, ""), "{line}");
        assert!(ended.stdout.starts_with(&format!("{words}options: <-n name>")), "{line}: {}", ended.stdout);
    }
    assert_eq!(place.everything(), before);
    // What is no number is 0.
    place.make("set -n a.vhd -f hidden -v yes");
}

#[test]
fn marks_are_set_while_somebody_else_holds_the_lock() {
    let place = Place::new();
    place.make("create -n a.vhd -s 2");
    let held = File::open(place.path("a.vhd")).unwrap();
    flock(held.as_fd(), FlockOperation::NonBlockingLockExclusive).unwrap();
    place.make("set -n a.vhd -f hidden -v 1");
    place.make("set -n a.vhd -f marker -v 1");
}

#[test]
fn an_image_of_early_tools_that_is_hidden_with_a_stale_sum_is_shown_again() {
    let place = Place::new();
    place.make("create -n a.vhd -s 2");
    change_footers(&place, "a.vhd", |footer| footer[32..36].copy_from_slice(&[0, 1, 0, 1]));
    let bytes = place.read("a.vhd");
    for offset in [0, bytes.len() as u64 - 512] {
        place.patch("a.vhd", offset + 85, &[1]);
    }
    assert_eq!(place.ask("query -n a.vhd -f"), "hidden: 1\n");
    place.make("set -n a.vhd -f hidden -v 0");
    assert_eq!(place.read("a.vhd"), bytes);
}
