//! What an image says of itself.

use std::fs;

use super::place::{Place, change_footers, change_header, fill_blocks};

#[test]
fn lines_come_in_one_order_whatever_order_was_asked() {
    let place = Place::new();
    place.make("create -n a.vhd -s 64 -S 128");
    place.make("snapshot -n b.vhd -p a.vhd");
    fill_blocks(&place, "b.vhd", 3, 1);
    // The first block's data is at 8192; a gap of 3584 bytes goes in front of each further bitmap.
    let end = 8192 - 512 + 3 * (512 + (2 << 20)) + 2 * 3584;
    let parent = place.path("a.vhd");
    let expected = format!("64\n{}\n{}\nhidden: 0\nmarker: 0\nchain depth: 2\n3\n64\n", end + 512, parent.display());
    for letters in ["-vspfmdaS", "-Sadmfpsv", "-v -s -p -f -m -d -a -S", "-a -f -v -S -p -m -s -d"] {
        assert_eq!(place.ask(&format!("query {letters} -n b.vhd")), expected, "{letters}");
    }
    assert_eq!(place.ask("query -n a.vhd -S"), "128\n");
}

#[test]
fn nothing_asked_is_nothing_said() {
    let place = Place::new();
    place.make("create -n a.vhd -s 2");
    assert_eq!(place.ask("query -n a.vhd"), "");
}

#[test]
fn an_image_without_a_parent_says_so_with_the_name_as_given() {
    let place = Place::new();
    place.make("create -n a.vhd -s 2");
    assert_eq!(place.ask("query -n ./a.vhd -p"), "./a.vhd has no parent\n");
    assert_eq!(place.ask("query -n ./a.vhd -pu"), "./a.vhd has no parent\n");
}

#[test]
fn the_virtual_size_is_cut_to_whole_mebibytes() {
    let place = Place::new();
    place.make("create -n a.vhd -s 4");
    change_footers(&place, "a.vhd", |footer| footer[48..56].copy_from_slice(&(0x2f_fe00_u64).to_be_bytes()));
    assert_eq!(place.ask("query -n a.vhd -v"), "2\n");
}

#[test]
fn a_lost_parent_fails_what_needs_it_and_nothing_else() {
    let place = Place::new();
    place.make("create -n a.vhd -s 2");
    place.make("snapshot -n b.vhd -p a.vhd");
    fs::remove_file(place.path("a.vhd")).unwrap();
    let (status, stdout, stderr) = place.fail("query -n b.vhd -vspfdaS");
    assert_eq!(status, 2);
    assert_eq!(stdout, "2\n5120\nquery failed\nhidden: 0\nerror checking chain depth: -2\n0\n2\n");
    let lost = place.path("a.vhd");
    assert_eq!(stderr, format!("vhd-util query: b.vhd: parent: {}: No such file or directory", lost.display()));
    let (status, stdout, _) = place.fail("query -n b.vhd -d");
    assert_eq!((status, stdout.as_str()), (2, "error checking chain depth: -2\n"));
    assert_eq!(place.ask("query -n b.vhd -pu"), "./a.vhd\n");
}

#[test]
fn a_fixed_image_has_no_table() {
    let place = Place::new();
    place.make("create -n a.vhd -s 2 -r");
    let (status, stdout, _) = place.fail("query -n a.vhd -vsaS");
    assert_eq!((status, stdout.as_str()), (22, "2\n2097664\nerror reading bat: -22\n0\n"));
    assert_eq!(place.ask("query -n a.vhd -fmdS"), "hidden: 0\nmarker: 0\nchain depth: 1\n0\n");
}

#[test]
fn an_image_that_a_resize_has_disabled_can_be_looked_at() {
    let place = Place::new();
    place.make("create -n a.vhd -s 64");
    place.make("snapshot -n b.vhd -p a.vhd");
    for name in ["a.vhd", "b.vhd"] {
        change_footers(&place, name, |footer| footer[..8].copy_from_slice(b"v_poison"));
    }
    let parent = place.path("a.vhd");
    assert_eq!(place.ask("query -n b.vhd -vpd"), format!("64\n{}\nchain depth: 2\n", parent.display()));
    let (status, stdout, _) = place.fail("set -n b.vhd -f hidden -v 1");
    assert_eq!((status, stdout.as_str()), (22, "error opening b.vhd: -22\n"));
    let (status, ..) = place.fail("snapshot -n c.vhd -p b.vhd");
    assert_eq!(status, 22);
}

