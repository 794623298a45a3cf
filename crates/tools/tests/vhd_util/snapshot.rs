//! Images that continue others.

use std::{fs, os::unix::fs::symlink};

use super::place::{Ended, Place, change_header, exists, fill_blocks};

fn chain(place: &Place) {
    place.make("create -n a.vhd -s 64");
    place.make("snapshot -n b.vhd -p a.vhd");
}

#[test]
fn a_child_has_5120_bytes_and_names_its_parent_four_times() {
    let place = Place::new();
    chain(&place);
    assert_eq!(place.size("b.vhd"), 5120);
    let (parent, child) = (place.read("a.vhd"), place.read("b.vhd"));
    assert_eq!(child[60..64], [0, 0, 0, 4]);
    assert_eq!(child[512 + 40..512 + 56], parent[68..84], "the parent's identity");
    assert_eq!(child[512 + 64..512 + 76], *b"\0a\0.\0v\0h\0d\0\0");
    assert_eq!(child[3072..3087], *b"file://./a.vhd\0");
    assert_eq!(child[3584..3599], *b".\0\\\0a\0.\0v\0h\0d\0\0");
    assert_eq!(child[4096..4111], *b".\0\\\0a\0.\0v\0h\0d\0\0");
    assert_eq!(place.ask("query -n b.vhd -vpd"), format!("64\n{}\nchain depth: 2\n", place.path("a.vhd").display()));
}

#[test]
fn the_stored_path_leads_from_the_childs_directory() {
    let place = Place::new();
    fs::create_dir_all(place.path("x/y")).unwrap();
    fs::create_dir(place.path("z")).unwrap();
    place.make("create -n z/a.vhd -s 2");
    place.make("snapshot -n x/y/b.vhd -p z/a.vhd");
    assert_eq!(place.ask("query -n x/y/b.vhd -pu"), "../../z/a.vhd\n");
    assert_eq!(place.ask("query -n x/y/b.vhd -p"), format!("{}\n", place.path("z/a.vhd").display()));
    let child = place.read("x/y/b.vhd");
    assert_eq!(child[3584..3598], *b".\0\\\0.\0.\0\\\0.\0.\0");
}

#[test]
fn links_are_followed_before_paths_are_compared() {
    let place = Place::new();
    fs::create_dir(place.path("real")).unwrap();
    symlink("real", place.path("alias")).unwrap();
    place.make("create -n real/a.vhd -s 2");
    symlink("real/a.vhd", place.path("a.vhd")).unwrap();
    place.make("snapshot -n alias/b.vhd -p a.vhd");
    assert_eq!(place.ask("query -n real/b.vhd -pu"), "./a.vhd\n");
}

#[test]
fn a_chain_that_is_moved_as_a_whole_stays_one() {
    let place = Place::new();
    fs::create_dir(place.path("old")).unwrap();
    place.make("create -n old/a.vhd -s 2");
    place.make("snapshot -n old/b.vhd -p old/a.vhd");
    fs::rename(place.path("old"), place.path("new")).unwrap();
    assert_eq!(place.ask("query -n new/b.vhd -p"), format!("{}\n", place.path("new/a.vhd").display()));
}

#[test]
fn an_empty_parent_is_passed_over() {
    let place = Place::new();
    chain(&place);
    place.make("snapshot -n c.vhd -p b.vhd");
    assert_eq!(place.ask("query -n c.vhd -pu"), "./a.vhd\n");
    assert_eq!(place.ask("query -n c.vhd -d"), "chain depth: 2\n");
    // One that is not differencing is never passed over, and -e takes what was named.
    place.make("snapshot -n d.vhd -p b.vhd -e");
    assert_eq!(place.ask("query -n d.vhd -pu"), "./b.vhd\n");
    assert_eq!(place.ask("query -n d.vhd -d"), "chain depth: 3\n");
}

#[test]
fn a_parent_with_a_block_is_not_passed_over() {
    let place = Place::new();
    chain(&place);
    fill_blocks(&place, "b.vhd", 1, 1);
    place.make("snapshot -n c.vhd -p b.vhd");
    assert_eq!(place.ask("query -n c.vhd -pu"), "./b.vhd\n");
}

#[test]
fn all_empty_parents_are_passed_over_down_to_a_raw_one() {
    let place = Place::new();
    place.write("a.raw", &vec![1; 4 << 20]);
    place.make("snapshot -n b.vhd -p a.raw -m");
    place.make("snapshot -n c.vhd -p b.vhd -e");
    place.make("snapshot -n d.vhd -p c.vhd");
    assert_eq!(place.ask("query -n d.vhd -pu"), "./a.raw\n");
    assert_eq!(place.ask("query -n d.vhd -vd"), "4\nchain depth: 2\n");
    assert_eq!(place.read("d.vhd")[512 + 40..512 + 56], [0; 16], "a raw parent has no identity");
}

