//! What an image says of the key of its disk.

use super::place::{Place, fill_blocks};

#[test]
fn a_child_inherits_the_hash_of_the_key() {
    let place = Place::new();
    place.make("create -n a.vhd -s 64");
    let key: Vec<u8> = [&[1][..], &[7; 32], &[9; 32]].concat();
    place.patch("a.vhd", 2048 + 29, &key);
    place.make("snapshot -n b.vhd -p a.vhd");
    assert_eq!(place.read("b.vhd")[2048 + 29..2048 + 94], key);
    assert_eq!(place.size("b.vhd"), 5120);
    // Also from further down, when the image in between is passed over.
    place.make("snapshot -n c.vhd -p b.vhd");
    assert_eq!(place.read("c.vhd")[2048 + 29..2048 + 94], key);
    // Other images have none.
    place.make("create -n d.vhd -s 64");
    place.make("snapshot -n e.vhd -p d.vhd");
    assert_eq!(place.read("e.vhd")[2048 + 29..2048 + 94], [0; 65]);
}

#[test]
fn a_parent_whose_key_cannot_be_read_gets_no_child() {
    let place = Place::new();
    place.make("create -n a.vhd -s 64");
    fill_blocks(&place, "a.vhd", 1, 1);
    place.patch("a.vhd", 2048, b"x");
    let before = place.everything();
    let (status, _, stderr) = place.fail("snapshot -n b.vhd -p a.vhd");
    assert!(status == 22 && stderr.ends_with("a.vhd: batmap: invalid cookie"), "{stderr}");
    assert_eq!(place.everything(), before);
}
