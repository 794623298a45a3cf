//! Images after a writer that could not close them.

use test_support::{LoopDevice, require_tool};

use super::place::{FOOTER_SUM, Place, change_footers, fill_blocks, summed};

/// An image with three blocks, one of them whole by its bitmap only, and a batmap that knows of none.
fn image(place: &Place) -> Vec<u8> {
    place.make("create -n a.vhd -s 64");
    fill_blocks(place, "a.vhd", 3, 9);
    // The bitmap of the second block lacks a sector.
    let entry = u32::from_be_bytes(place.read("a.vhd")[1540..1544].try_into().unwrap());
    place.patch("a.vhd", u64::from(entry) * 512, &[0x7f]);
    place.read("a.vhd")
}

#[test]
fn what_is_right_is_not_touched() {
    let place = Place::new();
    let before = image(&place);
    place.make("repair -n a.vhd");
    assert_eq!(place.read("a.vhd"), before);
    place.make("repair -n a.vhd -b");
    assert_eq!(place.read("a.vhd"), before);
}

#[test]
fn a_lost_footer_comes_back_behind_the_last_block() {
    let place = Place::new();
    let before = image(&place);
    let end = before.len() as u64 - 512;
    // A writer that was killed leaves room that no table names, and no footer.
    let mut killed = before[..before.len() - 512].to_vec();
    killed.extend(vec![0xc7; 3 << 20]);
    for left in [killed, before[..before.len() - 512].to_vec(), [&before[..before.len() - 512], &[0xc7; 512]].concat()]
    {
        place.write("a.vhd", &left);
        place.make("repair -n a.vhd");
        assert!(place.read("a.vhd") == before, "{} bytes, the footer belongs at {end}", left.len());
    }
}

#[test]
fn a_lost_copy_comes_back_from_the_footer_at_the_end() {
    let place = Place::new();
    let before = image(&place);
    place.patch("a.vhd", 0, &[0; 512]);
    assert_eq!(place.run("repair -n a.vhd -b").status, 22);
    place.make("repair -n a.vhd");
    assert_eq!(place.read("a.vhd"), before);
}

#[test]
fn what_a_guest_has_written_is_never_taken_for_a_footer() {
    let place = Place::new();
    let before = image(&place);
    // The last sector of the last block is a footer that says fixed, and the true one is lost.
    let mut forged = before[before.len() - 512..].to_vec();
    forged[16..24].fill(0xff);
    forged[60..64].copy_from_slice(&2_u32.to_be_bytes());
    let forged = summed(forged, FOOTER_SUM);
    let end = before.len() - 512;
    place.truncate("a.vhd", end as u64);
    place.patch("a.vhd", end as u64 - 512, &forged);
    let (status, stdout, stderr) = place.fail("repair -n a.vhd");
    assert_eq!((status, stdout.as_str()), (22, "error opening a.vhd: -22\n"));
    assert!(stderr.contains("one of them is forged"), "{stderr}");
    place.make("repair -n a.vhd -b");
    let after = place.read("a.vhd");
    assert!(after[..end - 512] == before[..end - 512] && after[end - 512..end] == forged);
    assert_eq!(after[end..], before[..512], "the footer is that of the start");
}

#[test]
fn an_image_without_an_identity_gets_one() {
    let place = Place::new();
    image(&place);
    change_footers(&place, "a.vhd", |footer| footer[68..84].fill(0));
    place.make("repair -n a.vhd");
    let after = place.read("a.vhd");
    assert_ne!(after[68..84], [0; 16]);
    assert_eq!(after[..512], after[after.len() - 512..]);
}

#[test]
fn a_batmap_that_nobody_believes_says_again_which_blocks_are_whole() {
    let place = Place::new();
    let before = image(&place);
    place.make("set -n a.vhd -f marker -v 7");
    let marked = place.read("a.vhd");
    // As the C program's `set` leaves it: the map is gone, its sum is not. And one whose header is gone as well.
    let mut wiped = marked.clone();
    wiped[2560..2568].fill(0x55);
    let mut lost = marked.clone();
    lost[2048..2560].fill(0);
    for (damaged, marker) in [(wiped, 7), (lost, 0)] {
        place.write("a.vhd", &damaged);
        place.make("repair -n a.vhd");
        let after = place.read("a.vhd");
        assert_eq!(after[2560..2564], [0b1010_0000, 0, 0, 0]);
        assert_eq!(place.ask("query -n a.vhd -m"), format!("marker: {marker}\n"));
        assert!(after[3072..] == before[3072..] && after[..2048] == before[..2048]);
        place.make("repair -n a.vhd");
        assert_eq!(place.read("a.vhd"), after);
    }
}

