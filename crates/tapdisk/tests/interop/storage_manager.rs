//! What storage managers do to images under a paused disk: the steps of XenServer's and XCP-ng's, in their order and
//! with their words, while a client stays connected.

use std::{
    fs::{self, File},
    os::unix::fs::{FileExt, symlink},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use test_support::LoopDevice;

use crate::{
    plain_reader,
    served::{Host, Served, assert_same},
};

const MEBIBYTE: u64 = 1 << 20;
/// Volumes grow and shrink by extents.
const EXTENT: u64 = 4 * MEBIBYTE;

fn td_util(host: &Host, line: &str) -> String {
    host.ours("td-util", &line.split_whitespace().collect::<Vec<_>>())
}

/// The base of both images is the one that was the leaf, under a name of its own.
fn snapshot_twice(host: &Host, base: &str, clone: &str) {
    fs::hard_link(host.path("leaf.vhd"), host.path(base)).unwrap();
    td_util(host, &format!("snapshot vhd leaf.new {base}"));
    fs::rename(host.path("leaf.new"), host.path("leaf.vhd")).unwrap();
    td_util(host, &format!("snapshot vhd {clone} {base}"));
    host.vhd_util(&format!("set --debug -n {base} -f hidden -v 1"));
}

fn parent_line(host: &Host, parent: &str) -> String {
    format!("{}\n", host.path(parent).display())
}

#[test]
fn a_file_is_snapshotted_twice_in_one_pause() {
    let host = Host::new();
    host.vhd_util("create --debug -n leaf.vhd -s 16");
    let disk = host.serve(&host.image("vhd", "leaf.vhd"));
    disk.io(&["write -P 1 0 4M"]);
    disk.tap_ctl("pause");
    snapshot_twice(&host, "base.vhd", "clone.vhd");
    for child in ["leaf.vhd", "clone.vhd"] {
        assert_eq!(td_util(&host, &format!("query vhd -p {child}")), parent_line(&host, "base.vhd"));
    }
    disk.resume(&host.image("vhd", "leaf.vhd"));
    disk.io(&["read -P 1 0 4M", "write -P 2 1M 1M"]);

    // The footer at the end moves under who asks now; the one at the start does not.
    let answer = format!("16\n{}hidden: 0\n", parent_line(&host, "base.vhd"));
    assert_eq!(td_util(&host, "query vhd -vpfb leaf.vhd"), answer);
    let served = disk.contents();
    disk.close();
    assert_same(&plain_reader::contents(&host.path("leaf.vhd")), &served, "the leaf");
    let clone = plain_reader::contents(&host.path("clone.vhd"));
    assert!(clone[..4 << 20].iter().all(|byte| *byte == 1), "the clone is as the disk was then");
    host.place.assert_nothing_left();
}

#[test]
fn the_snapshot_of_a_leaf_without_data_goes_to_its_parent() {
    let host = Host::new();
    host.vhd_util("create --debug -n leaf.vhd -s 16");
    let disk = host.serve(&host.image("vhd", "leaf.vhd"));
    disk.io(&["write -P 1 0 4M"]);
    disk.tap_ctl("pause");
    snapshot_twice(&host, "first.vhd", "clone1.vhd");
    disk.resume(&host.image("vhd", "leaf.vhd"));

    disk.tap_ctl("pause");
    snapshot_twice(&host, "second.vhd", "clone2.vhd");
    for child in ["leaf.vhd", "clone2.vhd"] {
        assert_eq!(td_util(&host, &format!("query vhd -p {child}")), parent_line(&host, "first.vhd"));
    }
    // Nobody needs it, so it goes.
    fs::remove_file(host.path("second.vhd")).unwrap();
    disk.resume(&host.image("vhd", "leaf.vhd"));
    disk.io(&["read -P 1 0 4M", "write -P 3 0 4k", "read -P 3 0 4k"]);
    disk.close();
    host.place.assert_nothing_left();
}

#[test]
fn a_leaf_is_coalesced_into_its_parent_in_one_pause() {
    let host = Host::new();
    host.vhd_util("create --debug -n base.vhd -s 16");
    let disk = host.serve(&host.image("vhd", "base.vhd"));
    disk.io(&["write -P 1 0 6M"]);
    disk.close();
    host.vhd_util("snapshot --debug -n leaf.vhd -p base.vhd");
    host.vhd_util("set --debug -n base.vhd -f hidden -v 1");
    let disk = host.serve(&host.image("vhd", "leaf.vhd"));
    disk.io(&["write -P 2 1M 64k", "write -P 3 9M 1M"]);
    let before = disk.contents();

    disk.tap_ctl("pause");
    host.vhd_util("set --debug -n base.vhd -f hidden -v 0");
    host.vhd_util("check --debug -n base.vhd -B");
    host.vhd_util("check --debug -n leaf.vhd -B");
    assert_eq!(host.vhd_util("coalesce --debug -n leaf.vhd"), "Coalesced 2176 sectors");
    host.vhd_util("check --debug -n base.vhd -B");
    fs::rename(host.path("leaf.vhd"), host.path("OLD_leaf.vhd")).unwrap();
    fs::rename(host.path("base.vhd"), host.path("leaf.vhd")).unwrap();
    disk.resume(&host.image("vhd", "leaf.vhd"));
    fs::remove_file(host.path("OLD_leaf.vhd")).unwrap();

    assert_same(&disk.contents(), &before, "coalesced");
    disk.io(&["write -P 4 12M 64k", "read -P 4 12M 64k"]);
    assert_eq!(host.vhd_util("query -n leaf.vhd -d"), "chain depth: 1\n");
    disk.close();
    host.place.assert_nothing_left();
}

/// What goes into its parent is hidden from the leaf by nothing but itself; who reads through it sees no difference, before,
/// meanwhile, and when the leaf has another parent.
#[test]
fn a_middle_goes_into_its_parent_while_its_leaf_is_served() {
    let host = Host::new();
    host.vhd_util("create --debug -n base.vhd -s 16");
    let disk = host.serve(&host.image("vhd", "base.vhd"));
    disk.io(&["write -P 1 0 6M"]);
    disk.close();
    host.vhd_util("snapshot --debug -e -n middle.vhd -p base.vhd");
    let disk = host.serve(&host.image("vhd", "middle.vhd"));
    disk.io(&["write -P 2 1M 1M", "write -P 2 8M 2M", "write -P 3 12M 64k"]);
    disk.close();
    host.vhd_util("snapshot --debug -e -n leaf.vhd -p middle.vhd");
    host.vhd_util("set --debug -n middle.vhd -f hidden -v 1");
    let disk = host.serve(&host.image("vhd", "leaf.vhd"));
    disk.io(&["write -P 4 2M 64k", "write -P 5 14M 64k"]);
    let before = disk.contents();

    host.vhd_util("check --debug -n middle.vhd");
    host.vhd_util("check --debug -n base.vhd -B");
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let client = scope.spawn(|| {
            let lines =
                ["read -P 1 0 1M", "read -P 2 1M 1M", "read -P 2 8M 2M", "read -P 4 2M 64k", "write -P 5 14M 64k"];
            // Once more when it is over.
            let mut was_over = false;
            while !was_over {
                was_over = is_over.load(Ordering::SeqCst);
                disk.io(&lines);
            }
        });
        // Also into what the first one has left.
        for _ in 0..3 {
            assert_eq!(host.vhd_util("coalesce --debug -n middle.vhd"), "Coalesced 6272 sectors");
        }
        is_over.store(true, Ordering::SeqCst);
        client.join().unwrap();
    });
    assert_same(&disk.contents(), &before, "coalesced");

    // The leaf that is served gets its new parent; the tapdisk looks when it goes on.
    host.vhd_util("check --debug -n base.vhd -B");
    host.vhd_util("modify --debug -p base.vhd -n leaf.vhd");
    disk.tap_ctl("pause");
    disk.resume(&host.image("vhd", "leaf.vhd"));
    fs::remove_file(host.path("middle.vhd")).unwrap();
    assert_same(&disk.contents(), &before, "without the middle");
    disk.io(&["write -P 6 9M 64k", "read -P 6 9M 64k", "read -P 2 8M 1M"]);
    disk.close();
    assert_eq!(host.vhd_util("check -p -n leaf.vhd").lines().count(), 2);
    host.place.assert_nothing_left();
}

