//! Room for blocks, and what a guest sees meanwhile: nothing.

use std::fs::File;

use rustix::fs::{FlockOperation, flock};
use test_support::{LoopDevice, require_tool, target_program};

use super::place::{Place, fill_blocks};

fn said(place: &Place, line: &str) -> Vec<u8> {
    let ended = place.command(target_program("vhd-util")).args(line.split_whitespace()).output().unwrap();
    assert!(ended.status.success() && ended.stderr.is_empty(), "{line}: {ended:?}");
    ended.stdout
}

/// The whole disk, read through the chain.
fn disk(place: &Place, name: &str) -> Vec<u8> {
    said(place, &format!("read -n {name} -r 0 -c 16384"))
}

/// A parent of 8 MiB with 5 in its first block, and a child with 7 in a few sectors of its second block, whose room holds
/// more than its bitmap says.
fn chain(place: &Place) {
    place.make("create -n p.vhd -s 8");
    fill_blocks(place, "p.vhd", 1, 5);
    place.make("snapshot -n c.vhd -p p.vhd");
    fill_blocks(place, "c.vhd", 2, 7);
    let image = place.read("c.vhd");
    let entry = |block: usize| u32::from_be_bytes(image[1536 + block * 4..][..4].try_into().unwrap());
    // The first block goes back to the parent; of the second only the first eight sectors count.
    place.patch("c.vhd", 1536, &[0xff; 4]);
    place.patch("c.vhd", u64::from(entry(1)) * 512 + 1, &[0; 511]);
}

#[test]
fn a_child_that_is_filled_holds_what_its_parent_does() {
    let place = Place::new();
    chain(&place);
    let before = disk(&place, "c.vhd");
    assert!(before[..2 << 20].iter().all(|byte| *byte == 5) && before[2 << 20..(2 << 20) + 4096] == [7; 4096]);
    assert!(before[(2 << 20) + 4096..].iter().all(|byte| *byte == 0), "what no bitmap names is not seen");
    place.make("fill -n c.vhd");
    assert!(disk(&place, "c.vhd") == before);
    assert_eq!(place.ask("query -n c.vhd -a"), "4\n");
    assert_eq!(said(&place, "read -n c.vhd -a")[0], 0xf0);
    assert_eq!(place.run("check -n c.vhd -p").status, 0);
    let filled = place.read("c.vhd");
    place.make("fill -n c.vhd");
    assert!(place.read("c.vhd") == filled, "there is nothing more to fill");
    // It needs its parent no more.
    place.make("create -n p.vhd -s 8");
    place.make("modify -n c.vhd -p p.vhd");
    assert!(disk(&place, "c.vhd") == before);
}

#[test]
fn room_alone_changes_no_byte_of_the_disk() {
    let place = Place::new();
    chain(&place);
    let before = disk(&place, "c.vhd");
    // The blocks of these sectors, ends included.
    place.make("fill -b -f 8191 -t 8192 -n c.vhd");
    assert_eq!(place.ask("query -n c.vhd -a"), "2\n");
    assert_eq!(place.ask("read -n c.vhd -e 0 -c 16384"), "4096 8192\n");
    assert!(disk(&place, "c.vhd") == before);
    place.make("fill -b -B -n c.vhd");
    assert_eq!(place.ask("query -n c.vhd -a"), "4\n");
    assert!(disk(&place, "c.vhd") == before);
    assert_eq!(place.run("check -n c.vhd -p").status, 0);
}

