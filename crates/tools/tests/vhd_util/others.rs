//! What commands leave is read by other implementations, and they read the same. (`qemu-img check` knows no rules of this
//! format, and says so.)

use std::{fs::File, io::Read};

use test_support::require_tool;

use super::{
    disks::{disk, give},
    place::Place,
};

/// Sectors of a block.
const SPB: usize = 4096;
const DISK: usize = 16 << 20;

/// The start of a disk as QEMU sees it, and as libvhdi's headers allow.
fn seen(place: &Place, name: &str) -> Vec<u8> {
    let convert = ["convert", "-f", "vpc", "-O", "raw", name, "seen.raw"];
    let ended = place.command(require_tool("qemu-img")).args(convert).output().unwrap();
    assert!(ended.status.success(), "{name}: {}", String::from_utf8_lossy(&ended.stderr));
    let told = place.command(require_tool("vhdiinfo")).arg(name).output().unwrap();
    let words = String::from_utf8_lossy(&told.stdout);
    assert!(told.status.success() && words.contains("Dynamic"), "{name}: {words}");
    let mut seen = Vec::new();
    File::open(place.path("seen.raw")).unwrap().take(DISK as u64).read_to_end(&mut seen).unwrap();
    seen
}

#[test]
fn others_read_what_each_command_leaves() {
    type Change = fn(&Place);
    let lose_end: Change = |place| place.patch("a.vhd", place.size("a.vhd") - 512, &[0xc7; 512]);
    let lose_start: Change = |place| place.patch("a.vhd", 0, &[0; 512]);
    let tear_batmap: Change = |place| place.patch("a.vhd", 2560, &[0x55]);
    let stories: [(Change, &str, &str); 7] = [
        (lose_end, "repair -n a.vhd", "a.vhd"),
        (lose_start, "repair -n a.vhd", "a.vhd"),
        (tear_batmap, "repair -n a.vhd", "a.vhd"),
        (|_| (), "copy -n a.vhd -N b.vhd", "b.vhd"),
        (|_| (), "resize -n a.vhd -s 4000 -j j", "a.vhd"),
        (lose_end, "resize -n a.vhd -s 400 -j j", "a.vhd"),
        (|_| (), "fill -n a.vhd", "a.vhd"),
    ];
    for (change, line, result) in stories {
        let place = Place::new();
        place.make("create -n a.vhd -s 16");
        give(&place, "a.vhd", &[(0, 9, 1), (SPB, SPB, 2), (4 * SPB - 2, 3, 3), (6 * SPB + 7, 1, 4)]);
        let expected = disk(&place, &["a.vhd"]);
        change(&place);
        place.make(line);
        let seen = seen(&place, result);
        // QEMU ends a disk where its cylinders end.
        assert!(seen.len() > DISK - (1 << 20) && seen[..] == expected[..seen.len()], "{line}");
        assert!(disk(&place, &[result])[..DISK] == expected, "{line}");
        assert_eq!(place.ask(&format!("check -b -n {result}")), format!("{result} is valid\n"), "{line}");
    }
}