/// A logical volume: a device with a name that can be given to another.
struct Volume {
    device: LoopDevice,
    backing: std::path::PathBuf,
}

impl Volume {
    fn new(host: &Host, test: &str, name: &str, number: u32, bytes: u64) -> Option<Volume> {
        let backing = host.path(&format!("volume{number}"));
        File::create(&backing).unwrap().set_len(bytes).unwrap();
        let device = LoopDevice::attach(test, &backing)?;
        symlink(device.path(), host.path(name)).unwrap();
        Some(Volume { device, backing })
    }

    fn resize(&self, bytes: u64) {
        File::options().write(true).open(&self.backing).unwrap().set_len(bytes).unwrap();
        self.device.take_size_of_file();
    }

    /// The image gets all the room that its volume will have.
    fn inflate(&self, host: &Host, name: &str, bytes: u64) {
        self.resize(bytes);
        File::options().write(true).open(self.device.path()).unwrap().write_all_at(&[0; 512], bytes - 512).unwrap();
        host.vhd_util(&format!("modify --debug -s {bytes} -n {name}"));
    }

    /// The volume keeps what its image needs, in whole extents.
    fn deflate(&self, host: &Host, name: &str) -> u64 {
        let needed: u64 = host.vhd_util(&format!("query --debug -s -n {name}")).trim().parse().unwrap();
        let bytes = needed.next_multiple_of(EXTENT);
        host.vhd_util(&format!("modify --debug -s {bytes} -n {name}"));
        self.resize(bytes);
        bytes
    }