#[test]
fn a_fixed_image_has_one_footer() {
    let place = Place::new();
    place.make("create -n a.vhd -s 2 -r");
    let before = place.read("a.vhd");
    place.make("repair -n a.vhd");
    assert_eq!(place.read("a.vhd"), before);
    place.truncate("a.vhd", 2 << 20);
    assert_eq!(place.fail("repair -n a.vhd").0, 22);
    assert_eq!(place.read("a.vhd"), before[..2 << 20]);
}

/// The footer goes into the last sector and nowhere else, also when that is another sector than before.
#[test]
fn on_a_device_that_has_grown_the_footer_is_in_the_last_sector() {
    let test = "on_a_device_that_has_grown_the_footer_is_in_the_last_sector";
    let place = Place::new();
    place.write("disk", &vec![0x55; 8 << 20]);
    let Some(device) = LoopDevice::attach(test, &place.path("disk")) else { return };
    let name = device.path().to_str().unwrap().to_owned();
    place.make(&format!("create -n {name} -s 64"));
    place.make(&format!("repair -n {name}"));
    drop(device);
    let mut larger = place.read("disk");
    larger.extend(vec![0xaa; 4 << 20]);
    place.write("disk", &larger);
    let Some(device) = LoopDevice::attach(test, &place.path("disk")) else { return };
    let name = device.path().to_str().unwrap();
    place.make(&format!("repair -n {name}"));
    let after = place.read("disk");
    let last = after.len() - 512;
    assert!(after[..last] == larger[..last], "nothing else is written");
    assert_eq!(after[last..], after[..512]);
}

#[test]
fn an_image_that_somebody_writes_is_left_alone() {
    use rustix::fs::{FlockOperation, flock};
    let place = Place::new();
    let before = image(&place);
    let writer = std::fs::File::open(place.path("a.vhd")).unwrap();
    flock(&writer, FlockOperation::NonBlockingLockExclusive).unwrap();
    let (status, stdout, _) = place.fail("repair -n a.vhd");
    assert_eq!((status, stdout.as_str()), (16, "error opening a.vhd: -16\n"));
    assert_eq!(place.read("a.vhd"), before);
}

/// qemu knows of no batmaps, and puts the first block of an empty image where ours is.
#[test]
fn an_image_that_qemu_has_filled_gets_its_batmap_back() {
    let place = Place::new();
    let qemu = |command: &str| {
        let done = place.command(require_tool("qemu-io")).args(["-f", "vpc", "-c", command, "a.vhd"]).output().unwrap();
        let told = String::from_utf8_lossy(&done.stdout).into_owned();
        assert!(done.status.success() && !told.contains("failed"), "{command}: {told}");
    };
    place.make("create -n a.vhd -s 16");
    qemu("write -P 7 0 6M");
    let checked = place.run("check -n a.vhd");
    assert_eq!((checked.status, checked.stdout.as_str()), (0, "a.vhd is valid\n"));
    assert!(checked.stderr.contains("`repair` makes it anew"), "{}", checked.stderr);

    // Without a batmap it is an image all the same.
    let before = place.read("a.vhd");
    place.make("snapshot -n b.vhd -p a.vhd");
    place.make("resize -n a.vhd -s 32 -j journal");
    qemu("read -P 7 0 6M");
    place.write("a.vhd", &before);

    place.make("repair -n a.vhd");
    qemu("read -P 7 0 6M");
    let checked = place.run("check -n a.vhd");
    assert_eq!((checked.status, checked.stderr.as_str()), (0, ""));
    // From now on qemu leaves the batmap alone.
    qemu("write -P 8 8M 2M");
    assert_eq!(place.run("check -n a.vhd").status, 0);
    qemu("read -P 7 0 6M");
}
