//! Images on file systems that are full, that may only be read, or that have the names of volumes: in mount namespaces of
//! their own.

use std::{
    fs,
    io::Read,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use rustix::fs::statvfs;
use test_support::{require_root, require_tool, skip, target_program};

use super::{
    disks::{disk, give},
    place::{Ended, Place},
};

/// Sectors of a block.
const SPB: usize = 4096;
const MIB: u64 = 1 << 20;

/// A process whose mounts nobody else sees. They go with it.
struct Mounts {
    holder: Child,
}

impl Mounts {
    /// With this done first; it is told if that cannot be.
    fn new(test: &str, script: &str) -> Option<Mounts> {
        if !require_root(test) {
            return None;
        }
        let mut command = Command::new(require_tool("unshare"));
        // It ends when nobody holds the other end of its input.
        let script = format!("{script} && echo ready && read end");
        command.args(["--mount", "--propagation", "private", "sh", "-c", &script]);
        let mut holder = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut said = [0; 6];
        if holder.stdout.as_mut().unwrap().read_exact(&mut said).is_err() {
            skip(test, "no mounts of its own");
            holder.wait().unwrap();
            return None;
        }
        Some(Mounts { holder })
    }

    /// A path as these mounts show it.
    fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.holder.id()))
    }

    /// Runs a program among these mounts.
    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(require_tool("nsenter"));
        command.args(["--mount", "--target", &self.holder.id().to_string()]).arg(program);
        command
    }

    fn vhd_util(&self, line: &str) -> Ended {
        self.command(target_program("vhd-util")).args(line.split_whitespace()).output().unwrap().into()
    }

    /// What must work; what it says.
    fn ask(&self, line: &str) -> String {
        let ended = self.vhd_util(line);
        assert_eq!((ended.status, ended.stderr.as_str()), (0, ""), "{line}");
        ended.stdout
    }

    fn sh(&self, script: &str) {
        let done = self.command("sh").args(["-c", script]).output().unwrap();
        assert!(done.status.success(), "{script}: {}", String::from_utf8_lossy(&done.stderr));
    }
}