    /// The same volume, and nobody can write to it.
    fn made_read_only(self, host: &Host, test: &str, name: &str) -> Option<Volume> {
        let Volume { device, backing } = self;
        drop(device);
        // Not `blockdev --setro`, which a loop device keeps for its next file.
        let device = LoopDevice::attach_with(test, &backing, &["--read-only"])?;
        fs::remove_file(host.path(name)).unwrap();
        symlink(device.path(), host.path(name)).unwrap();
        Some(Volume { device, backing })
    }
}

fn writes_and_reads(disk: &Served<'_>, byte: u8, place: &str) {
    disk.io(&[format!("write -P {byte} {place}"), format!("read -P {byte} {place}")]);
}

#[test]
fn a_volume_is_snapshotted_shrunk_and_grown_under_a_disk() {
    let test = "storage_manager::a_volume_is_snapshotted_shrunk_and_grown_under_a_disk";
    let host = Host::new();
    let Some(base) = Volume::new(&host, test, "leaf", 1, 48 * MEBIBYTE) else { return };
    host.vhd_util("create --debug -n leaf -s 32 -S 2097152");
    let disk = host.serve(&host.image("vhd", "leaf"));
    writes_and_reads(&disk, 1, "0 5M");
    disk.tap_ctl("pause");

    // The leaf becomes the base under a name of its own, no larger than it must be; the old name gets another device.
    fs::rename(host.path("leaf"), host.path("base")).unwrap();
    assert!(base.deflate(&host, "base") < 48 * MEBIBYTE);
    let Some(leaf) = Volume::new(&host, test, "leaf", 2, 3 * EXTENT) else { return };
    host.vhd_util("snapshot --debug -S 2097152 -n leaf -p base");
    assert!(same_file(host.vhd_util("query --debug -p -n leaf").trim(), base.device.path()));
    host.vhd_util("set --debug -n base -f hidden -v 1");
    let Some(_base) = base.made_read_only(&host, test, "base") else { return };
    disk.resume(&host.image("vhd", "leaf"));
    disk.io(&["read -P 1 0 5M"]);
    writes_and_reads(&disk, 2, "1M 64k");

    // It has no room for much more until it gets some.
    disk.tap_ctl("pause");
    leaf.inflate(&host, "leaf", 10 * EXTENT);
    disk.resume(&host.image("vhd", "leaf"));
    writes_and_reads(&disk, 3, "8M 20M");
    let served = disk.contents();
    disk.close();

    let bytes = leaf.deflate(&host, "leaf");
    host.vhd_util("check --debug -n leaf");
    assert!((24 * MEBIBYTE..10 * EXTENT).contains(&bytes), "{bytes}");
    let disk = host.serve(&host.image("vhd", "leaf"));
    assert_same(&disk.contents(), &served, "after all");
    disk.close();
    host.place.assert_nothing_left();
}

fn same_file(one: impl AsRef<Path>, other: &Path) -> bool {
    fs::canonicalize(one).unwrap() == fs::canonicalize(other).unwrap()
}