#[test]
fn room_of_an_empty_disk_is_all_there_and_reads_as_zeroes() {
    let place = Place::new();
    place.make("create -n a.vhd -s 8");
    place.make("fill -b -n a.vhd");
    let image = place.read("a.vhd");
    assert_eq!(image.len(), 3584 + 4 * (512 + (2 << 20)) + 3 * 3584 + 512, "the file holds all its blocks");
    assert_eq!(image[..512], image[image.len() - 512..]);
    assert!(disk(&place, "a.vhd").iter().all(|byte| *byte == 0));
    assert_eq!(place.run("check -n a.vhd -b").status, 0);
    let compare = ["compare", "-f", "vpc", "-F", "raw", "a.vhd", "zero.raw"];
    place.write("zero.raw", &vec![0; 8 << 20]);
    let compared = place.command(require_tool("qemu-img")).args(compare).output().unwrap();
    assert!(compared.status.success(), "{compared:?}");
}

/// A block that has room, of which no sector counts: what lies in the room is nobody's.
#[test]
fn room_that_a_block_has_already_is_emptied() {
    let place = Place::new();
    place.make("create -n a.vhd -s 8");
    fill_blocks(&place, "a.vhd", 1, 9);
    place.patch("a.vhd", 3584, &[0; 512]);
    place.make("fill -b -n a.vhd");
    assert_eq!(place.ask("read -n a.vhd -e 0 -c 16384"), "0 16384\n");
    assert!(disk(&place, "a.vhd").iter().all(|byte| *byte == 0));
}

#[test]
fn a_device_shows_nothing_of_what_it_held_before() {
    let test = "a_device_shows_nothing_of_what_it_held_before";
    let place = Place::new();
    place.write("disk", &vec![0x55; 12 << 20]);
    let Some(device) = LoopDevice::attach(test, &place.path("disk")) else { return };
    let name = device.path().to_str().unwrap();
    place.make(&format!("create -n {name} -s 8"));
    place.make(&format!("fill -b -n {name} -f 0 -t 5000"));
    assert_eq!(place.ask(&format!("query -n {name} -a")), "2\n");
    assert!(disk(&place, name).iter().all(|byte| *byte == 0));
    let image = place.read("disk");
    assert_eq!(image[..512], image[image.len() - 512..]);
}

#[test]
fn no_room_loses_nothing() {
    let test = "no_room_loses_nothing";
    let place = Place::new();
    chain(&place);
    let before = disk(&place, "c.vhd");
    let mut bytes = place.read("c.vhd");
    let footer = bytes.split_off(bytes.len() - 512);
    bytes.resize((7 << 20) - 512, 0x55);
    bytes.extend(footer);
    place.write("volume", &bytes);
    let Some(device) = LoopDevice::attach(test, &place.path("volume")) else { return };
    let name = device.path().to_str().unwrap();
    // The link to the parent leads on from the directory of the device.
    place.make(&format!("modify -n {name} -p p.vhd"));
    for letters in ["", "-b"] {
        let (status, stdout, _) = place.fail(&format!("fill -n {name} {letters}"));
        assert_eq!((status, stdout.as_str()), (28, ""));
        assert!(disk(&place, name) == before);
        assert_eq!(place.run(&format!("check -n {name} -p")).status, 0);
    }
}

#[test]
fn what_cannot_be_filled_stays_as_it_is() {
    let place = Place::new();
    place.make("create -n a.vhd -s 8");
    place.make("create -n f.vhd -s 2 -r");
    let everything = place.everything();
    place.make("fill -n f.vhd");
    for (line, status) in [
        ("-b -f 16384 -n a.vhd", 34),
        ("-b -t 16384 -n a.vhd", 34),
        ("-b -f 2 -t 1 -n a.vhd", 22),
        ("-b -f -1 -n a.vhd", 34),
    ] {
        assert_eq!(place.fail(&format!("fill {line}")).0, status, "{line}");
    }
    let (status, stdout, _) = place.fail("fill -n none.vhd");
    assert_eq!((status, stdout.as_str()), (2, "error opening none.vhd: -2\n"));
    let writer = File::open(place.path("a.vhd")).unwrap();
    flock(&writer, FlockOperation::NonBlockingLockExclusive).unwrap();
    assert_eq!(place.fail("fill -n a.vhd").0, 16);
    assert!(place.everything() == everything);
}