impl Drop for Mounts {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// A base, a middle with three blocks of its own, and a leaf; on a file system of `mib`, mounted on itself.
fn chain(test: &str, mib: u64) -> Option<(Place, Mounts, String)> {
    let place = Place::new();
    place.make("create -n base.vhd -s 16");
    give(&place, "base.vhd", &[(0, SPB, 1), (SPB, 9, 2)]);
    place.make("snapshot -e -n mid.vhd -p base.vhd");
    give(&place, "mid.vhd", &[(3, 2, 4), (2 * SPB, SPB, 6), (4 * SPB, SPB, 7), (6 * SPB, SPB, 5)]);
    place.make("snapshot -e -n leaf.vhd -p mid.vhd");
    give(&place, "leaf.vhd", &[(4, 1, 8)]);
    let directory = place.path("small").display().to_string();
    fs::create_dir(&directory).unwrap();
    let images = place.path("").display().to_string();
    let script = format!("mount -t tmpfs -o size={mib}m none {directory} && cp {images}/*.vhd {directory}");
    let mounts = Mounts::new(test, &script)?;
    Some((place, mounts, directory))
}

/// Brings the images back to where they can be looked at.
fn fetch(place: &Place, mounts: &Mounts, directory: &str) {
    for name in ["base.vhd", "mid.vhd", "leaf.vhd"] {
        place.write(name, &fs::read(mounts.path(&format!("{directory}/{name}"))).unwrap());
    }
}

#[test]
fn a_coalesce_without_room_loses_nothing_and_goes_on_when_there_is_some() {
    // Room for the images, and for one block more.
    let Some((place, mounts, small)) = chain("mounts::a_coalesce_without_room", 18) else { return };
    let before = disk(&place, &["leaf.vhd", "mid.vhd", "base.vhd"]);
    let merged = disk(&place, &["mid.vhd", "base.vhd"]);
    let ended = mounts.vhd_util(&format!("coalesce -n {small}/mid.vhd"));
    assert_eq!((ended.status, ended.stdout.as_str()), (28, "error coalescing: -28\n"));
    assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
    mounts.ask(&format!("check -n {small}/base.vhd"));
    fetch(&place, &mounts, &small);
    assert!(disk(&place, &["leaf.vhd", "mid.vhd", "base.vhd"]) == before);
    mounts.sh(&format!("mount -o remount,size=64m {small}"));
    let held = 2 + 3 * SPB;
    assert_eq!(mounts.ask(&format!("coalesce -n {small}/mid.vhd")), format!("Coalesced {held} sectors"));
    mounts.ask(&format!("check -p -n {small}/leaf.vhd"));
    fetch(&place, &mounts, &small);
    assert!(disk(&place, &["leaf.vhd", "mid.vhd", "base.vhd"]) == before);
    assert!(disk(&place, &["base.vhd"]) == merged);
}

#[test]
fn a_resize_without_room_is_reverted_and_done_when_there_is_some() {
    let Some((place, mounts, small)) = chain("mounts::a_resize_without_room", 17) else { return };
    let before = disk(&place, &["base.vhd"]);
    let resize = |journal: &str| mounts.vhd_util(&format!("resize -n {small}/base.vhd -s 4000 -j {journal}"));
    // Neither for the journal, which holds a block, ...
    mounts.sh(&format!("head -c 1M /dev/zero > {small}/ballast"));
    let ended = resize(&format!("{small}/j"));
    assert_eq!((ended.status, ended.stdout.as_str()), (28, "creating journal failed: -28\n"));
    assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
    assert!(!mounts.path(&format!("{small}/j")).exists());
    mounts.ask(&format!("check -n {small}/base.vhd"));
    // ... nor, with the journal elsewhere, for the block that has to move.
    let journal = place.path("j").display().to_string();
    let ended = resize(&journal);
    assert_eq!((ended.status, ended.stdout.as_str()), (28, "resize failed: -28\n"));
    assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
    assert_eq!(mounts.ask(&format!("revert -n {small}/base.vhd -j {journal}")), "");
    mounts.ask(&format!("check -n {small}/base.vhd"));
    fetch(&place, &mounts, &small);
    assert!(disk(&place, &["base.vhd"]) == before);
    mounts.sh(&format!("mount -o remount,size=64m {small}"));
    assert_eq!(resize(&journal), Ended { status: 0, stdout: String::new(), stderr: String::new() });
    assert_eq!(mounts.ask(&format!("query -v -n {small}/base.vhd")), "4000\n");
    mounts.ask(&format!("check -b -n {small}/base.vhd"));
    fetch(&place, &mounts, &small);
    assert!(disk(&place, &["base.vhd"])[..before.len()] == before);
}

#[test]
fn on_a_file_system_that_may_only_be_read_nothing_changes_and_all_say_so() {
    let Some((place, mounts, small)) = chain("mounts::a_file_system_to_read", 40) else { return };
    mounts.sh(&format!("mount -o remount,ro {small}"));
    let lines = [
        ("coalesce -n @mid.vhd", "error coalescing: -30\n"),
        ("resize -n @base.vhd -s 4000 -j @j", "error opening @base.vhd: -30\n"),
        ("resize -n @base.vhd -s 16 -f", "error opening @base.vhd: -30\n"),
        ("set -n @base.vhd -f hidden -v 1", "error opening @base.vhd: -30\n"),
        ("set -n @base.vhd -f marker -v 1", "error opening @base.vhd: -30\n"),
        ("repair -n @base.vhd", "error opening @base.vhd: -30\n"),
        ("fill -n @base.vhd", "error opening @base.vhd: -30\n"),
        ("modify -n @mid.vhd -p @base.vhd", "error opening @mid.vhd: -30\n"),
        ("modify -n @mid.vhd -z", "error opening @mid.vhd: -30\n"),
        ("snapshot -n @new.vhd -p @leaf.vhd", ""),
        ("revert -n @base.vhd -j @j", "error opening @base.vhd: -30\n"),
    ];
    let here = |words: &str| words.replace('@', &format!("{small}/"));
    for (line, told) in lines {
        let ended = mounts.vhd_util(&here(line));
        assert_eq!((ended.status, ended.stdout), (30, here(told)), "{line}: {}", ended.stderr);
        assert_eq!(ended.stderr.lines().count(), 1, "{line}: {}", ended.stderr);
    }
    // What only reads does so.
    assert_eq!(mounts.ask(&here("check -p -n @leaf.vhd")).lines().count(), 3);
    assert_eq!(mounts.ask(&here("query -f -n @base.vhd")), "hidden: 0\n");
    for name in ["base.vhd", "mid.vhd", "leaf.vhd"] {
        assert!(fs::read(mounts.path(&here(&format!("@{name}")))).unwrap() == place.read(name), "{name}");
    }
}

/// Links of volumes lead to numbers that change; their names in `/dev/mapper` stay, and children go by these.
#[test]
fn parents_on_volumes_have_the_names_of_the_device_mapper() {
    let script = "mount -t tmpfs none /dev && mkdir /dev/mapper /dev/VG-1 && cd /dev \
                  && for volume in base leaf 'my-lv'; do : > dm-$volume; ln -s ../dm-$volume VG-1/$volume; done \
                  && ln -s ../dm-base mapper/VG--1-base && ln -s ../dm-leaf mapper/VG--1-leaf \
                  && ln -s ../dm-my-lv mapper/VG--1-my--lv && exec 2> /dev/errors";
    let Some(mounts) = Mounts::new("mounts::parents_on_volumes", script) else { return };
    mounts.ask("create -n /dev/VG-1/base -s 8");
    mounts.ask("snapshot -n /dev/VG-1/my-lv -p /dev/VG-1/base -e");
    mounts.ask("snapshot -n /dev/mapper/VG--1-leaf -p /dev/mapper/VG--1-my--lv -e");
    let parent = |image: &str| mounts.ask(&format!("query -p -n {image}"));
    for image in ["/dev/VG-1/my-lv", "/dev/mapper/VG--1-my--lv"] {
        assert_eq!(parent(image), "/dev/mapper/VG--1-base\n");
    }
    assert_eq!(parent("/dev/VG-1/leaf"), "/dev/mapper/VG--1-my--lv\n");
    assert_eq!(mounts.ask("query -d -n /dev/VG-1/leaf"), "chain depth: 3\n");
    // What storage managers take the name of the volume from.
    let headers = mounts.ask("read -p -n /dev/VG-1/leaf");
    assert!(headers.contains("decoded name : ./VG--1-my--lv"), "{headers}");
    assert!(headers.contains("Parent name         : VG--1-my--lv"), "{headers}");
    let scanned = mounts.ask("scan -f -m /dev/mapper/VG*");
    let lines: Vec<&str> = scanned.lines().collect();
    assert_eq!(lines.len(), 3, "{scanned}");
    let line = lines.iter().find(|line| line.starts_with("vhd=VG--1-leaf ")).unwrap();
    assert!(line.contains(" capacity=8388608 ") && line.ends_with(" hidden=0 parent=VG--1-my--lv"), "{line}");
    // The number of a volume changes, and nothing else.
    mounts.sh("cd /dev && mv dm-my-lv dm-7 && ln -sf ../dm-7 mapper/VG--1-my--lv && ln -sf ../dm-7 VG-1/my-lv");
    assert_eq!(parent("/dev/VG-1/leaf"), "/dev/mapper/VG--1-my--lv\n");
    assert_eq!(mounts.ask("check -p -n /dev/VG-1/leaf").lines().count(), 3);
    // Another parent, by the name of its link.
    mounts.ask("modify -n /dev/VG-1/leaf -p /dev/VG-1/base");
    assert_eq!(parent("/dev/VG-1/leaf"), "/dev/mapper/VG--1-base\n");
    assert!(fs::metadata(mounts.path("/dev/dm-7")).unwrap().len() < MIB);
}

/// A file system that can share blocks between files, made once by its own tools: nobody here has to have these.
const XFS: &[u8] = include_bytes!("reflink.xfs.zst");

#[test]
fn a_coalesce_takes_no_room_where_files_can_share_blocks() {
    let test = "mounts::a_coalesce_takes_no_room";
    let place = Place::new();
    place.write("xfs.zst", XFS);
    let unpacked = place.command(require_tool("zstd")).args(["-q", "-d", "xfs.zst", "-o", "xfs"]).status().unwrap();
    assert!(unpacked.success());
    place.make("create -n base.vhd -s 16");
    give(&place, "base.vhd", &[(SPB, SPB, 1)]);
    place.make("snapshot -e -n child.vhd -p base.vhd");
    give(&place, "child.vhd", &[(0, SPB, 2), (2 * SPB, SPB, 3), (4 * SPB, SPB, 4), (6 * SPB, SPB, 5), (SPB + 9, 1, 6)]);
    let expected = disk(&place, &["child.vhd", "base.vhd"]);
    let (small, images) = (place.path("small").display().to_string(), place.path("").display().to_string());
    fs::create_dir(&small).unwrap();
    let script = format!("mount -o loop {images}/xfs {small} && cp {images}/*.vhd {small} && sync -f {small}");
    let Some(mounts) = Mounts::new(test, &script) else { return };
    let room = || {
        mounts.sh(&format!("sync -f {small}"));
        let numbers = statvfs(mounts.path(&small)).unwrap();
        numbers.f_bfree * numbers.f_frsize
    };
    let before = room();
    let held = 4 * SPB + 1;
    assert_eq!(mounts.ask(&format!("coalesce -n {small}/child.vhd")), format!("Coalesced {held} sectors"));
    let taken = before.saturating_sub(room());
    assert!(taken < MIB, "{taken} bytes for four blocks that others have already");
    mounts.ask(&format!("check -b -n {small}/base.vhd"));
    for name in ["base.vhd", "child.vhd"] {
        place.write(name, &fs::read(mounts.path(&format!("{small}/{name}"))).unwrap());
    }
    assert!(disk(&place, &["base.vhd"]) == expected);
    // What is shared is nobody else's: a change of one shows in no other.
    mounts.ask(&format!("fill -n {small}/child.vhd -b -f 0 -t 1"));
    mounts.sh(&format!("dd if=/dev/urandom of={small}/child.vhd bs=1M seek=2 count=4 conv=notrunc status=none"));
    assert!(fs::read(mounts.path(&format!("{small}/base.vhd"))).unwrap() == place.read("base.vhd"));
}