#[test]
fn a_chain_that_leads_back_ends_in_an_error() {
    let place = Place::new();
    place.make("create -n a.vhd -s 2");
    place.make("snapshot -n b.vhd -p a.vhd -e");
    place.make("snapshot -n a.vhd.new -p b.vhd -e");
    fs::rename(place.path("a.vhd.new"), place.path("a.vhd")).unwrap();
    let (status, stdout, stderr) = place.fail("query -n b.vhd -d");
    assert_eq!((status, stdout.as_str()), (40, "error checking chain depth: -40\n"));
    let back = place.path("b.vhd");
    assert!(stderr.contains(&format!("{}: the chain leads back to it", back.display())), "{stderr}");
}

#[test]
fn an_image_whose_writer_was_killed_answers_by_the_copy_at_its_start() {
    let place = Place::new();
    place.make("create -n a.vhd -s 64");
    fill_blocks(&place, "a.vhd", 2, 1);
    let footer = place.size("a.vhd") - 512;
    place.patch("a.vhd", footer, &[0xaa; 512]);
    assert_eq!(place.ask("query -n a.vhd -vsaf"), format!("64\n{}\nhidden: 0\n2\n", footer + 512));
}

#[test]
fn the_copy_alone_counts_if_that_is_asked() {
    let place = Place::new();
    place.make("create -n a.vhd -s 64");
    assert_eq!(place.ask("query -vsafpub -n a.vhd"), "64\n3584\na.vhd has no parent\nhidden: 0\n0\n");
    place.patch("a.vhd", 0, &[0; 8]);
    assert_eq!(place.ask("query -v -n a.vhd"), "64\n");
    let (status, stdout, _) = place.fail("query -vb -n a.vhd");
    assert_eq!((status, stdout.as_str()), (22, "error opening a.vhd: -22\n"));
}

#[test]
fn one_broken_locator_hides_no_other() {
    let place = Place::new();
    place.make("create -n a.vhd -s 2");
    place.make("snapshot -n b.vhd -p a.vhd");
    // The first is no URL any more, the second lies nowhere.
    place.patch("b.vhd", 3072, b"elif");
    change_header(&place, "b.vhd", |header| header[576 + 24 + 16..576 + 48].fill(0x7f));
    assert_eq!(place.ask("query -n b.vhd -p"), format!("{}\n", place.path("a.vhd").display()));
}

#[test]
fn a_batmap_that_was_damaged_keeps_nothing_else_from_answering() {
    let place = Place::new();
    place.make("create -n a.vhd -s 64");
    fill_blocks(&place, "a.vhd", 1, 1);
    let size = place.size("a.vhd");
    // A marker that was set by a tool which wrote 1024 bytes: the sum is for a map that is gone.
    place.patch("a.vhd", 2048 + 24, &[1, 2, 3, 4, 9]);
    assert_eq!(place.ask("query -n a.vhd -sma"), format!("{size}\nmarker: 9\n1\n"));
    place.patch("a.vhd", 2048, b"x");
    assert_eq!(place.ask("query -n a.vhd -sa"), format!("{size}\n1\n"));
    let (status, stdout, _) = place.fail("query -n a.vhd -m");
    assert_eq!((status, stdout.as_str()), (22, "error checking 'marker' field: -22\n"));
}

#[test]
fn images_of_other_makers_answer_too() {
    let place = Place::new();
    let create = |name: &str, options: &str| {
        let mut command = place.command(test_support::require_tool("qemu-img"));
        let status = command.args(["create", "-q", "-f", "vpc", "-o", options, name, "16M"]).status().unwrap();
        assert!(status.success());
    };
    create("d.vhd", "subformat=dynamic,force_size=on");
    assert_eq!(
        place.ask("query -n d.vhd -vpfmda"),
        "16\nd.vhd has no parent\nhidden: 0\nmarker: 0\nchain depth: 1\n0\n"
    );
    create("f.vhd", "subformat=fixed,force_size=on");
    assert_eq!(place.ask("query -n f.vhd -vsf"), "16\n16777728\nhidden: 0\n");
}