#[test]
fn a_child_keeps_the_size_of_the_image_that_was_named() {
    let place = Place::new();
    place.make("create -n a.vhd -s 64");
    place.make("snapshot -n b.vhd -p a.vhd");
    // The disk has grown in its second image.
    super::place::change_footers(&place, "b.vhd", |footer| {
        footer[40..56].copy_from_slice(&[(62_u64 << 20).to_be_bytes(), (62_u64 << 20).to_be_bytes()].concat());
    });
    let ended = place.run("snapshot -n c.vhd -p b.vhd -e");
    assert_eq!(ended.status, 0, "{ended:?}");
    assert_eq!(place.ask("query -n c.vhd -v"), "62\n");
    place.make("snapshot -n d.vhd -p b.vhd");
    assert_eq!(place.ask("query -n d.vhd -pv"), format!("62\n{}\n", place.path("a.vhd").display()));
}

#[test]
fn a_raw_parent_of_any_size_gives_its_size_to_the_child() {
    let place = Place::new();
    place.write("a.raw", &vec![1; 7 << 20]);
    place.make("snapshot -n b.vhd -p a.raw -m");
    let child = place.read("b.vhd");
    assert_eq!(child[48..56], (7_u64 << 20).to_be_bytes());
    assert_eq!(place.ask("query -n b.vhd -pdS"), format!("{}\nchain depth: 2\n8\n", place.path("a.raw").display()));
}

#[test]
fn a_longest_chain_is_not_exceeded() {
    let place = Place::new();
    chain(&place);
    fill_blocks(&place, "b.vhd", 1, 1);
    let (status, stdout, _) = place.fail("snapshot -n c.vhd -p b.vhd -l 2");
    assert_eq!((status, stdout.as_str()), (28, "snapshot depth exceeded: current depth: 2, limit: 2\n"));
    assert!(!exists(&place.path("c.vhd")));
    place.make("snapshot -n c.vhd -p b.vhd -l 3");
    // The depth that counts is that of the image that the child continues.
    place.make("snapshot -n d.vhd -p c.vhd -l 3");
    assert_eq!(place.ask("query -n d.vhd -d"), "chain depth: 3\n");
}

#[test]
fn tables_of_a_child_may_have_room_for_a_larger_disk() {
    let place = Place::new();
    chain(&place);
    place.make("snapshot -n c.vhd -p a.vhd -S 1024");
    assert_eq!(place.ask("query -n c.vhd -vS"), "64\n1024\n");
    let (status, stdout, _) = place.fail("snapshot -n d.vhd -p a.vhd -S 32");
    assert_eq!((status, stdout.as_str()), (22, ""));
    assert!(!exists(&place.path("d.vhd")));
}

#[test]
fn paths_outside_ascii_are_stored_as_unicode() {
    let place = Place::new();
    place.make("create -n b\u{e4}se.vhd -s 2");
    place.make("snapshot -n b.vhd -p b\u{e4}se.vhd");
    assert_eq!(place.ask("query -n b.vhd -p"), format!("{}\n", place.path("b\u{e4}se.vhd").display()));
}

#[test]
fn an_image_is_never_replaced_by_its_own_child() {
    let place = Place::new();
    chain(&place);
    fill_blocks(&place, "b.vhd", 1, 1);
    symlink("a.vhd", place.path("alias.vhd")).unwrap();
    let before = place.everything();
    for child in ["a.vhd", "b.vhd", "./b.vhd", "alias.vhd"] {
        let (status, stdout, stderr) = place.fail(&format!("snapshot -n {child} -p b.vhd"));
        assert_eq!((status, stdout.as_str()), (22, ""), "{child}");
        assert!(stderr.ends_with("b.vhd is read through it"), "{stderr}");
    }
    assert_eq!(place.everything(), before);
    // Any other file is replaced, as by create.
    place.write("c.vhd", b"something");
    place.make("snapshot -n c.vhd -p b.vhd");
    assert_eq!(place.size("c.vhd"), 5120);
}

#[test]
fn a_snapshot_that_cannot_be_made_leaves_no_trace() {
    let place = Place::new();
    chain(&place);
    place.write("junk", &[7; 4096]);
    fs::rename(place.path("a.vhd"), place.path("gone.vhd")).unwrap();
    let before = place.everything();
    let stories = [
        ("snapshot -n c.vhd -p none.vhd", 2),
        ("snapshot -n c.vhd -p none.raw -m", 2),
        ("snapshot -n c.vhd -p junk", 22),
        // Empty, and the image below it cannot be found.
        ("snapshot -n c.vhd -p b.vhd", 2),
        ("snapshot -n none/c.vhd -p gone.vhd", 2),
    ];
    for (line, expected) in stories {
        let (status, stdout, stderr) = place.fail(line);
        assert_eq!((status, stdout.as_str()), (expected, ""), "{line}: {stderr}");
    }
    assert_eq!(place.everything(), before);
}

#[test]
fn chains_that_lead_back_are_refused() {
    let place = Place::new();
    chain(&place);
    place.make("snapshot -n c.vhd -p b.vhd -e");
    // b names c as its parent now: the same path with another letter, in all three encodings.
    for (offset, bytes) in [(3072 + 9, &b"c"[..]), (3584 + 4, b"c"), (4096 + 4, b"c")] {
        place.patch("b.vhd", offset, bytes);
    }
    change_header(&place, "b.vhd", |header| header[65] = b'c');
    let Ended { status, stdout, stderr } = place.run("snapshot -n d.vhd -p c.vhd");
    assert_eq!((status, stdout.as_str()), (40, ""));
    assert!(stderr.contains("c.vhd: the chain leads back to it"), "{stderr}");
    assert!(!exists(&place.path("d.vhd")));
}
